"""The rooms of other tests that this one is built from."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOMS = ("cluster", "slurm", "services", "chain", "postgres", "worklist")
for folder in (HERE, *(HERE.parent / name for name in ROOMS)):
    sys.path.insert(0, str(folder))
