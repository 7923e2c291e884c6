"""What the process imports that run workers are forked from; nothing else imports this.

The code location takes a worker for dead once that process is gone, and the run is executed again: so the
kernel ends each worker with it.
"""

from __future__ import annotations

import ctypes
import os
import signal

import mqi_dagster.definitions
import mqi_dagster.pictures.dose
import mqi_dagster.pictures.spots  # noqa: F401

# Not polars, which a step imports itself: its threads must not be there when a worker is forked.

_PR_SET_PDEATHSIG = 1
_forking = 0
"""The process that forks at this moment."""


def _note_who_forks() -> None:
    global _forking
    _forking = os.getpid()


def _end_with_who_forked() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # It may have died before the tie was made.
    if os.getppid() != _forking:
        os._exit(1)


os.register_at_fork(before=_note_who_forks, after_in_child=_end_with_who_forked)
