"""Becomes another program that dies with the process that wanted it.

Run as a script by the local executor: ``python launch.py <parent pid> <program> <argv...>``. It needs nothing
but the standard library, so that it starts fast and from any folder.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
CANNOT_START = 127


def main(arguments: list[str]) -> int:
    """Tie this process to its parent and become the wanted program.

    Args:
        arguments: Pid of the parent, path of the program, and the program's whole argv.

    Returns:
        An exit code, only where the program could not be started.
    """
    parent, program, *argv = arguments
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.stderr.write("the program cannot be tied to its parent\n")
        return CANNOT_START
    # The parent may have died before the tie was made: then nobody would ever end this process.
    if os.getppid() != int(parent):
        return CANNOT_START
    try:
        os.execv(program, argv)
    except OSError as error:
        sys.stderr.write(f"the program cannot be started: {error.strerror}\n")
    return CANNOT_START


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
