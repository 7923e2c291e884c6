"""What is away: the pages stay up, say first what is missing, and go on by themselves when it is back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from html import unescape
from pathlib import Path

import httpx
import pytest

from mqi_dagster.ledger import database
from mqi_dagster.lifecycle import health
from mqi_dagster.operations import board_reader
from mqi_dagster.operations.instance import open_instance, write_instance
from mqi_dagster.operations.people import add_user
from mqi_dagster.people.rights import Role
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import Host, Settings
from mqi_dagster.settings.hosts import Intervals
from mqi_dagster.store import known_folders
from mqi_dagster.web import live
from mqi_dagster.worklist import worklist
from tests.cluster.slurm_cluster import running_cluster
from tests.postgres.postgres_server import Server, running_postgres
from tests.services.managed import ManagedStack
from tests.slurm.site_on_slurm import HOST, sections
from tests.waiting import wait_for
from tests.web.conftest import OWNER, PASSWORD
from tests.web.streams import Listener, served
from tests.worklist.seeded import Seeded

FIRST = re.compile(r'\s*<div class="banner failed" role="alert" id="away">(.*?)</div>', re.DOTALL)
CASE = "P000000001.fx0001"
SERVICES = ("code", "daemon", "watch", "web")
SECONDS = 400.0
"""As long as a busy machine needs for what is seen within half a minute on another one."""


def test_half_a_minute_is_enough_to_see_what_is_away() -> None:
    """The longest that each may take by the defaults: how often somebody looks, and waits for an answer."""
    settings = Settings.model_validate({"site": {"timezone": "UTC"}})
    jobs, host = Intervals.model_fields, Host.model_fields
    board, connect = live.EVERY_SECONDS, host["connect_seconds"].default
    looked = worklist._HEALTH_EVERY.total_seconds() + board
    longest = {
        "daemon, code location, inbox": looked,
        "an inbox that hangs": looked + 2 * known_folders._ANSWER_SECONDS,
        "a database that refuses": board_reader._PATIENCE_SECONDS + board,
        "a database that hangs": live.SILENT_SECONDS + live._WATCH_SECONDS,
        "its name, after that": live._WATCH_SECONDS + database.CONNECTION["connect_timeout"],
        "a cluster with running jobs": jobs["tail_seconds"].default + 2 * connect + board,
        "a cluster with waiting jobs": jobs["poll_maximum_seconds"].default + connect + board,
        "a cluster without jobs": health.tick_seconds("gpu_monitor", settings) + connect + board,
    }
    assert {name: seconds for name, seconds in longest.items() if seconds > 30} == {}


class Looking:
    """Somebody who has signed in once, and looks at pages that bring themselves up to date.

    Args:
        address: Of the pages.
        case: Whose page is among them.
    """

    def __init__(self, address: str, case: str) -> None:
        self._client = httpx.Client(base_url=address, timeout=60)
        answer = self._client.post("/login", data={"name": "vera", "password": PASSWORD})
        assert answer.status_code == 303, answer.text
        self._case = case
        cookies = dict(self._client.cookies)
        self._streams = [Listener(address, f"/stream{path}", cookies) for path in ("/worklist", "/board")]

    def close(self) -> None:
        """Go away."""
        for one in self._streams:
            one.close()
        self._client.close()

    def get(self, path: str) -> str:
        """A page, which is there and asks for no other sign-in."""
        answer = self._client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text

    def told(self) -> list[str]:
        """What stands first on worklist and board, loaded anew and pushed, where that is what is away."""
        self.get(f"/case/{self._case}")
        loaded = [self.get(path).partition("data-stream=")[2].partition(">")[2] for path in ("/", "/board")]
        found = [FIRST.match(part) for part in (*loaded, *(one.shown for one in self._streams))]
        return [" ".join(unescape(re.sub("<[^>]+>", "", one[1])).split()) if one else "" for one in found]

    def waits_for(self, words: str, meanwhile: Callable[[], object] = str) -> None:
        """Return once all of them say it first, or none says anything where there are no words.

        Args:
            words: Some of what is said.
            meanwhile: Called again and again.
        """
        said: list[str] = []

        def so() -> bool:
            meanwhile()
            said[:] = self.told()
            return all(words in one if words else not one for one in said)

        wait_for(so, words or "nothing is away", SECONDS, report=lambda: "\n".join(said))
        assert not any(one.ended for one in self._streams)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_postgres() as started:
        yield started


@pytest.fixture(scope="module")
def site(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManagedStack]:
    """A site with its services and its records on a server, and one case that is handed over."""
    made = ManagedStack(tmp_path_factory.mktemp("away"), {"database": server.section})
    try:
        for name in SERVICES:
            made.start_one(name)
        wait_for(lambda: answers(made), "the pages answer", SECONDS, report=made.report)
        people = Site(made.settings_file)
        add_user(people, OWNER, "vera", [Role.VIEWER], password=PASSWORD)
        people.ledger.close()
        made.wait_for_conclusion(made.case_of(made.deliver(seed=7, beams=1)), SECONDS)
        yield made
    finally:
        made.stop()


def answers(stack: ManagedStack) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{stack.web_port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def looking(site: ManagedStack) -> Iterator[Looking]:
    pages = site.units["web"]
    (case,) = site.markers()
    made = Looking(f"http://127.0.0.1:{site.web_port}", case)
    yield made
    made.close()
    assert site.units["web"] is pages and pages.poll() is None, "the pages were never started again"


def killed(name: str) -> Callable[[ManagedStack, Server], Callable[[], object]]:
    """A service of the site that is killed."""

    def away(site: ManagedStack, _: Server) -> Callable[[], object]:
        site.end_one(name)
        return lambda: site.start_one(name)

    return away


def database_away(_: ManagedStack, server: Server) -> Callable[[], object]:
    server.stop()
    return server.start


def unmounted_inbox(site: ManagedStack, _: Server) -> Callable[[], object]:
    share = site.inbox.rename(site.folder / "share")
    site.inbox.mkdir()

    def mounted() -> None:
        site.inbox.rmdir()
        share.rename(site.inbox)

    return mounted


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    ("away", "words"),
    [
        (killed("daemon"), "daemon away: Dagster's daemon does not run"),
        (killed("code"), "code away: the code location does not answer"),
        (unmounted_inbox, "inbox away: it is empty and another folder than before"),
        (database_away, "The site's records cannot be read:"),
    ],
    ids=["daemon", "code location", "inbox", "database"],
)
def test_the_pages_say_first_what_is_away_and_go_on_when_it_is_back(
    site: ManagedStack,
    server: Server,
    looking: Looking,
    away: Callable[[ManagedStack, Server], Callable[[], object]],
    words: str,
) -> None:
    looking.waits_for("")
    back = away(site, server)
    try:
        looking.waits_for(words)
    finally:
        back()
    looking.waits_for("")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_cluster_that_is_away_is_told_before_any_job_needs_it(tmp_path: Path) -> None:
    with running_cluster(accounting="none", message_timeout=4) as cluster:
        site = Seeded(tmp_path / "site", None, sections(cluster.connection(), tmp_path, "jobs"))
        executor = site.site.executor_on(HOST)
        assert executor is not None
        write_instance(site.site.settings)
        with open_instance(site.site.settings) as instance, site.served():
            site.instance = instance
            site.taken_in([CASE])
            site.site.ledger.database.clock = lambda: datetime.now(UTC)
            add_user(site.site, OWNER, "vera", [Role.VIEWER], password=PASSWORD)

            def meanwhile() -> None:
                # In place of the daemon, and of its sensor `gpu_monitor`.
                site.now = datetime.now(UTC)
                site.daemon_alive()
                executor.look()

            with served(site.site) as (address, _), closing(Looking(address, CASE)) as looking:
                looking.waits_for("", meanwhile)
                cluster.kill("sshd", sessions=True)
                looking.waits_for("cluster away: no answer since", meanwhile)
                cluster.start_one("sshd")
                looking.waits_for("", meanwhile)
        site.site.ledger.close()
