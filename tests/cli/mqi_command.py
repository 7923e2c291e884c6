"""The command as a person calls it: a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MQI = Path(sys.executable).parent / "mqi"


def mqi(
    *arguments: str | Path, timeout: float = 200.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``mqi`` without a terminal."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER", "MQI"))}
    return subprocess.run(
        [str(MQI), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**inherited, "COLUMNS": "160"},
    )
