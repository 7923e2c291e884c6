"""Fixtures of the tests of Dagster's pages."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(TESTS / "chain"), str(TESTS / "services")]
