"""A person backfills the one failed beam of a case in the page, with the mouse."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import Request

from tests.pages.browser import CHROMIUM, opened_page
from tests.services.stack import BEAM_ASSETS, Stack
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Stack]:
    """A site with running services, in which the engine of the second beam fails."""
    made = Stack(tmp_path)
    made.steer(seconds=0.1, failing=("2G000:TX",))
    with made.running():
        yield made


def launches(request: Request) -> bool:
    """Whether the page asks for runs or a backfill."""
    return "mutation Launch" in (request.post_data or "")


@pytest.mark.gate
def test_a_click_backfills_the_failed_beam_alone_and_the_case_concludes_once(services: Stack) -> None:
    if not Path(CHROMIUM).exists():
        pytest.fail("chromium is missing; tests/system-packages installs it")
    case = services.case_of(services.deliver(seed=21))
    failed = f"{case}__b03"

    def settled() -> bool:
        runs = {run.tags["dagster/partition"]: run.status for run in services.runs("beam")}
        return len(runs) == 3 and not services.unfinished() and runs[failed] is dg.DagsterRunStatus.FAILURE

    wait_for(settled, "one beam has failed, two are done", 300, report=services.report)
    assert services.markers() == []
    before = {asset: services.materialised(asset) for asset in BEAM_ASSETS}
    services.steer(seconds=0.1)
    with opened_page() as page:
        page.goto(f"{services.address}/assets/handed_over?view=partitions&partition={failed}")
        page.get_by_text("Failed (1)").first.wait_for()
        page.goto(f"{services.address}/locations/mqi/jobs/beam")
        page.get_by_role("button", name="Materialize").first.click()
        page.get_by_role("button", name="Failed", exact=True).click()
        page.get_by_text("1 partition", exact=True).wait_for()
        with page.expect_request(launches) as launched:
            page.get_by_role("button", name=re.compile("^Launch ")).click()
        sent = str(launched.value.post_data)
        assert failed in sent
        assert f"{case}__b02" not in sent and f"{case}__b04" not in sent
        services.wait_for_conclusion(case)
        page.goto(f"{services.address}/assets/handed_over?view=partitions&partition={failed}")
        page.get_by_text("Failed (0)").first.wait_for()
        assert "SYNTH001" not in page.content() and str(services.site) not in page.content()

    assert services.concluded(case) == 1
    for asset in ("raw_dose", "rt_dose", "handed_over"):
        after = services.materialised(asset)
        assert after == {**before[asset], failed: 1}, asset
    assert services.starts().count("2G000:TX") == 2
