"""``mqi demo``: a generated case through the whole platform, before the eyes of whoever runs it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import tzinfo
from pathlib import Path

import dagster as dg
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.cli.results_table import results_table
from mqi_dagster.cli.site import show_way_in
from mqi_dagster.embedded_engine.install import VERSION, install_engine
from mqi_dagster.errors import MqiError
from mqi_dagster.lifecycle.arrived import given_folder
from mqi_dagster.machine import read_machines
from mqi_dagster.moments import in_zone
from mqi_dagster.operations.instance import open_instance
from mqi_dagster.operations.results import beam_rows
from mqi_dagster.operations.services import Keeper, Services, port_is_free, start_services
from mqi_dagster.operations.site_folder import initialise
from mqi_dagster.operations.sites import local_zone, open_site
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import Settings
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.plans import built_in_plan
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest
from mqi_dagster.worklist import BeamStatus, CaseState, CaseStatus, Stage, Worklist

_LINE_EVERY_PERCENT = 25
_STYLES = {CaseState.FAILED: "red", CaseState.COMPLETE: "green"}


class BoardDisplay:
    """Shows a board again and again.

    Args:
        console: Where.
        case: Case key.
        zone: Of the site, in which moments are told.
    """

    def __init__(self, console: Console, case: str, zone: tzinfo) -> None:
        self._zone = zone
        self._console = console
        self._case = case
        self._live: Live | None = None
        self._said: dict[str, str] = {}

    @contextmanager
    def shown(self) -> Iterator[None]:
        """While the block runs, a terminal shows the newest board in one place."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=4, transient=False) as live:
            self._live = live
            yield
        self._live = None

    def show(self, case: CaseStatus | None, beams: Sequence[BeamStatus], seconds: float) -> None:
        """Show where the case stands.

        Args:
            case: None where it was not seen yet.
            beams: Its beams, in the order of their numbers.
            seconds: Since the beginning.
        """
        if self._live is not None:
            self._live.update(self._table(case, beams, seconds))
            return
        self._say(f"case {self._case}", case_words(case, self._zone), 0.0, seconds)
        for beam in beams:
            self._say(f"beam {beam.number}", beam.stage.words, beam.percent, seconds)

    def _say(self, name: str, words: str, percent: float, seconds: float) -> None:
        if 0 < percent < 100:
            words += f" {int(percent // _LINE_EVERY_PERCENT) * _LINE_EVERY_PERCENT} %"
        if self._said.get(name) != words:
            self._said[name] = words
            self._console.print(Text(f"{seconds:5.0f} s  {name}: {words}"), soft_wrap=True)

    def _table(self, case: CaseStatus | None, beams: Sequence[BeamStatus], seconds: float) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(width=30)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True)
        for beam in beams:
            bar = ProgressBar(total=100.0, completed=beam.percent)
            percent = f"{beam.percent:.0f} %" if beam.percent else ""
            words = Text(beam.stage.words, style=_STYLES.get(beam.state, ""))
            table.add_row(f"beam {beam.number}", bar, percent, words)
        head = Text.assemble(
            f"case {self._case}: ", (case_words(case, self._zone), "bold"), f"  ({seconds:.0f} s)"
        )
        return Group(head, table)


def case_words(case: CaseStatus | None, zone: tzinfo) -> str:
    """Where a case stands, in a few words; None where it was not seen yet."""
    if case is None:
        return "in the inbox, not seen yet"
    waits = case.state is CaseState.WAITING and case.reason
    return in_zone(case.reason, zone) if waits else case.stage.words


MACHINE = "GENERIC"
SETTINGS = {
    "site.name": "MQI demo",
    "intake.stable_seconds": 2.0,
    "intake.scan_interval_seconds": 5,
    "engine.histories": 200_000.0,
    "ui.port": 3010,
    "web.port": 8010,
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
    site = open_site(folder)
    settings = site.settings
    _install(settings, console)
    services = Services(site.settings_file, settings)
    running = services.running()
    if running is None:
        with console.status("starting Dagster: code location, daemon, pages"):
            ui, web = settings.ui, settings.web
            free = port_is_free(ui.host, ui.port) and port_is_free(web.host, web.port)
            running = start_services(services, settings, None if free else 0)
        if not free:
            console.print(f"port {ui.port} or {web.port} is taken: all pages have other ones this time")
    show_way_in(site, running, console)
    console.print(f"Dagster's pages: {running.pages.address}")
    delivered = _deliver(settings, console)
    with open_instance(settings) as instance:
        case = given_folder(site, delivered)[0].case
        keeper = Keeper(services, running, lambda words: console.print(Text(words), soft_wrap=True))
        _watch(instance, site, case, keeper, services.logs, timeout_seconds, console)
        console.print()
        console.print(results_table(beam_rows(instance, site, case)))
    console.print(f"\npaths begin at {escape(str(folder.resolve()))}", soft_wrap=True)
    console.print(f"case {case} handed over, {time.monotonic() - began:.0f} s after the start")
    show_way_in(site, running, console)
    console.print(f"Dagster's pages, with lineage and logs: {running.pages.address}")
    console.print("`make stop` ends them")


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
    delivered = settings.paths.inbox / uid
    if delivered.is_dir():
        console.print("delivery: the case of an earlier demo, still in the inbox")
        return delivered
    case = simulate_delivery(DeliveryRequest(plan=plan, seed=SEED), machine, settings.paths.inbox)
    console.print(
        f"delivery: {len(case.deliveries)} beams, {case.samples:,} samples, simulated into the inbox"
    )
    return case.folder


def _watch(
    instance: dg.DagsterInstance,
    site: Site,
    case: str,
    keeper: Keeper,
    logs: Path,
    patience_seconds: float,
    console: Console,
) -> None:
    """Return once the case is concluded; DemoError where a beam fails, or nothing moves for so long."""
    began = moved = time.monotonic()
    before: object = None
    work = Worklist(instance, site, PIPELINES, site.ledger)
    display = BoardDisplay(console, case, site.timezone)
    with display.shown():
        while True:
            work.snapshot()
            stand, beams = work.case(case), work.beams_of(case)
            display.show(stand, beams, time.monotonic() - began)
            failed = [row for row in (*beams, stand) if row is not None and row.state is CaseState.FAILED]
            if failed or (stand is not None and stand.stage is Stage.CONCLUDED):
                break
            if not keeper.check():
                raise DemoError("`mqi stop` has ended the services; type `mqi demo` again to go on")
            now = [(row.stage, row.percent) for row in (*beams, stand) if row is not None]
            if now != before:
                before, moved = now, time.monotonic()
            if time.monotonic() - moved > patience_seconds:
                raise DemoError(
                    f"nothing has moved for {patience_seconds:g} s (--timeout); what is stuck:"
                    f" {_stuck(stand, beams, site.timezone)}; the services go on; logs: {logs}"
                )
            time.sleep(_POLL_SECONDS)
    if failed:
        for row in failed:
            if isinstance(row, BeamStatus):
                words = f"beam {row.number} failed: {in_zone(row.reason, site.timezone)}"
                console.print(Text(words, style="red"), soft_wrap=True)
        reason = in_zone(failed[0].reason, site.timezone)
        raise DemoError(f"{reason} (to try again once the cause is gone: mqi case retry {case})")


def _stuck(case: CaseStatus | None, beams: Sequence[BeamStatus], zone: tzinfo) -> str:
    stuck = [f"case: {case_words(case, zone)}"]
    for beam in beams:
        if beam.stage is not Stage.HANDED_OVER:
            percent = f" {beam.percent:.0f} %" if beam.percent else ""
            stuck.append(f"beam {beam.number}: {beam.stage.words}{percent}")
    return ", ".join(stuck)
