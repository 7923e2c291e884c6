"""A person has a case or a course taken in once more, although none of its files has changed."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._daemon.types import DaemonHeartbeat

from mqi_dagster.errors import InputError, InputsAwayError, KeyRejectedError, UnreachableError
from mqi_dagster.lifecycle.case_reading import read_case
from mqi_dagster.operations.retake import retake
from mqi_dagster.people.rights import Actor
from tests.chain.chain import MACHINES, ONE_BEAM, Chain
from tests.chain.course_site import CourseSite

OWNER = Actor.of_this_account()


def daemon(instance: dg.DagsterInstance, ago: timedelta = timedelta()) -> None:
    at = (datetime.now(UTC) - ago).timestamp()
    instance.run_storage.add_daemon_heartbeat(DaemonHeartbeat(at, "SENSOR", "the daemon", []))


def taken_in(chain: Chain) -> str:
    chain.deliver(plan=ONE_BEAM)
    chain.tick("case_arrivals")
    daemon(chain.instance)
    (case,) = chain.runs_of("intake")
    return case


def audit(chain: Chain | CourseSite) -> list[tuple[str, str]]:
    return [(row.action.value, row.outcome.value) for row in reversed(chain.site.ledger.audit.newest(50))]


def test_a_machine_file_that_was_mended_lets_a_refused_case_in_once_it_is_taken_again(tmp_path: Path) -> None:
    machines = tmp_path / "machines"
    machines.mkdir()
    shutil.copy(MACHINES / "g2.yaml", machines)
    chain = Chain(tmp_path / "site", {"paths": {"machines": str(machines)}})
    case = taken_in(chain)
    assert chain.runs[0][2].code == "unknown-machine"
    shutil.copy(MACHINES / "generic.yaml", machines)
    chain.reopen()
    chain.tick_sensors(rounds=2)
    assert chain.runs_of("intake") == [case], "none of its files has changed"

    retake(chain.instance, chain.site, OWNER, case)
    retake(chain.instance, chain.site, OWNER, case)
    chain.tick_sensors(rounds=3)
    assert chain.runs_of("intake") == [case, case]
    assert chain.runs_of("conclusion") == [case]
    chain.reopen()
    chain.tick_sensors(rounds=2)
    assert chain.runs_of("intake") == [case, case]
    assert audit(chain) == [("retake", "begun"), ("retake", "done")] * 2


def test_a_concluded_case_stays_concluded_and_nothing_is_simulated_again(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    case = taken_in(chain)
    chain.tick_sensors(rounds=2)
    assert (chain.engine_starts(), chain.runs_of("conclusion")) == (1, [case])
    retake(chain.instance, chain.site, OWNER, case)
    assert read_case(chain.instance, chain.site, case).case.stage.value == "ready"
    chain.tick_sensors(rounds=3)
    assert chain.runs_of("intake") == [case, case]
    assert chain.engine_starts() == 1
    assert read_case(chain.instance, chain.site, case).concluded


def test_what_cannot_be_taken_in_is_told(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    case = taken_in(chain)

    def refused(kind: type[Exception], words: str, key: str = case) -> None:
        with pytest.raises(kind, match=words):
            retake(chain.instance, chain.site, OWNER, key)

    refused(InputError, "not known here", "P000000000.fx0001")
    refused(KeyRejectedError, "is no case key", f"{case}__b01")
    chain.site.ledger.arrivals.record("place", "P000000001.fx0001", "f" * 16, False, "it grows still", None)
    refused(InputError, "cannot be taken yet: it grows still", "P000000001.fx0001")
    job = chain.definitions.resolve_job_def("intake")
    running = chain.instance.create_run_for_job(job, tags={"dagster/partition": case})
    refused(InputError, f"in work: run {running.run_id}")
    chain.instance.report_run_canceled(running)
    daemon(chain.instance, ago=timedelta(minutes=5))
    refused(UnreachableError, "daemon does not run")
    daemon(chain.instance)
    (folder,) = chain.inbox.iterdir()
    folder.rename(tmp_path / "aside")
    (chain.inbox / "another").mkdir()
    refused(InputsAwayError, "not in the inbox any more")
    assert audit(chain) == [("retake", "begun"), ("retake", "failed")] * 6
    row = chain.site.ledger.arrivals.get(case)
    assert row is not None and row.again_ns is None


@pytest.mark.slow
def test_a_course_is_taken_in_once_more_whichever_process_looks_at_its_tree(tmp_path: Path) -> None:
    site = CourseSite(tmp_path)
    site.write(1)
    (request,) = site.tick()
    course = str(request.partition_key)
    daemon(site.instance)
    retake(site.instance, site.site, OWNER, course)
    site.reopen()
    site.tick()
    site.tick()
    assert site.runs() == [course, course]
    site.reopen()
    assert site.tick() == []
    assert site.runs() == [course, course]
