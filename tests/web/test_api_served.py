"""The interface of a real server: the examples of its page, the notebook, and a stream of changes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mqi_dagster.client import Client
from mqi_dagster.errors import SignInError
from mqi_dagster.operations.people import add_user, make_token, revoke_token
from mqi_dagster.people.rights import Right, Role
from mqi_dagster.resources.site import Site
from mqi_dagster.web.server import server_of
from tests.chain.chain import PLAN, Chain
from tests.waiting import wait_for
from tests.web.programs import OWNER
from tests.web.real_sites import chain_on_disk
from tests.worklist.seeded import Seeded

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


@contextmanager
def served(site: Site) -> Iterator[str]:
    """The address of a site's pages."""
    server = server_of(site, 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started, "the server listens")
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def token_of(site: Site, folder: Path) -> tuple[Path, str]:
    """A file with a token that may act, and its id."""
    if site.ledger.accounts.get("program") is None:
        add_user(site, OWNER, "program", [Role.PHYSICIST])
    made = make_token(site, OWNER, "program", "a test", tuple(Right), timedelta(days=1))
    file = folder / "token"
    file.touch(mode=0o600)
    file.write_text(made.secret + "\n")
    return file, made.token.id


@pytest.fixture(scope="module")
def concluded(tmp_path_factory: pytest.TempPathFactory, empty_instance: Path) -> Iterator[Chain]:
    """A site with a case of two beams that is concluded."""
    with chain_on_disk(tmp_path_factory.mktemp("concluded"), empty_instance) as chain:
        chain.deliver(plan=PLAN)
        chain.tick_sensors(rounds=3)
        yield chain


def test_the_notebook_shows_cases_beams_and_results_as_tables(
    concluded: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = json.loads((ROOT / "deploy" / "web" / "api.ipynb").read_text(encoding="utf-8"))
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    file, _ = token_of(concluded.site, tmp_path)
    monkeypatch.setenv("MQI_TOKEN_FILE", str(file))
    names: dict[str, Any] = {}
    with served(concluded.site) as address:
        monkeypatch.setenv("MQI_URL", address)
        for cell in cells:
            exec(compile(cell, "a cell", "exec"), names)
    (case,) = concluded.runs_of("conclusion")
    assert names["cases"]["state"].to_list() == ["complete"]
    assert names["beams"]["state"].to_list() == ["complete", "complete"]
    results: pl.DataFrame = names["results"].select(names["numbers"])
    assert (results["case"].to_list(), results["beam"].to_list()) == ([case, case], [2, 3])
    assert results["mu_ratio"].to_list() == pytest.approx([0.988, 0.988], abs=1e-3)
    assert results["r80_mm"].null_count() == 0
    assert "rt_dose" not in "".join(cells) and names["results"]["rt_dose"].null_count() == 2


def test_every_example_of_the_page_works(concluded: Chain, tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    asked = [line for line in lines if re.match(r"(ask|curl) ", line)]
    assert len(asked) == 11
    file, _ = token_of(concluded.site, tmp_path)
    (case,) = concluded.runs_of("conclusion")
    script = "set -euo pipefail\n" + "\n".join(lines)
    # A stream has no end, and of a case that has not failed there is nothing to retry.
    script = script.replace("--max-time 60", "--max-time 1")
    script = re.sub(r'^(ask .*(?:/events|/retry)")$', r"\1 || echo $?", script, flags=re.MULTILINE)
    with served(concluded.site) as address, Client(address, file.read_text().strip()) as program:
        wait_for(lambda: [one.state for one in program.cases()] == ["complete"], "the case is seen")
        (row,) = program.cases()
        assert row.machine
        assert list(program.cases(machine=[row.machine, "another"])) == [row]
        script = re.sub(r"^export MQI_URL=.*$", f"export MQI_URL={address}", script, flags=re.MULTILINE)
        script = re.sub(r"^export MQI_TOKEN_FILE=.*$", "", script, flags=re.MULTILINE)
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, check=False,
            env={**os.environ, "MQI_TOKEN_FILE": str(file), "CASE": case},
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout
    assert '"name":"program"' in told
    assert f'"case":"{case}"' in told and '"mu_ratio":' in told
    assert "304\n" in told
    assert "nothing to retry: nothing has failed" in told
    assert '"text":"priority 10; 0 of its runs are in the queue"' in told
    assert "event: beat" in told
    assert '"status":"ready"' in told and "# TYPE mqi_partitions gauge" in told


def test_changes_come_over_the_network_until_the_token_is_revoked(seeded: Seeded, tmp_path: Path) -> None:
    file, identity = token_of(seeded.site, tmp_path)
    with served(seeded.site) as address, Client(address, file.read_text().strip()) as program:
        assert program.case("P000000001.fx0001").state == "failed"
        found: list[tuple[str, str]] = []
        ended: list[type] = []

        def listen() -> None:
            try:
                for event in program.events():
                    if event.change is not None and event.change.state is not None:
                        found.append((event.change.partition, event.change.state.value))
            except SignInError as error:
                ended.append(type(error))

        thread = threading.Thread(target=listen)
        thread.start()
        metrics = lambda: program._http.get(f"{address}/metrics").text  # noqa: E731
        wait_for(lambda: "mqi_streams_open 1.0" in metrics(), "the stream is open")
        seeded.arrivals(["P000000003.fx0001"])
        seeded.partitions("case", ["P000000003.fx0001"])
        seeded.run("intake", "P000000003.fx0001", "STARTED")
        wait_for(lambda: ("P000000003.fx0001", "in work") in found, "the change is told")
        revoke_token(seeded.site, OWNER, identity)
        seeded.run("intake", "P000000002.fx0001", "STARTED")
        thread.join(120)
        assert ended == [SignInError]
