"""What the process imports that run workers are forked from; nothing else of the package imports this.

The code location takes a worker for dead once that process is gone, and the run is executed again: so the
kernel ends each worker with it. It ends by itself, once the code location and its last worker have ended.
"""

from __future__ import annotations

import gc
import os
import signal
import traceback
from contextlib import suppress
from pathlib import Path

from mqi_dagster.tied import tie_to

_SOONER = "300"
"""Where memory runs out, one worker ends, and not the process that all are tied to."""
_warm = os.getpid()
_forking = 0
"""The process that forks at this moment."""

# Who ends the services asks everything of their session; workers need their time to end what they have begun.
signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _note_who_forks() -> None:
    global _forking
    _forking = os.getpid()


def _end_with_who_forked() -> None:
    if _forking == _warm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(_SOONER)
    if not tie_to(_forking):
        os._exit(1)


os.register_at_fork(before=_note_who_forks, after_in_child=_end_with_who_forked)

try:
    # Not polars, which a step imports itself: its threads must not be there when a worker is forked.
    import mqi_dagster.definitions
    import mqi_dagster.pictures.dose
    import mqi_dagster.pictures.spots  # noqa: F401
except Exception:  # noqa: BLE001 - each worker imports for itself then, and its run says what is wrong
    traceback.print_exc()
# Else the first collection of each worker writes to, and so copies, all that it shares with the others.
gc.freeze()
