"""Takes the pictures in docs/images from the pages of a running site with the embedded engine.

    mqi init SITE && mqi dev --site SITE --detach      (execution.attempts: 1, intake.stable_seconds: 0)
    python -m tests.pages.screenshots SITE

The site should have one concluded case of the built-in plan. A second case is delivered here; the engine of
its first beam is killed, so that there is a failed beam to be backfilled. When its case has concluded, take
the graph once more, in green: `screenshots.py SITE graph`.
"""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import sys
from pathlib import Path

import dagster as dg
from PIL import Image
from playwright.sync_api import Page

from mqi_dagster.operations.instance import open_instance
from mqi_dagster.operations.services import Services
from mqi_dagster.resources.site import Site
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import DeliveryRequest
from tests.pages.browser import opened_page
from tests.waiting import wait_for

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SETTLE_MS = 5000


def save(content: bytes, name: str) -> None:
    """Write a picture with at most 256 colours."""
    image = Image.open(io.BytesIO(content)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(IMAGES / name, optimize=True)
    print(name, f"{image.width} x {image.height}, {(IMAGES / name).stat().st_size // 1000} kB")


def shot(page: Page, name: str) -> None:
    """Take the page once it has come to rest."""
    page.wait_for_timeout(SETTLE_MS)
    save(page.screenshot(), name)


def graph(page: Page, address: str) -> None:
    """Both groups of the lineage graph, opened."""
    page.set_viewport_size({"width": 1700, "height": 600})
    page.goto(f"{address}/asset-groups?expanded=global@global:beam,global@global:case")
    page.get_by_text("case_handed_over").first.wait_for()
    page.get_by_text("Hide navigation").click()
    page.wait_for_timeout(SETTLE_MS)
    # The page fits the graph to the room it has when it is loaded; the folded navigation is remembered.
    page.reload()
    page.get_by_text("case_handed_over").first.wait_for()
    shot(page, "graph.png")


def plots(page: Page, address: str, asset: str, beam: str, label: str, name: str) -> None:
    """A materialisation with one of its pictures opened."""
    page.goto(f"{address}/assets/{asset}?view=partitions&partition={beam}")
    page.get_by_text("Latest materialization").first.wait_for()
    if asset == "interpreted_csvs":
        shot(page, f"{name}.png")
    page.get_by_role("row", name=re.compile(f"^{label}")).get_by_text("Show Markdown").click()
    shot(page, f"{name}-{label.replace(' ', '-')}.png")


def pictures(instance: dg.DagsterInstance, beam: str) -> None:
    """The picture of a dose as it stands in the metadata, for the README."""
    (record,) = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey("rt_dose"), asset_partitions=[beam]), limit=1
    ).records
    assert record.asset_materialization is not None
    parts = []
    for name in ("slices", "depth dose"):
        markdown = str(record.asset_materialization.metadata[name].value)
        encoded = re.search(r"base64,([A-Za-z0-9+/=]+)", markdown)
        assert encoded
        parts.append(Image.open(io.BytesIO(base64.b64decode(encoded[1]))).convert("RGB"))
    width = max(part.width for part in parts)
    whole = Image.new("RGB", (width, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        whole.paste(part, ((width - part.width) // 2, top))
        top += part.height
    stream = io.BytesIO()
    whole.save(stream, "PNG")
    save(stream.getvalue(), "dose.png")


def fail_one(page: Page, address: str, site: Site, instance: dg.DagsterInstance) -> None:
    """Deliver a second case, show its first engine at work, and kill that engine."""
    if not site.ledger.leases.all():
        seed = 1 + sum(path.is_dir() for path in site.inbox.iterdir())
        simulate_delivery(DeliveryRequest(seed=seed), site.machines.named("GENERIC"), site.inbox)
    wait_for(lambda: any(lease.job_id for lease in site.ledger.leases.all()), "an engine at work", 600)
    lease = next(lease for lease in site.ledger.leases.all() if lease.job_id)
    page.goto(f"{address}/runs")
    page.get_by_text("mqi/progress").first.wait_for()
    shot(page, "runs.png")
    page.goto(f"{address}/runs/{lease.owner}")
    page.get_by_text("simulating on").first.wait_for()
    shot(page, "run.png")
    lease = next(lease for lease in site.ledger.leases.all() if lease.job_id)
    assert lease.job_id is not None
    os.kill(int(lease.job_id.split(":")[0]), signal.SIGKILL)
    failed = dg.RunsFilter([lease.owner], statuses=[dg.DagsterRunStatus.FAILURE])
    wait_for(lambda: instance.get_runs_count(failed), "the run has failed", 600)
    page.goto(f"{address}/assets/handed_over?view=partitions&partition={lease.partition}")
    shot(page, "failed-beam.png")


def backfill(page: Page, address: str) -> None:
    """The job of a beam, its failed partition chosen, and what came of it."""
    page.goto(f"{address}/locations/mqi/jobs/beam")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name="Failed", exact=True).click()
    shot(page, "backfill-failed.png")
    page.get_by_role("button", name=re.compile("^Launch ")).click()
    page.wait_for_timeout(3 * SETTLE_MS)
    page.goto(f"{address}/runs")
    shot(page, "backfill-launched.png")


def main() -> None:
    """Take every picture."""
    folder = Path(sys.argv[1]).resolve()
    IMAGES.mkdir(exist_ok=True)
    site = Site(folder / "mqi.yaml")
    running = Services(folder / "mqi.yaml", site.settings).running()
    assert running is not None, "mqi dev is not running"
    address = running.pages.address
    wanted = sys.argv[2:] or ["failed", "backfill", "graph", "plots"]
    with (
        open_instance(site.settings) as instance,
        opened_page() as page,
    ):
        made = instance.get_materialized_partitions(dg.AssetKey("handed_over"))
        beam = sorted(made)[0]
        if "failed" in wanted:
            fail_one(page, address, site, instance)
        if "backfill" in wanted:
            backfill(page, address)
        if "plots" in wanted:
            plots(page, address, "rt_dose", beam, "slices", "rt-dose")
            plots(page, address, "rt_dose", beam, "depth dose", "rt-dose")
            plots(page, address, "interpreted_csvs", beam, "spot map", "interpreted-csvs")
            pictures(instance, beam)
        if "graph" in wanted:
            graph(page, address)


if __name__ == "__main__":
    main()
