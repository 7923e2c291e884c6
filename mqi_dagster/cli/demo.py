"""``mqi demo``: a generated case through the whole platform, in front of the eyes of whoever runs it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import tzinfo
from pathlib import Path

import dagster as dg
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from mqi_dagster.assets.arrivals import given_folder
from mqi_dagster.cli.board_display import BoardDisplay, case_words
from mqi_dagster.cli.instance import open_instance
from mqi_dagster.cli.results_table import beam_rows, results_table
from mqi_dagster.cli.services import Running, Services, port_is_free
from mqi_dagster.cli.site_folder import initialise
from mqi_dagster.cli.site_services import start_services
from mqi_dagster.cli.sites import local_zone, require_site
from mqi_dagster.engine.embedded.install import VERSION, install_engine
from mqi_dagster.errors import MqiError
from mqi_dagster.machine import read_machines
from mqi_dagster.moments import in_zone
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import Settings
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.plans import built_in_plan
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest
from mqi_dagster.worklist import BeamStand, CaseStand, CaseState, Stage, Worklist

MACHINE = "GENERIC"
SETTINGS = {
    "site.name": "MQI demo",
    "intake.stable_seconds": 2.0,
    "intake.scan_interval_seconds": 5,
    "engine.histories": 200_000.0,
    "ui.port": 3010,
}
"""What differs from the defaults in a site that the demo makes: quicker looks, fewer histories, and pages
beside those of a site that people work with."""
SEED = 1
_POLL_SECONDS = 1.0


class DemoError(MqiError):
    """The demo's case did not arrive at its end."""

    code = "demo"


def run_demo(folder: Path, timeout_seconds: float, console: Console) -> None:
    """Make or reuse a site, deliver a case into its inbox, and watch it to its end.

    Raises:
        DemoError: A beam failed, or the time was over.
        MqiError: Of any other kind, where the site, its services or its engine cannot be made ready.
    """
    began = time.monotonic()
    made = initialise(folder, {"site.timezone": local_zone(), **SETTINGS})
    console.print(f"site: {escape(str(folder))}" + ("" if made else " (as it stands)"), soft_wrap=True)
    file, settings = require_site(folder)
    _install(settings, console)
    services = Services(file, settings)
    running = services.running()
    if running is None:
        with console.status("starting Dagster: code location, daemon, pages"):
            free = port_is_free(settings.ui.host, settings.ui.port)
            running = start_services(services, settings, None if free else 0)
        if not free:
            console.print(f"port {settings.ui.port} is taken: the pages have another one this time")
    console.print(f"pages: [bold]{running.pages.address}[/]")
    place = _deliver(settings, console)
    site = Site(file)
    with open_instance(settings) as instance:
        case = given_folder(site, place)[0].case
        _watch(instance, site, case, services, running, timeout_seconds, console)
        console.print()
        console.print(results_table(beam_rows(instance, site, case)))
    console.print(f"\npaths begin at {escape(str(folder.resolve()))}", soft_wrap=True)
    console.print(f"case {case} handed over, {time.monotonic() - began:.0f} s after the start")
    console.print(f"lineage, plots and logs: [bold]{running.pages.address}[/] (ends with `make stop`)")


def _install(settings: Settings, console: Console) -> None:
    if settings.engine.profile != "embedded":
        return
    with console.status(f"installing the embedded engine (MCsquare {VERSION}, about 60 MB once)"):
        install_engine(settings.engine.embedded.cache)
    console.print(f"engine: MCsquare {VERSION}")


def _deliver(settings: Settings, console: Console) -> Path:
    """The demo's case in the inbox, written unless it is there."""
    machine = read_machines(settings.paths.machines).named(MACHINE)
    plan = BuiltInPlan()
    uid = str(built_in_plan(machine, plan, seed=SEED).StudyInstanceUID)
    place = settings.paths.inbox / uid
    if place.is_dir():
        console.print("delivery: the case of an earlier demo, still in the inbox")
        return place
    case = simulate_delivery(DeliveryRequest(plan=plan, seed=SEED), machine, settings.paths.inbox)
    console.print(
        f"delivery: {len(case.deliveries)} beams, {case.samples:,} samples, simulated into the inbox"
    )
    return case.folder


def _watch(
    instance: dg.DagsterInstance,
    site: Site,
    case: str,
    services: Services,
    running: Running,
    patience_seconds: float,
    console: Console,
) -> None:
    """Return once the case is concluded; DemoError where a beam fails, or nothing moves for so long."""
    began = moved = time.monotonic()
    before: object = None
    work, display = Worklist(instance, site, site.ledger), BoardDisplay(console, case, site.timezone)
    with display.shown():
        while True:
            work.look()
            stand, beams = work.case(case), work.beams_of(case)
            display.show(stand, beams, time.monotonic() - began)
            failed = [row for row in (*beams, stand) if row is not None and row.state is CaseState.FAILED]
            if failed or (stand is not None and stand.stage is Stage.CONCLUDED):
                break
            services.require_alive(running)
            now = [(row.stage, row.percent) for row in (*beams, stand) if row is not None]
            if now != before:
                before, moved = now, time.monotonic()
            if time.monotonic() - moved > patience_seconds:
                raise DemoError(
                    f"nothing has moved for {patience_seconds:g} s (--timeout); what is stuck:"
                    f" {_stuck(stand, beams, site.timezone)}; the services go on; logs: {services.logs}"
                )
            time.sleep(_POLL_SECONDS)
    if failed:
        for row in failed:
            if isinstance(row, BeamStand):
                words = f"beam {row.number} failed: {in_zone(row.reason, site.timezone)}"
                console.print(Text(words, style="red"), soft_wrap=True)
        reason = in_zone(failed[0].reason, site.timezone)
        raise DemoError(f"{reason} (to try again once the cause is gone: mqi case retry {case})")


def _stuck(case: CaseStand | None, beams: Sequence[BeamStand], zone: tzinfo) -> str:
    stuck = [f"case: {case_words(case, zone)}"]
    for beam in beams:
        if beam.stage is not Stage.HANDED_OVER:
            percent = f" {beam.percent:.0f} %" if beam.percent else ""
            stuck.append(f"beam {beam.number}: {beam.stage.words}{percent}")
    return ", ".join(stuck)
