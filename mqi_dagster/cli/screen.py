"""Where a command prints, and its tables and JSON."""

import json
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TextIO

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from mqi_dagster.errors import shown

_WIDEST = 10_000


class _Screen(Console):
    """A console on which no text moves the cursor or speaks to the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is printed of something; rich itself leaves what a terminal obeys as it is."""
        for segment in super().render(renderable, options):
            if segment.control is not None or segment.text.isprintable():
                yield segment
                continue
            lines = segment.text.split("\n")
            yield segment._replace(text="\n".join(shown(line, len(line)) for line in lines))


def output(*, stderr: bool = False, file: TextIO | None = None) -> Console:
    """Standard output, standard error or a file; in a file or a pipe nothing is cut or wrapped."""
    stream = file or (sys.stderr if stderr else sys.stdout)
    width = None if stream.isatty() else _WIDEST
    return _Screen(stderr=stderr, file=file, highlight=False, width=width)


def plain_table(
    *titles: str, right: Collection[str] = (), fold: Collection[str] = (), no_wrap: bool = True
) -> Table:
    """A table without lines and rows.

    Args:
        titles: Of its columns.
        right: Those whose cells stand at the right, as numbers do.
        fold: Those whose cells go on in the next line where they are too long.
        no_wrap: Whether the cells of all others stay in one line.
    """
    columns = [
        Column(
            title,
            justify="right" if title in right else "left",
            overflow="fold" if title in fold else "ellipsis",
            no_wrap=no_wrap and title not in fold,
        )
        for title in titles
    ]
    return Table(*columns, box=None, header_style="bold", padding=(0, 2, 0, 0))


def print_json(content: object) -> None:
    """Print one JSON document on standard output."""
    typer.echo(json.dumps(content, indent=1, default=datetime.isoformat))


def show_rows(
    rows: Sequence[Mapping[str, Any]],
    as_json: bool,
    columns: Mapping[str, str],
    nothing: str,
    shown_as: Callable[[str], str] = str,
) -> None:
    """Print rows as JSON, or as a table with the titles of its columns by key; `nothing` where there is none.

    `shown_as` makes what is shown of the text of a cell.
    """
    if as_json:
        print_json(rows)
    elif not rows:
        output().print(nothing)
    else:
        table = plain_table(*columns.values(), fold=columns.values())
        for row in rows:
            table.add_row(*(Text("" if row[key] is None else shown_as(str(row[key]))) for key in columns))
        output().print(table)


def hide_previews() -> None:
    """Hide Dagster's notes on its own previews, which are for developers."""
    from dagster import PreviewWarning

    warnings.simplefilter("ignore", category=PreviewWarning)
