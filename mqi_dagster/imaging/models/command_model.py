"""Any program as a model: files in, a NIfTI label map out, in an environment of its own.

The program is given copies of the images in a folder that goes when it ends, few variables, and no network
where the machine can take it away. It runs in a process group of its own that is ended whole. That it ended
well proves nothing: what it has left behind is opened and verified.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mqi_dagster.errors import MqiError
from mqi_dagster.execution.processes import (
    end_group,
    exit_code,
    living_members,
    process_id,
    resolve_program,
    start_tied,
)
from mqi_dagster.imaging.models.card import Device, Model, Program, filled
from mqi_dagster.imaging.models.isolation import isolation, within
from mqi_dagster.imaging.models.label_map import LABEL_MAP, read_image, read_label_map
from mqi_dagster.imaging.models.model_errors import (
    LONGEST_LOG,
    ModelCardError,
    ModelError,
    ModelTimeoutError,
)
from mqi_dagster.imaging.models.running import Outcome, RunOptions
from mqi_dagster.processes.worker_counts import THREAD_VARIABLES

INPUTS = "inputs"
_QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
_GPU_FILE = re.compile(r"/dev/(nvidia[0-9]+|kfd|dxg)")
"""What NVIDIA's, AMD's and WSL's drivers are opened by."""
_POLL_SECONDS = 0.1
_SAMPLE_SECONDS = 0.5
_GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A program ready to start."""

    argv: Sequence[str]
    output: Path
    """The NIfTI file that it shall leave."""
    environment: Mapping[str, str] = field(default_factory=dict)
    in_pieces: bool = False
    remarks: tuple[str, ...] = ()


@dataclass(slots=True)
class _Seen:
    """What the kernel said of a program while it ran."""

    peak_bytes: int = 0
    gpu: bool = False


def run_command(model: Model, images: Mapping[str, Path], options: RunOptions) -> Outcome:
    """Segment with the program of a card.

    Args:
        model: Its weights are verified.
        images: A NIfTI file for each role, in the card's order.
        options: Device, threads, limits.

    Raises:
        ConfigurationError: The program is not on this machine.
        ModelCardError: It has no such device; or it has to be kept from the network and cannot be.
        ModelInputError: An image cannot be read.
        ModelError: It fails, hangs, or leaves no valid label map.
        InfrastructureError: No process can be started, or one cannot be ended.
    """
    return run_program(model, images, options, _prepared)


def _prepared(model: Model, images: Mapping[str, Path], scratch: Path, options: RunOptions) -> Prepared:
    runtime = model.card.command
    if runtime is None or options.device not in runtime.device_words:
        raise ModelCardError(f"it cannot use the device {options.device}", where=model.where)
    output = scratch / LABEL_MAP
    values = {
        "model": str(model.folder),
        "inputs": str(scratch / INPUTS),
        "output": str(output),
        "scratch": str(scratch),
        "device": runtime.device_words[options.device],
        "threads": str(options.threads),
        **{f"input:{role}": str(path) for role, path in images.items()},
    }
    in_pieces = options.in_pieces and bool(runtime.in_pieces)
    words = [*runtime.argv, *(runtime.in_pieces if in_pieces else ())]
    remarks = ("pieces were asked for, and its card has none",) if options.in_pieces and not in_pieces else ()
    return Prepared(filled(words, values), output, in_pieces=in_pieces, remarks=remarks)


def run_program(
    model: Model,
    images: Mapping[str, Path],
    options: RunOptions,
    prepare: Callable[[Model, Mapping[str, Path], Path, RunOptions], Prepared],
) -> Outcome:
    """Prepare and start a program, wait for its end and verify what it has left; see :func:`run_command`.

    Args:
        model: Whose program it is; its card has a section of its runtime, with a time limit.
        images: A NIfTI file for each role. The program is given copies, which it may change.
        options: Device, threads, limits.
        prepare: Is given the model, the copies, a working folder that goes when this ends, and the options.
    """
    with tempfile.TemporaryDirectory(prefix="mqi-model-") as name:
        scratch = Path(name)
        folder = scratch / INPUTS
        folder.mkdir()
        copies = {role: Path(shutil.copyfile(path, folder / path.name)) for role, path in images.items()}
        return _verified(model, prepare(model, copies, scratch, options), copies, scratch, options)


def _verified(
    model: Model, prepared: Prepared, images: Mapping[str, Path], scratch: Path, options: RunOptions
) -> Outcome:
    program = model.card.program
    if program is None:
        raise ModelCardError("its runtime is no program", where=model.where)
    role, first = next(iter(images.items()))
    image = read_image(first, role)
    isolated, network = isolation()
    if not isolated and options.require_isolation:
        raise ModelCardError(f"it has to be kept from the network, and is not: {network}", where=model.where)
    try:
        argv = [str(resolve_program(prepared.argv[0])), *prepared.argv[1:]]
        seen = _run(model, within(isolated, argv), prepared, program, scratch, options)
    except MqiError as error:
        raise error.at(model.where) from None
    used: Device = "gpu" if seen.gpu else "cpu"
    remarks = list(prepared.remarks)
    if used != options.device:
        remarks.append(f"{options.device} was asked for, and the program has opened no such device")
    return Outcome(
        labels=read_label_map(prepared.output, model, image),
        image=image,
        device_used=used,
        provider=Path(argv[0]).name,
        network=network,
        in_pieces=prepared.in_pieces,
        program_peak_bytes=seen.peak_bytes,
        remarks=tuple(remarks),
    )


def _run(
    model: Model,
    argv: Sequence[str],
    prepared: Prepared,
    program: Program,
    scratch: Path,
    options: RunOptions,
) -> _Seen:
    limit = options.time_limit_s or program.time_limit_s
    log = scratch / "program.log"
    seen = _Seen()
    with log.open("wb") as stream:
        process = start_tied(
            argv,
            directory=scratch,
            environment=_environment(prepared, program, scratch, options),
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        name = process_id(process.pid)
        try:
            code = _waited(process, name, time.monotonic() + limit, seen)
        finally:
            if process.returncode is None:
                end_group(name, _GRACE_SECONDS)
                process.wait()
    if code is None:
        raise ModelTimeoutError(f"it ran longer than {limit:g} s and was ended", log=_end_of(log))
    if code != 0:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise ModelError(f"its program {how}", exit_code=code, log=_end_of(log))
    return seen


def _waited(process: subprocess.Popen[bytes], name: str, deadline: float, seen: _Seen) -> int | None:
    """The exit code; None where the time is over first."""
    next_sample = time.monotonic()
    while (code := exit_code(process)) is None:
        now = time.monotonic()
        if now > deadline:
            return None
        if now >= next_sample:
            _look_at(living_members(name), seen)
            next_sample = now + _SAMPLE_SECONDS
        time.sleep(_POLL_SECONDS)
    return code


def _look_at(pids: Sequence[int], seen: _Seen) -> None:
    pages = 0
    for pid in pids:
        # A process may end, or be another user's, between the list and the look.
        with suppress(OSError):
            folder = Path("/proc", str(pid))
            pages += int((folder / "statm").read_text().split()[1])
            seen.gpu = seen.gpu or any(
                _GPU_FILE.fullmatch(str(one.readlink())) for one in (folder / "fd").iterdir()
            )
    seen.peak_bytes = max(seen.peak_bytes, pages * os.sysconf("SC_PAGE_SIZE"))


def _environment(prepared: Prepared, program: Program, scratch: Path, options: RunOptions) -> dict[str, str]:
    private = {"HOME": scratch, "TMPDIR": scratch / "tmp", "XDG_CACHE_HOME": scratch / "cache"}
    for folder in private.values():
        folder.mkdir(exist_ok=True)
    environment = {
        **{name: str(folder) for name, folder in private.items()},
        **dict.fromkeys(THREAD_VARIABLES, str(options.threads)),
        **_QUIET,
        **program.environment,
        **prepared.environment,
    }
    if options.device != "gpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    elif options.gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = options.gpu
    return environment


def _end_of(log: Path) -> str:
    with suppress(OSError), log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - LONGEST_LOG))
        return stream.read().decode(errors="replace")
    return ""
