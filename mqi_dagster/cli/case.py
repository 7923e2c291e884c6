"""``mqi case …``: what a person does with one case."""

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from mqi_dagster.cli.options import (
    AcceptOption,
    BeamOption,
    CaseArgument,
    CaseOrBeam,
    GivenSite,
    JsonOption,
    ReasonOption,
    SiteOption,
    StateOption,
    UserOption,
    WaitOption,
    states_of,
)
from mqi_dagster.cli.screen import hide_previews, output, print_json
from mqi_dagster.errors import MqiError
from mqi_dagster.operations.sites import DEFAULT_SITE, SETTINGS_NAME, open_site, settings_path, site_in_use

case_app = typer.Typer(help="Check, run and look at cases.", no_args_is_help=True)

Folder = Annotated[
    Path,
    typer.Argument(exists=True, file_okay=False, help="The case: the RT plan and its delivery folders."),
]
ZoneOption = Annotated[
    str | None,
    typer.Option("--timezone", help="IANA zone of the machines' times; else the site's or the computer's."),
]

PriorityOption = Annotated[
    int | None,
    typer.Option(
        "--priority",
        min=-100,
        max=100,
        help="Of several runs into one DIR that wait for a slot the highest is next; 0 is ordinary. It says"
        " nothing to the services of another site: `mqi case priority` does.",
    ),
]


def _note(text: str) -> None:
    output(stderr=True).print(Text(text, style="dim"), soft_wrap=True)


@case_app.command("check")
def check(
    folder: Folder,
    site: GivenSite = None,
    machines: Annotated[
        Path | None, typer.Option("--machines", exists=True, file_okay=False, help="Other machine files.")
    ] = None,
    timezone: ZoneOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that a delivered case is whole and consistent; nothing is simulated or written."""
    from mqi_dagster.dicom.light_pydicom import load_pydicom

    load_pydicom()
    from mqi_dagster.cli.case_check import check_folder, show_check

    used = site_in_use(site)
    found, zone = check_folder(folder, used, machines, timezone)
    if site is None and used is not None:
        _note(f"Settings and machine files: those of {used}.")
    if timezone is None and used is None:
        _note(f"Machine times are read in {zone}, this computer's zone; --timezone names another.")
    if as_json:
        print_json({"timezone": zone, **found.model_dump(mode="json")})
    else:
        show_check(output(), found)
    if not found.passed:
        raise typer.Exit(1)


@case_app.command("run")
def run(
    folder: Folder,
    out: Annotated[
        Path, typer.Option("--out", file_okay=False, help="Folder of the results: a site of its own.")
    ],
    site: Annotated[
        Path | None,
        typer.Option(
            "--site",
            help="Site whose settings and machine files are copied; else those that DIR has of an earlier"
            " run, else of MQI_SITE or ./site, else the packaged ones.",
        ),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option("--settings", exists=True, dir_okay=False, help="Settings to copy.")
    ] = None,
    histories: Annotated[
        float | None, typer.Option("--histories", min=8000, help="Histories per beam.")
    ] = None,
    machine_files: Annotated[
        list[Path] | None,
        typer.Option("--machine-files", exists=True, help="Machine file or folder of them; may be repeated."),
    ] = None,
    beams_order: Annotated[
        str | None, typer.Option("--beams-order", help="BeamNumbers to begin with, separated by commas.")
    ] = None,
    priority: PriorityOption = None,
    timezone: ZoneOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a case from delivery records to verified RT Doses, without services, into one folder.

    DIR becomes a site of its own: settings, secret, machine files, store, ledger, hand-over and Dagster's
    records all stand in it, and a later run into it computes only what has changed.
    """
    if site is not None and settings is not None:
        raise typer.BadParameter("--site and --settings both name the settings: give one of them")
    from mqi_dagster.dicom.light_pydicom import load_pydicom

    first = _numbers(beams_order)
    load_pydicom()
    hide_previews()
    from mqi_dagster.cli.beam_progress import BeamProgress, own_console
    from mqi_dagster.cli.results_table import show_results
    from mqi_dagster.operations.case_run import CaseRun, CaseRunner
    from mqi_dagster.operations.results import CaseResult, overall
    from mqi_dagster.operations.site_folder import RunOptions
    from mqi_dagster.worklist import CaseState

    if site is None and settings is None and not (out / SETTINGS_NAME).is_file():
        site = site_in_use(None)
        if site is not None:
            _note(f"Settings and machine files are those of the site {site}.")
    base = settings_path(site) if site is not None else settings
    options = RunOptions(base, tuple(machine_files or ()), timezone, histories)
    results: list[CaseResult] = []
    error: str | None = None
    try:
        with BeamProgress(own_console()) as progress:
            runner = CaseRunner(CaseRun(folder, out, options, first, priority), progress)
            zone = runner.site.settings.site.timezone
            if timezone is None and base is None:
                _note(f"Machine times are read in {zone}, as the folder's settings say.")
            results = runner.run()
    except MqiError as failure:
        if not as_json:
            raise
        error = str(failure)
    state = overall(results)
    if as_json:
        cases = [result.model_dump(mode="json") for result in results]
        print_json({"status": state.value, "error": error, "cases": cases})
    else:
        show_results(output(), results)
    if state is CaseState.FAILED:
        raise typer.Exit(1)


@case_app.command("list")
def list_cases(
    site: SiteOption = DEFAULT_SITE,
    state: StateOption = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="The newest so many; 0 for all.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List the cases of a site: where each stands, and why."""
    hide_previews()
    from mqi_dagster.assets.pipelines import PIPELINES
    from mqi_dagster.cli.case_show import show_cases
    from mqi_dagster.operations.instance import open_instance
    from mqi_dagster.partitions import CASE
    from mqi_dagster.worklist import Worklist

    states = states_of(state or ())
    opened = open_site(site)
    with open_instance(opened.settings) as instance:
        work = Worklist(instance, opened, PIPELINES, opened.ledger)
        work.snapshot()
        wanted = (row for row in work.every_case(CASE) if not states or row.state in states)
        rows = list(islice(wanted, limit or None))
        beams = {row.case: work.beams_of(row.case) for row in rows}
    if as_json:
        print_json([row.model_dump(mode="json") for row in rows])
        return
    show_cases(output(), rows, beams, opened.timezone)
    if limit and len(rows) == limit:
        _note(f"The newest {limit}; --limit 0 lists all.")


@case_app.command("show")
def show(case: CaseArgument, site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False) -> None:
    """Show everything about one case, with the real paths of its files, which stand nowhere else."""
    hide_previews()
    from mqi_dagster.cli.case_show import show_case
    from mqi_dagster.operations.case_report import case_report
    from mqi_dagster.operations.instance import open_instance

    opened = open_site(site)
    with open_instance(opened.settings) as instance:
        report = case_report(instance, opened, case)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        show_case(output(), report, opened.timezone)


@case_app.command("retry")
def retry_failed(
    name: CaseOrBeam,
    site: SiteOption = DEFAULT_SITE,
    beam: BeamOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run once more what has failed of a case, in the running services."""
    hide_previews()
    from mqi_dagster.cli.run_control import retry_and_show

    retry_and_show(open_site(site), name, beam, as_json)


@case_app.command("cancel")
def cancel_runs(
    name: CaseOrBeam,
    site: SiteOption = DEFAULT_SITE,
    beam: BeamOption = None,
    wait: WaitOption = True,
    as_json: JsonOption = False,
) -> None:
    """End what is queued or in work of a case, with its engines and jobs; `mqi case retry` begins it anew.

    What goes on all the same after three minutes is named, with exit code 1.
    """
    hide_previews()
    from mqi_dagster.cli.run_control import cancel_and_show

    cancel_and_show(open_site(site), name, beam, wait, as_json)


@case_app.command("retake")
def retake_arrival(case: CaseArgument, site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False) -> None:
    """Take a case in once more although its files are as they were: after a machine file was mended."""
    hide_previews()
    from mqi_dagster.cli.run_control import retake_and_show

    retake_and_show(open_site(site), case, as_json)


@case_app.command("review")
def review_results(
    name: CaseOrBeam,
    accept: AcceptOption = None,
    reason: ReasonOption = "",
    user: UserOption = None,
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Say who has accepted or rejected the results of a case or beam; accept or reject them."""
    hide_previews()
    from mqi_dagster.cli.reviewing import review_and_show

    review_and_show(open_site(site), name, accept, reason, user, as_json)


@case_app.command("priority")
def set_priority(
    case: CaseArgument,
    priority: Annotated[int, typer.Argument(min=-100, max=100, help="Higher comes first, 0 is ordinary.")],
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Say how urgent a case is: what of it waits overtakes what is less urgent."""
    hide_previews()
    from mqi_dagster.operations.instance import open_instance
    from mqi_dagster.operations.priority import make_urgent
    from mqi_dagster.people.rights import Actor

    opened = open_site(site)
    with open_instance(opened.settings) as instance:
        moved = make_urgent(instance, opened, Actor.of_this_account(), case, priority)
    if as_json:
        print_json({"case": case, "priority": priority, "queued_runs": moved})
        return
    output().print(Text(f"{case}: priority {priority}; {moved} of its runs are in the queue"), soft_wrap=True)


def _numbers(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts) or len(set(parts)) != len(parts):
        raise typer.BadParameter("--beams-order is a list of different numbers, like 3,2")
    return tuple(int(part) for part in parts)
