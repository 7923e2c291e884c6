"""Two declared GPUs and the real services: at most two engines, whoever starts them, urgent ones first."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from mqi_dagster.execution.gpus import local_gpus
from tests.ledger.ledger_rows import waiting
from tests.services.stack import BEAM_ASSETS, HOLD, MQI, Stack, settings_of
from tests.services.test_services import BACKFILL, beams_of
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(bool(local_gpus()), reason="a declaration must not contradict the GPUs that are here"),
]

GPUS = [{"index": index, "uuid": f"GPU-{index}{index}", "memory_mb": 24000} for index in range(2)]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A site with running services whose engine needs a GPU; two are declared."""
    folder = tmp_path_factory.mktemp("pool")
    given = settings_of(folder)
    profile = {**given["engine"]["profiles"]["steered"], "needs_gpu": True}
    made = Stack(
        folder,
        {
            "engine": {**given["engine"], "profiles": {"steered": profile}},
            "execution": {**given["execution"], "gpus": GPUS},
            # Twenty beams are irradiated in more than an hour.
            "intake": {**given["intake"], "fraction_window_minutes": 600},
        },
    )
    with made.running():
        yield made


def at_once(traced: list[tuple[str, int, float, str]]) -> int:
    """The most engines that ran at one time, by their own trace."""
    running: set[int] = set()
    most = 0
    for what, pid, _, _ in sorted(traced, key=lambda line: line[2]):
        running.symmetric_difference_update({pid})
        most = max(most, len(running)) if what == "start" else most
    assert running == set()
    return most


def test_twenty_beams_backfilled_beside_their_own_runs_never_have_more_than_two_engines(pool: Stack) -> None:
    # Longer than it takes a small machine to start the next run: two of them meet.
    pool.steer(seconds=10)
    case = pool.case_of(pool.deliver(seed=41, beams=20))
    beams = beams_of(case, 20)

    def known() -> bool:
        with pool.opened() as instance:
            return set(beams) <= set(instance.get_dynamic_partitions("beam"))

    wait_for(known, "the beams of the case", 300, report=pool.report)
    params = {
        "assetSelection": [{"path": [asset]} for asset in BEAM_ASSETS],
        "partitionNames": beams,
        "fromFailure": False,
        "tags": [],
    }
    launched = pool.graphql(BACKFILL, backfillParams=params)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    backfill = {"dagster/backfill": launched["backfillId"]}
    wait_for(lambda: len(pool.runs(**backfill)) == 20, "twenty runs of the backfill", 300, report=pool.report)
    pool.wait_for_conclusion(case, 1200)
    untagged = [run for run in pool.runs(**backfill) if "mqi/gpu" in run.tags]
    assert untagged == [], "the pages know nothing of our tags, so only pool and lease have held"
    assert at_once(pool.traced()) == 2
    assert len(pool.starts()) == len(set(pool.starts())) == 20, "no beam was simulated twice"
    assert pool.ledger().leases.all() == []


def test_an_urgent_case_overtakes_what_waits(pool: Stack) -> None:
    pool.steer(seconds=HOLD)
    before = len(pool.traced())
    ordinary = pool.case_of(pool.deliver(seed=42, beams=8))
    wait_for(lambda: len(pool.traced()) - before >= 2, "two engines run", 300, report=pool.report)
    urgent = pool.case_of(pool.deliver(seed=43, beams=1))
    wait_for(lambda: pool.ledger().arrivals.get(urgent), "the urgent case is seen", report=pool.report)
    command = [str(MQI), "case", "priority", urgent, "7", "--site", str(pool.site)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    wait_for(
        lambda: pool.runs("beam", **{"mqi/case": urgent}),
        "the urgent beam is asked for",
        300,
        report=pool.report,
    )
    pool.steer(seconds=10)
    pool.wait_for_conclusion(ordinary, 900)
    pool.wait_for_conclusion(urgent, 300)
    (run,) = pool.runs("beam", **{"mqi/case": urgent})
    assert run.tags["dagster/priority"] == "7"
    made = {beam: pool.ledger().attempts.history(beam)[0].started_at for beam in beams_of(ordinary, 8)}
    (own,) = pool.ledger().attempts.history(beams_of(urgent, 1)[0])
    later = [beam for beam, started in made.items() if started > own.started_at]
    assert len(later) >= 3, "it came when two of eight ran, and did not wait for the others"
    assert at_once(pool.traced()) == 2


def test_a_gpu_taken_out_of_the_pool_halves_what_runs_and_a_waiting_beam_says_why(pool: Stack) -> None:
    def mqi(*words: str) -> str:
        done = subprocess.run(
            [str(MQI), "gpu", *words, "--site", str(pool.site)], capture_output=True, text=True, timeout=150
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    (name,) = {row["host"] for row in json.loads(mqi("list", "--json"))}
    assert "at most 3 runs" in mqi("off", f"{name}/GPU-00", "--reason", "fan broken")
    # Longer than a run takes to start on a busy machine, so that the second one has to wait.
    pool.steer(seconds=45)
    before = len(pool.traced())
    case = pool.case_of(pool.deliver(seed=44, beams=3))

    def said() -> bool:
        return any("switched off (fan broken): gpu0" in one.reason for one in waiting(pool.ledger()))

    wait_for(said, "a beam waits and says why", 300, report=pool.report)
    pool.steer(seconds=0.5)
    pool.wait_for_conclusion(case, 600)
    assert at_once(pool.traced()[before:]) == 1
    assert "at most 4 runs" in mqi("on", f"{name}/0")
