"""The rooms of other tests that this one is built from."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in (HERE, *(HERE.parent / name for name in ("cluster", "slurm", "services", "chain", "postgres"))):
    sys.path.insert(0, str(folder))
