"""A program that dies with the process that wanted it.

This file is also the script that becomes it, ``python tied.py <parent pid> <program> <argv...>``: it needs
nothing but the standard library, so that it starts fast and from any folder.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
CANNOT_START = 127


def tied_command(program: str, *argv: str) -> list[str]:
    """The command that becomes a program which ends with the thread of this process that starts it."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), program, *argv]


def tie_to(parent: int) -> bool:
    """Have the kernel end this process with its parent; whether that is agreed and the parent still lives."""
    agreed = ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0
    # The parent may have died before the tie was made: then nobody would ever end this process.
    return agreed and os.getppid() == parent


def main(arguments: list[str]) -> int:
    """Tie this process to its parent and become the wanted program.

    Args:
        arguments: Pid of the parent, path of the program, and the program's whole argv.

    Returns:
        An exit code, only where the program could not be started.
    """
    parent, program, *argv = arguments
    if not tie_to(int(parent)):
        sys.stderr.write("the program cannot be tied to its parent\n")
        return CANNOT_START
    try:
        os.execv(program, argv)
    except OSError as error:
        sys.stderr.write(f"the program cannot be started: {error.strerror}\n")
    return CANNOT_START


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
