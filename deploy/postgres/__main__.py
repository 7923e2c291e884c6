"""``python3 deploy/postgres``: works with any Python 3.11, without anything installed."""

from __future__ import annotations

import sys
from pathlib import Path

# Python puts this folder itself on the path; the package is found from the folder above it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from postgres.command import main

sys.exit(main())
