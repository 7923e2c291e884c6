"""Where a command prints."""

import sys
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

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
