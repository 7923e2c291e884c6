"""Where a command prints."""

import sys
from typing import TextIO

from rich.console import Console

_WIDEST = 10_000


def output(*, stderr: bool = False, file: TextIO | None = None) -> Console:
    """Standard output, standard error or a file; in a file or a pipe nothing is cut or wrapped."""
    stream = file or (sys.stderr if stderr else sys.stdout)
    width = None if stream.isatty() else _WIDEST
    return Console(stderr=stderr, file=file, highlight=False, width=width)
