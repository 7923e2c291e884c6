"""``mqi course …``: courses of radiotherapy, from a tree of DICOM files to pages and tables."""

from __future__ import annotations

import os
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperCommand

from mqi_dagster.cli.options import (
    AcceptOption,
    CourseArgument,
    JsonOption,
    ReasonOption,
    SiteOption,
    StateOption,
    UserOption,
    WaitOption,
    states_of,
)
from mqi_dagster.cli.screen import hide_previews, output, print_json
from mqi_dagster.errors import ConfigurationError, MqiError
from mqi_dagster.operations.sites import DEFAULT_SITE, SETTINGS_NAME, open_site, settings_path, site_in_use
from mqi_dagster.processes.worker_counts import STAGES
from mqi_dagster.settings.radiotherapy import ModelDevice

course_app = typer.Typer(help="Run and look at courses of radiotherapy.", no_args_is_help=True)

Stage = StrEnum("Stage", {stage: stage for stage in STAGES})  # type: ignore[misc]
"""What ``--stage`` takes."""

Workers = Annotated[int | None, typer.Option(min=1)]


def _note(text: str) -> None:
    output(stderr=True).print(Text(text, style="dim"), soft_wrap=True)


class _PlainHelp(TyperCommand):
    """A command whose help is plain lines: a table of 80 columns would cut the names of its options."""

    def __init__(self, name: str | None, **settings: Any) -> None:
        super().__init__(name, **{**settings, "rich_markup_mode": None})


@course_app.command(
    "run", cls=_PlainHelp, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def run(
    context: typer.Context,
    out: Annotated[
        Path | None,
        typer.Option("--out", "--outdir", file_okay=False, help="Folder of the results: a site of its own."),
    ] = None,
    dicom_root: Annotated[
        Path | None,
        typer.Option("--dicom-root", file_okay=False, exists=True, help="Tree of DICOM files; only read."),
    ] = None,
    stage: Annotated[
        list[Stage] | None,
        typer.Option(
            "--stage", metavar="STAGE", help=f"Only {', '.join(STAGES)}; may be repeated. Without: all."
        ),
    ] = None,
    course: Annotated[
        list[str] | None, typer.Option("--course", help="Only the course of this key; may be repeated.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", exists=True, dir_okay=False, help="A configuration of rtpipeline (YAML)."),
    ] = None,
    site: Annotated[
        Path | None,
        typer.Option(
            "--site",
            help="Site whose settings are copied; else those that the folder has of an earlier run, else of"
            " MQI_SITE or ./site, else the packaged ones.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", "--max-workers", min=1, help="Courses at once; else processors - 1."),
    ] = None,
    seg_workers: Annotated[
        int | None, typer.Option("--seg-workers", min=1, help="Courses at once in automatic segmentation.")
    ] = None,
    seg_proc_threads: Annotated[
        int | None, typer.Option("--seg-proc-threads", min=1, help="Threads of one model.")
    ] = None,
    custom_model_workers: Annotated[
        int | None,
        typer.Option("--custom-model-workers", min=1, help="Courses at once in the site's own models."),
    ] = None,
    custom_models_root: Annotated[
        Path | None,
        typer.Option("--custom-models-root", file_okay=False, exists=True, help="Folder of these models."),
    ] = None,
    totalseg_device: Annotated[
        ModelDevice | None, typer.Option("--totalseg-device", help="Where models begin.")
    ] = None,
    totalseg_allow_fallback: Annotated[
        bool | None,
        typer.Option(
            "--totalseg-allow-fallback/--no-totalseg-allow-fallback",
            help="For want of GPU memory in pieces, then on the processor; without a GPU give"
            " --totalseg-device cpu.",
        ),
    ] = None,
    totalseg_force_split: Annotated[
        bool | None,
        typer.Option(
            "--totalseg-force-split/--no-totalseg-force-split", help="Work in pieces from the start."
        ),
    ] = None,
    totalseg_nr_thr_resamp: Annotated[
        int | None, typer.Option("--totalseg-nr-thr-resamp", min=1, help="nnU-Net's threads to resample.")
    ] = None,
    totalseg_nr_thr_saving: Annotated[
        int | None, typer.Option("--totalseg-nr-thr-saving", min=1, help="nnU-Net's threads to save.")
    ] = None,
    totalseg_num_proc_pre: Annotated[
        int | None, typer.Option("--totalseg-num-proc-pre", min=1, help="nnU-Net's processes to prepare.")
    ] = None,
    totalseg_num_proc_export: Annotated[
        int | None, typer.Option("--totalseg-num-proc-export", min=1, help="nnU-Net's processes to export.")
    ] = None,
    sequential_radiomics: Annotated[
        bool | None,
        typer.Option(
            "--sequential-radiomics/--parallel-radiomics",
            help="One region after another, or several at once.",
        ),
    ] = None,
    radiomics_proc_threads: Annotated[
        int | None,
        typer.Option("--radiomics-proc-threads", min=1, help="Threads in each process of radiomics."),
    ] = None,
    radiomics_params: Annotated[
        Path | None,
        typer.Option("--radiomics-params", exists=True, dir_okay=False, help="Profile of radiomics for CT."),
    ] = None,
    radiomics_params_mr: Annotated[
        Path | None,
        typer.Option("--radiomics-params-mr", exists=True, dir_okay=False, help="The same for MR."),
    ] = None,
    custom_structures: Annotated[
        Path | None,
        typer.Option("--custom-structures", exists=True, dir_okay=False, help="YAML of derived structures."),
    ] = None,
    max_days: Annotated[
        int | None,
        typer.Option("--max-days", min=0, help="Plans farther apart are of different courses."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Take every course of a tree to its page, tables and quality report, without services, into one folder.

    The folder becomes a site of its own, and a later run into it computes only what has changed. What
    options do not say is taken from variables RTPIPELINE_…, then from --config, then from settings.
    """
    _refuse(context.args)
    from mqi_dagster.dicom.light_pydicom import load_pydicom

    load_pydicom()
    hide_previews()
    from mqi_dagster.cli.beam_progress import own_console
    from mqi_dagster.cli.course_progress import CourseProgress
    from mqi_dagster.cli.course_show import show_run
    from mqi_dagster.lifecycle.stages import CaseState
    from mqi_dagster.operations.course_results import RunResult
    from mqi_dagster.operations.course_run import CourseRun, CourseRunner
    from mqi_dagster.operations.site_folder import RunOptions
    from mqi_dagster.settings.rtpipeline import KNOWN, Asked, asked_for

    given = {
        known.field: _plain(value)
        for known in KNOWN
        if known.field and (value := context.params.get(known.option[2:].replace("-", "_"))) is not None
    }
    asked = asked_for(Asked(given, out), os.environ, config)
    if asked.out is None:
        raise typer.BadParameter("name the folder of the results: --out, or output_dir in --config")
    if site is None and not (asked.out / SETTINGS_NAME).is_file():
        site = site_in_use(None)
        if site is not None:
            _note(
                f"Settings are taken over from the site in the folder {site.resolve()}; to begin with others,"
                " name a site (--site), or run where there is no folder `site` and MQI_SITE is not set."
            )
    base = None if site is None else settings_path(site)
    options = RunOptions(base, radiotherapy=asked.section(), command="course run")
    request = CourseRun(asked.out, options, tuple(stage or ()), tuple(course or ()))
    result = RunResult(status=CaseState.FAILED, courses=())
    try:
        with CourseProgress(own_console()) as progress:
            result = CourseRunner(request, progress).run()
    except MqiError as failure:
        if not as_json:
            raise
        result = RunResult(status=CaseState.FAILED, courses=(), error=str(failure))
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        show_run(output(), result)
    if result.status is CaseState.FAILED:
        raise typer.Exit(1)


def _plain(value: object) -> object:
    """A value of an option as it stands in a settings file; a path is meant from the working directory."""
    if isinstance(value, Path):
        return str(value.resolve())
    return value.value if isinstance(value, StrEnum) else value


def _refuse(words: list[str]) -> None:
    """What is no option here: one of rtpipeline's is refused with the reason."""
    from mqi_dagster.settings.rtpipeline import refused_option

    for word in words:
        name = word.partition("=")[0]
        reason = refused_option(name)
        if reason is not None:
            raise ConfigurationError(f"{name} is refused: {reason}")
        if name.startswith("-"):
            raise typer.BadParameter(f"there is no option {name}")
    if words:
        raise typer.BadParameter(f"unexpected arguments: {' '.join(words)}")


@course_app.command("list")
def list_courses(
    site: SiteOption = DEFAULT_SITE,
    state: StateOption = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="The newest so many; 0 for all.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List the courses of a site: where each stands, its verdict, and why."""
    hide_previews()
    from mqi_dagster.cli.course_show import show_list
    from mqi_dagster.operations.course_report import course_rows
    from mqi_dagster.operations.instance import open_instance

    states = states_of(state or ())
    opened = open_site(site)
    with open_instance(opened.settings) as instance:
        wanted = (one for one in course_rows(instance, opened) if not states or one.row.state in states)
        rows = list(islice(wanted, limit or None))
    if as_json:
        print_json([one.model_dump(mode="json") for one in rows])
        return
    show_list(output(), rows, opened.timezone)
    if limit and len(rows) == limit:
        _note(f"The newest {limit}; --limit 0 lists all.")


@course_app.command("show")
def show(course: CourseArgument, site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False) -> None:
    """Show everything about one course, with the real paths of its files, which stand nowhere else."""
    hide_previews()
    from mqi_dagster.cli.course_show import show_details
    from mqi_dagster.operations.course_report import course_details
    from mqi_dagster.operations.instance import open_instance

    opened = open_site(site)
    with open_instance(opened.settings) as instance:
        found = course_details(instance, opened, course)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        show_details(output(), found, opened.timezone)


@course_app.command("identities")
def identities(
    out: Annotated[Path, typer.Option("--out", dir_okay=False, help="The CSV file; it names patients.")],
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Write whose courses are, as a CSV for this machine alone: key, patient ID, its issuer, name."""
    hide_previews()
    from mqi_dagster.operations.course_identities import write_identities
    from mqi_dagster.operations.instance import open_instance

    opened = open_site(site)
    with open_instance(opened.settings) as instance:
        count, unknown = write_identities(instance, opened, out)
    told = f"{count} course{'s' * (count != 1)}: this file names patients. Only you can read it: keep it so."
    output(stderr=True).print(Text(f"warning: {told}", style="yellow"), soft_wrap=True)
    if as_json:
        print_json({"file": str(out), "courses": count, "not_in_the_tree": unknown})
    elif unknown:
        _note(f"not in the tree any more: {', '.join(unknown)}")


@course_app.command("retry")
def retry_failed(
    course: CourseArgument, site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False
) -> None:
    """Run once more what has failed of a course, in the running services."""
    hide_previews()
    from mqi_dagster.cli.run_control import retry_and_show
    from mqi_dagster.partitions import COURSE

    retry_and_show(open_site(site), COURSE.key(course).text, None, as_json)


@course_app.command("cancel")
def cancel_runs(
    course: CourseArgument,
    site: SiteOption = DEFAULT_SITE,
    wait: WaitOption = True,
    as_json: JsonOption = False,
) -> None:
    """End what is queued or in work of a course, with its models; `mqi course retry` begins it anew.

    What goes on all the same after three minutes is named, with exit code 1.
    """
    hide_previews()
    from mqi_dagster.cli.run_control import cancel_and_show
    from mqi_dagster.partitions import COURSE

    cancel_and_show(open_site(site), COURSE.key(course).text, None, wait, as_json)


@course_app.command("retake")
def retake_arrival(
    course: CourseArgument, site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False
) -> None:
    """Work on a course once more although its files are as they were."""
    hide_previews()
    from mqi_dagster.cli.run_control import retake_and_show
    from mqi_dagster.partitions import COURSE

    retake_and_show(open_site(site), COURSE.key(course).text, as_json)


@course_app.command("review")
def review_results(
    course: CourseArgument,
    accept: AcceptOption = None,
    reason: ReasonOption = "",
    user: UserOption = None,
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Say who has accepted or rejected the results of a course; accept or reject them."""
    hide_previews()
    from mqi_dagster.cli.reviewing import review_and_show
    from mqi_dagster.partitions import COURSE

    review_and_show(open_site(site), COURSE.key(course).text, accept, reason, user, as_json)


@course_app.command("demo")
def demo(
    out: Annotated[
        Path, typer.Option("--out", file_okay=False, help="Folder of the demonstration: files and results.")
    ] = Path("site-demo-course"),
    wheel: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="The package of the images as a file, without a network."
        ),
    ] = None,
) -> None:
    """Take four real chest CTs, each with a drawn tumour and a made plan and dose, to pages and tables."""
    from mqi_dagster.dicom.light_pydicom import load_pydicom

    load_pydicom()
    hide_previews()
    from mqi_dagster.cli.beam_progress import own_console
    from mqi_dagster.cli.course_progress import CourseProgress
    from mqi_dagster.cli.course_show import show_run
    from mqi_dagster.cli.screen import show_rows
    from mqi_dagster.lifecycle.stages import CaseState
    from mqi_dagster.operations.course_demo import demo_rows, prepare_demo
    from mqi_dagster.operations.course_run import CourseRunner
    from mqi_dagster.synthetic.course_tree import LICENCE, WHEEL

    console = output()
    with console.status(f"fetching {WHEEL.words} for its images, unless they are there"):
        request, count = prepare_demo(out, wheel)
    console.print(
        Text(f"{count} chest CTs: {LICENCE}. Plans and doses are made around the tumours."), soft_wrap=True
    )
    with CourseProgress(own_console()) as progress:
        result = CourseRunner(request, progress).run()
    if result.tables is not None:
        rows = demo_rows(result.tables)
        show_rows(rows, False, {name: name for name in rows[0]} if rows else {}, "no figures")
    show_run(console, result)
    console.print(
        Text(f"everything about one: mqi course show COURSE --site {request.out}", style="dim"),
        soft_wrap=True,
    )
    if result.status is CaseState.FAILED:
        raise typer.Exit(1)
