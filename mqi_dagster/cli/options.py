"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from mqi_dagster.cli.completion import completed
from mqi_dagster.lifecycle.stages import CaseState
from mqi_dagster.operations.completion import beams, cases, courses, image_sets
from mqi_dagster.operations.sites import SITE_VARIABLE

SiteOption = Annotated[
    Path, typer.Option("--site", help="Folder of the site, or its settings file.", envvar=SITE_VARIABLE)
]

GivenSite = Annotated[
    Path | None,
    typer.Option(
        "--site",
        help="Site whose settings and machine files count; else ./site if it is one, else the packaged ones.",
        envvar=SITE_VARIABLE,
    ),
]
"""Of a command that also works without a site: see `site_in_use`."""

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]

CaseArgument = Annotated[
    str,
    typer.Argument(help="Key of the case, as `mqi case list` names it.", autocompletion=completed(cases)),
]
CaseOrBeam = Annotated[
    str,
    typer.Argument(
        metavar="CASE|BEAM", help="Key of a case or of a beam.", autocompletion=completed(cases, beams)
    ),
]
CourseArgument = Annotated[
    str,
    typer.Argument(
        help="Key of the course, as `mqi course list` names it.", autocompletion=completed(courses)
    ),
]
ImageSetArgument = Annotated[
    str,
    typer.Argument(
        metavar="REQUEST",
        help="Key of the request, as `mqi segmentation list` names it.",
        autocompletion=completed(image_sets),
    ),
]
BeamOption = Annotated[int | None, typer.Option("--beam", help="Only the beam of this BeamNumber.")]
StateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        help="Only what is in this state; may be repeated.",
        autocompletion=completed(lambda _site, _begin: [_in_one_word(state) for state in CaseState]),
    ),
]
AcceptOption = Annotated[bool | None, typer.Option("--accept/--reject", help="Without either: only look.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; needed to reject.")]
UserOption = Annotated[
    str | None,
    typer.Option("--user", help="Account that signs; its password is asked for."),
]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Until engines and jobs have ended.")]


def _in_one_word(state: CaseState) -> str:
    return state.value.replace(" ", "-")


def states_of(names: Iterable[str]) -> list[CaseState]:
    """What `--state` names; BadParameter where one is no state of a case."""
    try:
        return [CaseState(name.replace("-", " ")) for name in names]
    except ValueError:
        known = ", ".join(_in_one_word(state) for state in CaseState)
        raise typer.BadParameter(f"--state is one of {known}") from None
