"""What is cancelled ends, wherever it stands, and stays so until somebody retries it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest

from mqi_dagster.compute import run_workers
from mqi_dagster.errors import InfrastructureError, InputError, UnreachableError
from mqi_dagster.ledger.leases import Lease, Need
from mqi_dagster.ledger.outcomes import RunVerdict
from mqi_dagster.ledger.slots import SlotKind
from mqi_dagster.lifecycle.case_reading import read_case, run_facts
from mqi_dagster.operations import cancel as cancelling
from mqi_dagster.operations.cancel import await_end, cancel, going_on
from mqi_dagster.operations.graphql import GraphQL
from mqi_dagster.operations.retry import partitions_of, retry
from mqi_dagster.people.rights import Actor
from mqi_dagster.resources.gpu_pool import GpuPool
from tests.chain.chain import PLAN, Chain
from tests.chain.ended_runs import BEAM, CASE, evaluate, lost, made, queued, started

OWNER = Actor.of_this_account()
OTHER = f"{CASE}__b03"
OF_ANOTHER_CASE = "P123456789.fx0002__b02"


class Services(GraphQL):
    """Services of an instance, whose workers end when a test says so."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.open: dict[str, list[str]] = {}
        self.ended: list[str] = []
        self.refuse = False
        self.asked: list[tuple[str, ...]] = []

    def backfills(self) -> dict[str, list[str]]:
        return self.open

    def cancel_backfill(self, backfill_id: str) -> None:
        self.ended.append(backfill_id)

    def terminate(self, run_id: str, *, at_once: bool = False) -> None:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        if self.refuse:
            raise InfrastructureError("the services refuse: Unable to terminate run")
        if run.status is dg.DagsterRunStatus.QUEUED or at_once:
            self.instance.report_run_canceled(run)
        else:
            self.instance.report_run_canceling(run)
            self.ended.append(run_id)

    def backfill(self, assets: Sequence[str], partitions: Sequence[str], title: str) -> str:
        self.asked.append((*assets, *partitions))
        return "backfill"


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path / "site", {"execution": {"retry_seconds": 10}})


@pytest.fixture
def services(chain: Chain) -> Services:
    return Services(chain.instance)


def status(chain: Chain, run: dg.DagsterRun) -> str:
    found = chain.instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status.value


def stage(chain: Chain, partition: str) -> tuple[str, str | None]:
    """Where a partition stands by its latest run, and what to do."""
    broken = run_facts(chain.instance, chain.site.ledger, partition).broken()
    assert broken is not None
    return broken.stage.value, broken.next_step


def test_what_is_queued_or_in_work_ends_and_nothing_else(chain: Chain, services: Services) -> None:
    at_work, waiting, elsewhere = (
        started(chain),
        queued(chain, partition=OTHER),
        started(chain, partition=OF_ANOTHER_CASE),
    )
    never_begun = made(chain, "intake", CASE, dg.DagsterRunStatus.NOT_STARTED, {})
    found = cancel(chain.instance, chain.site, services, OWNER, [CASE, BEAM, OTHER])
    assert found == {CASE: never_begun.run_id, BEAM: at_work.run_id, OTHER: waiting.run_id}
    assert [status(chain, run) for run in (at_work, waiting, never_begun, elsewhere)] == [
        *("CANCELING", "CANCELED", "CANCELED", "STARTED")
    ]
    assert going_on(chain.instance, chain.site, [BEAM]) == [f"{BEAM}: run {at_work.run_id} is canceling"]
    assert cancel(chain.instance, chain.site, services, OWNER, [BEAM]) == {BEAM: at_work.run_id}
    assert services.ended == [at_work.run_id], "a worker is interrupted once"
    chain.instance.report_run_canceled(at_work)
    assert await_end(chain.instance, chain.site, services, [CASE, BEAM, OTHER]) == []
    assert stage(chain, BEAM) == ("cancelled", "`mqi case retry` once the cause is gone")
    with pytest.raises(InputError, match=f"^nothing to cancel: no run of {BEAM} is queued or in work$"):
        cancel(chain.instance, chain.site, services, OWNER, [BEAM])


def test_what_goes_on_after_the_wait_is_named_with_its_slot(chain: Chain, services: Services) -> None:
    run = started(chain)
    GpuPool(chain.site).declare()
    need = Need(SlotKind.CPU)
    lease = chain.site.ledger.leases.acquire(BEAM, run.run_id, need, stale_after=timedelta(seconds=60))
    assert isinstance(lease, Lease)
    chain.site.ledger.leases.set_job(lease, "hpc", "4711")
    cancel(chain.instance, chain.site, services, OWNER, [BEAM])
    chain.instance.report_run_canceled(run)
    assert await_end(chain.instance, chain.site, services, [BEAM], 0.0) == [
        f"{BEAM}: {lease.name} is not free, job 4711 is not known to have ended"
    ]


@pytest.mark.parametrize("judged", [True, False])
def test_a_try_that_was_to_come_is_taken_back(chain: Chain, services: Services, judged: bool) -> None:
    run = started(chain)
    lost(chain, run)
    if judged:
        (request,) = evaluate(chain, "run_outcomes", keep_cursor=False)
        assert request.tags["mqi/retry_of"] == run.run_id
    assert cancel(chain.instance, chain.site, services, OWNER, [BEAM]) == {BEAM: run.run_id}
    assert evaluate(chain, "run_outcomes") == []
    assert chain.site.ledger.outcomes.open_retries() == []
    outcome = chain.site.ledger.outcomes.get_many([run.run_id])[run.run_id]
    assert outcome.verdict is RunVerdict.CANCELLED
    assert stage(chain, BEAM) == ("cancelled", "`mqi case retry` once the cause is gone")
    with pytest.raises(InputError):
        cancel(chain.instance, chain.site, services, OWNER, [BEAM])
    assert retry(chain.instance, chain.site, services, OWNER, [BEAM]) == {BEAM: "backfill"}
    assert services.asked == [("interpreted_csvs", "tps_file", "raw_dose", "rt_dose", "handed_over", BEAM)]


def test_a_job_that_was_left_for_a_try_that_is_taken_back_is_given_up(
    chain: Chain, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = started(chain)
    GpuPool(chain.site).declare()
    need, ended = Need(SlotKind.CPU), list[str]()
    chain.site.ledger.leases.acquire(BEAM, run.run_id, need, stale_after=timedelta(seconds=60))
    cluster = SimpleNamespace(cancel_beam=ended.append, ended=lambda beam: beam in ended)
    monkeypatch.setattr(type(chain.site), "executor_on", lambda *_: cluster)
    lost(chain, run)
    evaluate(chain, "run_outcomes")
    assert ended == [], "the next run would take it over"
    cancel(chain.instance, chain.site, services, OWNER, [BEAM])
    evaluate(chain, "reaper")
    assert (ended, chain.site.ledger.leases.all()) == ([BEAM], [])


def test_a_run_that_is_just_starting_is_interrupted_once_it_can_be(
    chain: Chain, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(chain, "beam", BEAM, dg.DagsterRunStatus.STARTING, {})

    def rest(seconds: float) -> None:
        chain.instance.report_dagster_event(
            dg.DagsterEvent(event_type_value="PIPELINE_START", job_name="beam"), run.run_id
        )

    monkeypatch.setattr(cancelling.time, "sleep", rest)
    assert cancel(chain.instance, chain.site, services, OWNER, [BEAM]) == {BEAM: run.run_id}
    assert status(chain, run) == "CANCELING"


def test_one_that_cannot_be_ended_is_named_and_keeps_no_other(
    chain: Chain, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued(chain, partition=OTHER)
    chain.instance.add_run(
        dg.DagsterRun("beam", status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": BEAM})
    )
    with pytest.raises(InfrastructureError) as refused:
        cancel(chain.instance, chain.site, services, OWNER, [BEAM, OTHER])
    assert refused.value.message == (
        f"not cancelled: {BEAM}: its run is not the services': Ctrl-C ends it in the terminal that it runs in"
        f" (cancelled: {OTHER})"
    )
    started(chain, partition=OF_ANOTHER_CASE)
    services.refuse = True
    with pytest.raises(InfrastructureError, match=r"the services refuse: Unable to terminate run$"):
        cancel(chain.instance, chain.site, services, OWNER, [OF_ANOTHER_CASE])


def test_the_worker_of_a_run_whose_code_location_has_forgotten_it_is_ended_here(
    chain: Chain, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, ended = started(chain), list[str]()
    monkeypatch.setattr(cancelling, "end_worker", lambda _, run: ended.append(run.run_id))

    def forgotten(run_id: str, *, at_once: bool = False) -> None:
        chain.instance.report_run_canceling(run)
        raise InfrastructureError("the services refuse: Unable to terminate run")

    monkeypatch.setattr(services, "terminate", forgotten)
    assert cancel(chain.instance, chain.site, services, OWNER, [BEAM]) == {BEAM: run.run_id}
    assert ended == [run.run_id]


def test_a_process_that_no_code_location_has_forked_is_never_ended(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_workers, "worker_of", lambda *_: "1:1")
    monkeypatch.setattr(run_workers, "end_group", pytest.fail)
    run_workers.end_worker(chain.instance, started(chain))


def test_a_backfill_of_nothing_else_makes_no_further_run(chain: Chain, services: Services) -> None:
    services.open = {"mine": [BEAM], "wider": [BEAM, OF_ANOTHER_CASE], "of all": []}
    assert cancel(chain.instance, chain.site, services, OWNER, [CASE, BEAM]) == {BEAM: "mine"}
    assert services.ended == ["mine"]


@pytest.fixture
def taken_in(chain: Chain) -> str:
    """A case whose intake has ended, and whose beams nobody has asked for yet."""
    chain.deliver(plan=PLAN)
    chain.tick("case_arrivals")
    (case,) = chain.runs_of("intake")
    return case


def test_beams_that_were_still_to_be_asked_for_are_asked_for_by_a_retry_alone(
    chain: Chain, services: Services, taken_in: str
) -> None:
    first, second = f"{taken_in}__b02", f"{taken_in}__b03"
    assert cancel(chain.instance, chain.site, services, OWNER, [second]).keys() == {second}
    (request,) = chain.tick("beams_to_simulate", launch=False)
    assert request.partition_key == first
    partitions = partitions_of(chain.instance, chain.site, taken_in, None)
    assert cancel(chain.instance, chain.site, services, OWNER, partitions).keys() == {first}
    assert chain.tick("beams_to_simulate") == []
    found = read_case(chain.instance, chain.site, taken_in)
    assert {beam.stage.value for beam in found.beams.values()} == {"cancelled"}
    assert found.case.stage.value == "cancelled"
    assert retry(chain.instance, chain.site, services, OWNER, partitions).keys() == {first, second}


def test_services_that_are_away_are_said_to_be(chain: Chain) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = GraphQL(f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(UnreachableError, match=r"^nobody answers at .*; start the services"):
            cancel(chain.instance, chain.site, away, OWNER, [BEAM])
