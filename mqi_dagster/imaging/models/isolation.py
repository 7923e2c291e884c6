"""Whether this machine can take the network from a program, and how."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cache

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.execution.processes import ask
from mqi_dagster.tied import tied_command

_COMMANDS = (("unshare", "--net"), ("unshare", "--map-current-user", "--net"))
NOT_ISOLATED = "not taken away"
"""How the words of a program begin that could have reached the network."""


@cache
def isolation() -> tuple[tuple[str, ...], str]:
    """What to put before a program to take the network from it, and what that does in words.

    Nothing, and words that begin with `NOT_ISOLATED`, where the machine permits it to nobody.
    """
    for command in _COMMANDS:
        try:
            if ask([*command, "true"]).returncode == 0:
                return command, "none: a network namespace without interfaces"
        except (ConfigurationError, OSError, subprocess.SubprocessError):
            continue
    return (), f"{NOT_ISOLATED}: this machine permits no network namespace (unshare)"


def within(isolated: Sequence[str], argv: Sequence[str]) -> list[str]:
    """A program's arguments with the isolation before them.

    Args:
        isolated: Of `isolation`.
        argv: Absolute path of the program, and its arguments.
    """
    # Tied once more inside: a change of credentials makes the kernel forget the tie.
    return [*isolated, *tied_command(argv[0], *argv)] if isolated else list(argv)
