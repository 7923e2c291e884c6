"""Functions that the tests give to the pool, in a module as it wants them."""

from __future__ import annotations

import errno
import os
import resource
import signal
from contextlib import suppress
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

from mqi_dagster.errors import InputError, Where
from mqi_dagster.files import write_whole
from tests.waiting import wait_for


def square(number: int) -> int:
    return number * number


def sines(seed: int) -> list[str]:
    """Numbers that a changed order of operations would change in the last digit."""
    import numpy as np

    values = np.sin(np.random.default_rng(seed).normal(size=100_000))
    return [float(values.sum()).hex(), float(values @ values).hex()]


def first_time(marker: str) -> bool:
    """Whether this is the first try; later ones find the marker, which holds this process's id."""
    path = Path(marker)
    if path.exists():
        return False
    write_whole(path, str(os.getpid()).encode())
    return True


def hang_once(marker: str) -> str:
    if first_time(marker):
        _hang()
    return "done"


def hang(marker: str, *, deaf: bool = False) -> None:
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    first_time(marker)
    _hang()


def _hang() -> None:
    while True:
        signal.pause()


def exit_with(code: int) -> None:
    os._exit(code)


def leave_with(code: int) -> None:
    raise SystemExit(code)


def fail(kind: str, text: str = "") -> None:
    raise {"memory": MemoryError, "value": ValueError, "runtime": RuntimeError}[kind](text)


def fail_typed() -> None:
    raise InputError("two frames of reference", where=Where(kind="RT dose"))


def run_out_of_disk_once(marker: str) -> str:
    if first_time(marker):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/DOE^JANE")
    return "done"


def write_bytes(path: str, count: int) -> int:
    write_whole(Path(path), bytes(count))
    return count


def array_to_file(path: str) -> None:
    import numpy as np

    np.zeros(1_000_000).tofile(path)


def unheard_of() -> object:
    return object()


def gpu_model(device: str, succeeds_on: str, text: str) -> str:
    """A stand-in for a model: what it says where its device is another than the one it can do with."""
    if device != succeeds_on:
        raise RuntimeError(text)
    return device


def use_memory(megabytes: int) -> int:
    """Hold so much memory; the limit in bytes under which it was possible."""
    held = bytearray(megabytes << 20)
    assert len(held) == megabytes << 20
    return resource.getrlimit(resource.RLIMIT_AS)[0]


def use_array(megabytes: int) -> int:
    import numpy as np

    return int(np.ones(megabytes << 20, dtype=np.uint8)[::4096].sum())


def load_library() -> None:
    """Load a library alone, of which nothing has to be compiled first."""
    package = find_spec("numpy")
    assert package is not None and package.origin is not None
    (library,) = Path(package.origin).parent.glob("_core/_multiarray_umath.*.so")
    alone = spec_from_file_location("numpy._core._multiarray_umath", library)
    assert alone is not None
    module_from_spec(alone)


def environment(names: list[str]) -> dict[str, str]:
    """Variables as they were when this program started, before it could import anything."""
    lines = Path("/proc/self/environ").read_bytes().decode().split("\0")
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    return {name: found[name] for name in names}


def crash_beside_others(folder: str, name: str, others: list[str]) -> list[str]:
    """Crash beside the others, and tell at the second try who runs; they run on until one would see it."""
    running, crashed, again = Path(folder, "running"), Path(folder, "crashed"), Path(folder, "again")
    if name not in others:
        if not crashed.exists():
            wait_for(lambda: len(list(running.iterdir())) == len(others), "the others run")
            first_time(str(crashed))
            os.abort()
        again.touch()
        return sorted(path.name for path in running.iterdir())
    own = running / name
    own.touch()
    wait_for(crashed.exists, "the crash")
    with suppress(AssertionError):
        wait_for(again.exists, "a second try that comes too early", seconds=1.5)
    own.unlink()
    return [name]
