"""The services as systemd runs them: what survives the death of one, and who may start what."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.services.managed import ManagedStack
from tests.services.stack import HOLD
from tests.services.test_services import made_once, one_engine, worker_of
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TERMINATE = """
mutation Terminate($run: String!) { terminateRun(runId: $run) { __typename } }
"""


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManagedStack]:
    made = ManagedStack(tmp_path_factory.mktemp("managed"))
    with made.running():
        yield made


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "restarted"])
def test_a_beam_goes_on_and_ends_once_when_the_code_location_is_started_again(
    managed: ManagedStack, number: signal.Signals
) -> None:
    managed.steer(seconds=HOLD)
    before = len(managed.starts())
    case = managed.case_of(managed.deliver(seed=40 + number, beams=2))
    engine, _ = one_engine(managed)
    managed.end_one("code", number, seconds=1)
    assert engine in managed.engines(), "the engine needs no code location"
    managed.start_one("code")
    managed.steer()
    managed.wait_for_conclusion(case)
    made_once(managed, case, 2)
    assert len(managed.starts()) - before == 2
    assert [run.parent_run_id for run in managed.runs("beam", **{"mqi/case": case})] == [None, None]


def test_a_run_whose_worker_died_with_the_code_location_is_taken_up_again(managed: ManagedStack) -> None:
    managed.steer(seconds=HOLD)
    case = managed.case_of(managed.deliver(seed=70, beams=2))
    engine, _ = one_engine(managed)
    worker = worker_of(engine)
    managed.end_one("code")
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: engine not in managed.engines(), "the engine dies with its worker")
    managed.steer()
    managed.start_one("code")
    managed.wait_for_conclusion(case)
    made_once(managed, case, 2, interrupted=True)


def test_the_viewer_shows_everything_and_starts_nothing(managed: ManagedStack) -> None:
    pages, managed.port = managed.port, managed.viewer_port
    try:
        wait_for(managed.loaded, "the viewer answers", report=managed.report)
        assert managed.graphql("{ version }")["version"]
        refused = managed.graphql(TERMINATE, run="no-such-run")["terminateRun"]["__typename"]
        assert refused == "UnauthorizedError"
    finally:
        managed.port = pages


def test_no_service_runs_twice_and_no_other_way_of_starting_them_joins_in(managed: ManagedStack) -> None:
    for arguments, word in [
        (
            ("service", "daemon"),
            "the service daemon of this site runs already: systemctl stop mqi.target ends it",
        ),
        (("dev", "--detach"), "a service manager runs code, daemon, pages, viewer, web, watch of this site"),
        (("stop",), "a service manager runs code, daemon, pages, viewer, web, watch of this site"),
    ]:
        done = managed.refused(*arguments)
        assert word in done, done


def test_after_the_services_mqi_stop_ends_the_workers_that_outlived_them(managed: ManagedStack) -> None:
    managed.steer(seconds=HOLD)
    case = managed.case_of(managed.deliver(seed=71, beams=2))
    one_engine(managed)
    for name in list(managed.units):
        managed.end_one(name)
    assert managed.engines() != {}
    managed._mqi("stop", "--site", str(managed.site))
    # The process that the workers were forked from goes with the last of them.
    wait_for(lambda: managed.processes() == {}, "no process is left", report=managed.report)
    managed.steer()
    managed.start()
    managed.wait_for_conclusion(case)
    made_once(managed, case, 2, interrupted=True)
