"""What `mqi top` says while real services work: compared with the records just before and just after."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist import Worklist
from tests.services.stack import MQI, Stack
from tests.worklist.between import snapshot, wrong

pytestmark = pytest.mark.slow


def said_by_the_command(stack: Stack) -> dict[str, Any]:
    done = subprocess.run(
        [str(MQI), "top", "--site", str(stack.site), "--json"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.timeout(900)
def test_top_is_right_at_every_moment_of_a_case(services: Stack) -> None:
    services.steer(seconds=8.0, failing=("3G000:TX",))
    delivered = services.deliver(seed=4711)
    ledger = services.ledger()
    faults: list[str] = []
    stages: set[str] = set()
    samples = 0
    with services.opened() as instance:
        site = Site(services.settings_file)
        followed = Worklist(instance, site, PIPELINES, site.open_ledger_for_reading())
        case = services.case_of(delivered)
        while True:
            by_command = samples % 10 == 0
            before = snapshot(instance, ledger)
            said = (
                said_by_the_command(services)
                if by_command
                else json.loads(followed.snapshot().model_dump_json())
            )
            after = snapshot(instance, ledger)
            samples += 1
            faults += [f"sample {samples}: {text}" for text in wrong(before, said, after)]
            ours = [row for row in said["beams"] if row["case"] == case]
            stages |= {row["stage"] for row in ours}
            ended = ours and all(row["stage"] in ("handed_over", "failed") for row in ours)
            if ended and not services.unfinished():
                break
    ledger.close()
    assert faults == [], services.report()
    assert {"queued", "simulating"} <= stages and {"handed_over", "failed"} & stages
    assert samples > 20
