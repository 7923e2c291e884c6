"""Whether foreign bytes can be read as DICOM at all, tried by a child that may come to nothing.

A small file is harmless by its size. A large one can be made of millions of elements, each of which costs a
reader hundreds of bytes and microseconds: a child with limits of memory and processor time reads it first, so
that none of our processes dies of it or hangs.
"""

from __future__ import annotations

import io
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pydicom import config, dcmread

MEMORY_BYTES = 1_000_000_000
CPU_SECONDS = 20
_WALL_SECONDS = 300.0
_TOO_MUCH = 3


def can_be_read(content: bytes, memory_bytes: int = MEMORY_BYTES, cpu_seconds: int = CPU_SECONDS) -> bool:
    """Whether a child has read the whole content within its limits, or found out within them that it cannot.

    Args:
        content: Of the file.
        memory_bytes: Most memory that reading it may need.
        cpu_seconds: Most processor time.
    """
    command = [sys.executable, "-m", "mqi_dagster.dicom.proof", str(memory_bytes), str(cpu_seconds)]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=_WALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _limit(memory_bytes: int, cpu_seconds: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    # Libraries reserve addresses that they never use: the limit counts from here.
    most = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(arguments: Sequence[str]) -> int:
    """Read standard input to the end; 0 where that was possible within the limits."""
    _limit(*map(int, arguments))
    try:
        with config.disable_value_validation():
            for _ in dcmread(io.BytesIO(sys.stdin.buffer.read()), force=True).iterall():
                pass
    except MemoryError:
        return _TOO_MUCH
    except Exception:  # noqa: BLE001 - that it is damaged is for the reader to say
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
