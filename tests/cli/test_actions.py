"""What a person does with a case that is there: `mqi case review` and `mqi case retake`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from dagster._daemon.types import DaemonHeartbeat
from typer.testing import CliRunner, Result

from mqi_dagster.cli.app import app
from mqi_dagster.errors import InputError, NotAllowedError, SignInError, UnreachableError
from mqi_dagster.operations.instance import open_instance, write_instance
from mqi_dagster.operations.people import add_user
from mqi_dagster.people.rights import Actor, Role
from tests.chain.chain import ONE_BEAM, Chain

PASSWORD = "correct horse battery"


@dataclass(frozen=True)
class Reviewed:
    """A site on disk with a concluded case, and the command with it."""

    chain: Chain
    case: str

    def mqi(self, *words: str, typed: str = "") -> Result:
        return CliRunner().invoke(app, [*words, "--site", str(self.chain.settings_file)], input=typed)

    def review(self, *words: str, password: str = PASSWORD) -> Result:
        return self.mqi("case", "review", self.case, *words, typed=f"{password}\n")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reviewed]:
    chain = Chain(tmp_path_factory.mktemp("reviewed") / "site")
    write_instance(chain.site.settings)
    with open_instance(chain.site.settings) as chain.instance:
        chain.deliver(plan=ONE_BEAM)
        chain.tick_sensors(rounds=2)
        owner = Actor.of_this_account()
        add_user(chain.site, owner, "kim", [Role.APPROVER], full_name="Dr. Kim", password=PASSWORD)
        add_user(chain.site, owner, "anna", [Role.PHYSICIST], password=PASSWORD)
        yield Reviewed(chain, chain.runs_of("conclusion")[0])
    chain.site.ledger.close()


def test_a_result_is_accepted_by_the_password_of_an_account(site: Reviewed) -> None:
    result = site.review("--accept", "--user", "kim", "--reason", "gamma 99 %", "--json")
    assert result.exit_code == 0, result.exception
    found = json.loads(result.stdout)
    (signature,) = found["signatures"]
    assert (found["partition"], found["state"], found["changed"]) == (site.case, "accepted", [])
    assert (signature["user"], signature["reason"]) == ("kim", "gamma 99 %")
    assert found["digests"] == signature["digests"]
    assert site.chain.digest("rt_dose", f"{site.case}__b02") in result.stderr, (
        "what is signed is shown before"
    )
    shown = site.review()
    assert shown.stdout.startswith(f"{site.case}: accepted\n  accepted by Dr. Kim (kim) 20")
    assert shown.stdout.endswith("KST: gamma 99 %\n")
    last = site.chain.site.ledger.audit.newest(1, subject=site.case)[0]
    assert (last.actor, last.via, last.action.value) == ("kim", "command", "accepted")


def test_what_is_no_signature_says_what_is_missing(site: Reviewed) -> None:
    assert site.review("--accept").exit_code == 2
    assert isinstance(site.review("--reject", "--user", "kim").exception, InputError)
    wrong = site.review("--accept", "--user", "kim", password="wrong")
    assert isinstance(wrong.exception, SignInError)
    assert isinstance(site.review("--accept", "--user", "anna").exception, NotAllowedError)
    nobody = site.review("--accept", "--user", "nobody")
    assert isinstance(nobody.exception, InputError) and "mqi user list" in str(nobody.exception)


def test_a_case_is_taken_in_again_by_services_that_live(site: Reviewed) -> None:
    refused = site.mqi("case", "retake", site.case)
    assert isinstance(refused.exception, UnreachableError) and "mqi dev" in str(refused.exception)
    beat = DaemonHeartbeat(datetime.now(UTC).timestamp(), "SENSOR", "the daemon", [])
    site.chain.instance.run_storage.add_daemon_heartbeat(beat)
    taken = site.mqi("case", "retake", site.case, "--json")
    assert json.loads(taken.stdout) == {"retaken": site.case}
    site.chain.tick("case_arrivals")
    assert site.chain.runs_of("intake") == [site.case, site.case]
