"""Why a process ended before its work was done: by its exception, its exit code, or what it has printed.

What ends for want of memory is done again with less. Texts count only as the whole phrase or identifier in
which CUDA, ROCm, their libraries, PyTorch, onnxruntime, TensorFlow, JAX and the C++ runtime say it: ``zoom``
holds ``oom``, too.
"""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Iterator
from enum import StrEnum


class Cause(StrEnum):
    """Why a try of a task ended."""

    MEMORY = "memory"
    """The machine's memory, or the share of it that the process may use, was too small."""
    GPU_MEMORY = "GPU memory"
    """The GPU's memory was too small. At a level without a GPU it is the machine's."""
    KILLED = "killed"
    """Ended by SIGKILL, as the kernel does where memory runs out: nobody can tell who it was."""
    CRASHED = "crashed"
    """Ended by another signal, or with an exit code."""
    TIME_LIMIT = "time limit"
    DISK_FULL = "disk full"
    ERROR = "error"
    """The code said no: another try gives the same."""


WANT_OF_MEMORY = (Cause.MEMORY, Cause.GPU_MEMORY, Cause.KILLED)
MAY_PASS = (Cause.KILLED, Cause.CRASHED, Cause.TIME_LIMIT, Cause.DISK_FULL)
"""What another try may mend without any less."""
_KILLED_CODES = (-signal.SIGKILL, 128 + signal.SIGKILL)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_GPU_CLASSES = {
    "torch.OutOfMemoryError",
    "torch.cuda.OutOfMemoryError",
    "cupy.cuda.memory.OutOfMemoryError",
}
_NO_THREAD = "can't start new thread"
"""CPython's whole message where there is no room for another stack."""


def _phrases(*phrases: str) -> re.Pattern[str]:
    # As they are written, and with no letter, digit or underscore on either side, nor a hyphen and more.
    return re.compile("|".join(rf"(?<!\w)(?:{phrase})(?!-?\w)" for phrase in phrases), re.MULTILINE)


_GPU_PHRASES = _phrases(
    # PyTorch
    r"(?:CUDA|HIP|MPS backend) out of memory",
    r"(?:CUDA|HIP)(?: driver)? error: out of memory",
    r"cuda runtime error \(2\) : out of memory",
    # onnxruntime; its arena allocates on the GPU as well as in the machine, and does not say where.
    r"(?:CUDA|HIP) failure 2: out of memory",
    r"Failed to allocate memory for requested buffer of size \d+",
    r"Available memory of \d+ is smaller than requested bytes of \d+",
    # TensorFlow; XLA, with which JAX allocates; CuPy
    r"OOM when allocating tensor with shape[^\n]*\bdevice:GPU:\d+",
    r"RESOURCE_EXHAUSTED: Out of memory",
    r"Out of memory allocating [\d,]+ bytes",
    # programs that call the driver or the runtime themselves, PyCUDA among them; pinned memory is the host's
    r"(?:cu|cuda|hip)(?!MemHost|MemAllocHost|MallocHost|Host)[A-Z]\w* failed: out of memory",
    # the drivers, runtimes and libraries of CUDA and ROCm
    r"CUDA_ERROR_OUT_OF_MEMORY",
    r"cudaErrorMemoryAllocation",
    r"hipError(?:OutOfMemory|MemoryAllocation)",
    r"(?:CUBLAS|CUDNN|CUSPARSE|CUSOLVER)_STATUS_ALLOC_FAILED",
    r"CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    r"CUFFT_ALLOC_FAILED",
    r"CURAND_STATUS_ALLOCATION_FAILED",
)
_HOST_PHRASES = _phrases(
    # the C++ runtime, PyTorch, cuDNN
    r"std::bad_alloc",
    r"DefaultCPUAllocator: (?:can't allocate|not enough) memory",
    r"CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    r"OOM when allocating tensor with shape[^\n]*\bdevice:CPU:\d+",
    # the C library's words for ENOMEM, at the end of a message or before a file's name
    r"(?<=[:(\]] )Cannot allocate memory(?=:|$)|(?<=\()Cannot allocate memory(?=\))",
    # the last line of Python's traceback
    r"^(?:MemoryError|numpy[.\w]*\._ArrayMemoryError)(?=:|$)",
)
_NOT_MAPPED = re.compile(r": failed to map segment from shared object$", re.MULTILINE)
"""What the loader says where a library finds no room, or lies where nothing may be run."""
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
"""What numpy says where a disk has taken a part of an array; it does not pass on the system's number."""


def cause_of_exit(code: int | None) -> Cause:
    """Why a process ended with this exit code, negative for a signal, which was not its success.

    Args:
        code: The code; 137 is what a shell or a container says of a killed program. None: nobody knows it.
    """
    return Cause.KILLED if code in _KILLED_CODES else Cause.CRASHED


def exit_words(code: int | None) -> str:
    """How a process ended, for people."""
    if code is None:
        return "its process is gone, and nobody knows its exit code"
    if code < 0 and -code in set(signal.Signals):
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"


def cause_of_text(text: str) -> Cause | None:
    """The want of memory that a program's error text tells of; None where it tells of none."""
    if _GPU_PHRASES.search(text):
        return Cause.GPU_MEMORY
    return Cause.MEMORY if _HOST_PHRASES.search(text) else None


def cause_of_exception(error: BaseException, *, limited: bool = False) -> Cause:
    """Why a computation that raised this ended; what it was raised ``from`` counts as well.

    Args:
        error: The exception.
        limited: Whether the process had a limit on its address space, in which a library finds no room.
    """
    for one in _chain(error):
        if limited and isinstance(one, ImportError) and _NOT_MAPPED.search(str(one)):
            return Cause.MEMORY
        if (cause := _own_cause(one)) is not Cause.ERROR:
            return cause
    return Cause.ERROR


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in seen:
        yield one
        seen.append(one)
        one = one.__cause__


def _own_cause(error: BaseException) -> Cause:
    if _GPU_CLASSES.intersection(f"{one.__module__}.{one.__qualname__}" for one in type(error).__mro__):
        return Cause.GPU_MEMORY
    if isinstance(error, MemoryError):
        return Cause.MEMORY
    if isinstance(error, SystemExit):
        return cause_of_exit(error.code if isinstance(error.code, int) else 1)
    if isinstance(error, OSError) and error.errno is not None:
        # By its number alone: its text holds a file's name.
        full = Cause.DISK_FULL if error.errno in _DISK_FULL else Cause.ERROR
        return Cause.MEMORY if error.errno == errno.ENOMEM else full
    if isinstance(error, OSError) and _SHORT_WRITE.fullmatch(str(error)):
        return Cause.DISK_FULL
    if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
        return Cause.MEMORY
    return cause_of_text(str(error)) or Cause.ERROR
