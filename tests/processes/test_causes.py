"""What was a want of memory, and what was not."""

from __future__ import annotations

import errno
import os
import subprocess

import numpy as np
import pytest

from mqi_dagster.processes.causes import Cause, cause_of_exception, cause_of_exit, cause_of_text

ARENA = (
    "Non-zero status code returned while running Conv node. Name:'Conv_3' Status Message: "
    "/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* "
    "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) "
    "Failed to allocate memory for requested buffer of size 285081600"
)
GPU_TEXTS = [
    "CUDA out of memory",
    "CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 8.00 GiB total capacity)",
    "CUDA error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=node1 ; expr=cudaMalloc",
    ARENA,
    "CUDA driver error: out of memory",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call, "
    "so the stacktrace below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.",
    "cuda runtime error (2) : out of memory at /pytorch/aten/src/THC/THCCachingHostAllocator.cpp:278",
    "HIP out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 15.98 GiB",
    "HIP error: hipErrorOutOfMemory",
    "hipErrorOutOfMemory: out of memory",
    "HIP failure 2: out of memory ; GPU=0 ; hostname=node1 ; expr=hipMalloc((void**)&p, size);",
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: "
    "/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:342 void* "
    "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) "
    "Available memory of 1048576 is smaller than requested bytes of 285081600",
    # nnU-Net: its own words, and then PyTorch's.
    "Prediction on device was unsuccessful, probably due to a lack of memory. Moving results arrays to CPU\n"
    "Traceback (most recent call last):\n"
    '  File "nnunetv2/inference/predict_from_raw_data.py", line 604, in predict_sliding_window\n'
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 640.00 MiB. GPU 0 has a total capacity of"
    " 7.79 GiB of which 345.94 MiB is free.",
    # TensorFlow
    "{{function_node __wrapped__Conv3D_device_/job:localhost/replica:0/task:0/device:GPU:0}} OOM when "
    "allocating tensor with shape[2,32,128,128,128] and type float on "
    "/job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc [Op:Conv3D]",
    "failed to allocate 7.26G (7794884608 bytes) from device: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    # JAX
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 34359738368 bytes.",
    "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.",
    # CuPy, PyCUDA, a program of C++
    "cupy.cuda.memory.OutOfMemoryError: Out of memory allocating 8,589,934,592 bytes (allocated so far: 0)",
    "pycuda._driver.MemoryError: cuMemAlloc failed: out of memory",
    "ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory",
]
HOST_TEXTS = [
    "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc",
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)",
    "libtorch_cpu.so: failed to map segment from shared object: Cannot allocate memory",
    'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\nMemoryError\n',
    "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 8.00 GiB for an array",
    "OSError: [Errno 12] Cannot allocate memory: 'lung.nii.gz'",
    "OOM when allocating tensor with shape[1024,1024,1024] and type float on "
    "/job:localhost/replica:0/task:0/device:CPU:0 by allocator cpu [Op:Mul]",
]
HARMLESS_TEXTS = [
    "zoom factor must be positive",
    "room",
    "bloom",
    "OOM",
    "the patient is out of memory clinic",
    "out of memory of the console",
    "MY_CUBLAS_STATUS_ALLOC_FAILED_COUNT",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "cublas status alloc failed",
    "CUDA error: an illegal memory access was encountered",
    "Cannot allocate memory bank 3 of the phantom",
    "No MemoryError: all is well",
    "disk quota: out of memory-mapped room",
    "CUDA error: out of memory-mapped room",
    "cuMemHostAlloc failed: out of memory",
    "the queue failed: out of memory",
    "RESOURCE_EXHAUSTED: Quota exceeded for quota metric 'Out of memory alarms'",
    "RESOURCE_EXHAUSTED: Received message larger than max (5242880 vs. 4194304)",
    "OOM when allocating tensor names",
    "myhipErrorOutOfMemory",
    "zoom driver error: out of memory",
    "Prediction on device was unsuccessful, probably due to a lack of memory. Moving results arrays to CPU",
    "",
]


@pytest.mark.parametrize("text", GPU_TEXTS)
def test_a_gpu_says_that_its_memory_is_used_up(text: str) -> None:
    assert cause_of_text(text) is Cause.GPU_MEMORY
    assert cause_of_text(f"Traceback\nRuntimeError: {text}\n") is Cause.GPU_MEMORY
    assert cause_of_exception(RuntimeError(text)) is Cause.GPU_MEMORY


@pytest.mark.parametrize("text", HOST_TEXTS)
def test_the_machine_says_that_its_memory_is_used_up(text: str) -> None:
    assert cause_of_text(text) is Cause.MEMORY
    assert cause_of_exception(RuntimeError(text)) is Cause.MEMORY


@pytest.mark.parametrize("text", HARMLESS_TEXTS)
def test_a_text_that_only_looks_like_it_is_no_want_of_memory(text: str) -> None:
    assert cause_of_text(text) is None
    assert cause_of_exception(ValueError(text)) is Cause.ERROR
    assert cause_of_exception(RuntimeError(text)) is Cause.ERROR


def test_classes_of_other_libraries_are_known_by_their_whole_name() -> None:
    for module, name, cause in (
        ("torch", "OutOfMemoryError", Cause.GPU_MEMORY),
        ("torch.cuda", "OutOfMemoryError", Cause.GPU_MEMORY),
        ("tavern", "OutOfMemoryError", Cause.ERROR),
        ("torch", "NotOutOfMemoryError", Cause.ERROR),
    ):
        kind = type(name, (RuntimeError,), {"__module__": module})
        assert cause_of_exception(kind("no words")) is cause
        derived = type("OfAModel", (kind,), {"__module__": "model"})
        assert cause_of_exception(derived("no words")) is cause


def test_numpy_says_it_in_a_class_of_its_own() -> None:
    with pytest.raises(MemoryError) as raised:
        np.empty(1 << 60, dtype=np.uint8)
    assert type(raised.value) is not MemoryError
    assert cause_of_exception(raised.value) is Cause.MEMORY


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.ENOMEM, Cause.MEMORY),
        (errno.ENOSPC, Cause.DISK_FULL),
        (errno.EDQUOT, Cause.DISK_FULL),
        (errno.ENOENT, Cause.ERROR),
    ],
)
def test_an_error_of_the_system_counts_by_its_number(number: int, cause: Cause) -> None:
    assert cause_of_exception(OSError(number, os.strerror(number))) is cause
    assert cause_of_exception(OSError(number, "x", "/data/std::bad_alloc/CUDA out of memory")) is cause


def test_a_library_that_finds_no_room_is_a_want_of_memory_where_there_is_a_limit() -> None:
    error = ImportError("Original error was: libblas.so: failed to map segment from shared object\n")
    assert cause_of_exception(error, limited=True) is Cause.MEMORY
    assert cause_of_exception(error) is Cause.ERROR, "a disk where nothing may be run says the same"
    assert cause_of_exception(ImportError("no module of the room"), limited=True) is Cause.ERROR


def test_numpy_tells_of_a_full_disk_without_the_number() -> None:
    with pytest.raises(OSError, match="requested and") as raised:
        np.zeros(1_000_000).tofile("/dev/full")
    assert raised.value.errno is None
    assert cause_of_exception(raised.value) is Cause.DISK_FULL


def test_what_an_error_was_raised_from_counts_and_what_was_handled_before_does_not() -> None:
    with pytest.raises(ValueError, match="stated") as stated:
        try:
            raise MemoryError
        except MemoryError as error:
            raise ValueError("stated") from error
    assert cause_of_exception(stated.value) is Cause.MEMORY
    with pytest.raises(ValueError, match="later") as later:
        try:
            raise MemoryError
        except MemoryError:
            raise ValueError("later")  # noqa: B904 - that is the case
    assert cause_of_exception(later.value) is Cause.ERROR


def test_an_error_that_is_its_own_cause_is_looked_at_once() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert cause_of_exception(first) is Cause.ERROR


def test_exit_codes() -> None:
    assert [cause_of_exit(code) for code in (-9, 137)] == [Cause.KILLED, Cause.KILLED]
    assert {cause_of_exit(code) for code in (1, 9, -11, -6, -15, 139, 143, None)} == {Cause.CRASHED}
    killed = subprocess.run(["/bin/sh", "-c", "kill -9 $$"], check=False)
    assert cause_of_exit(killed.returncode) is Cause.KILLED
    inside = subprocess.run(["/bin/sh", "-c", "/bin/sh -c 'kill -9 $$'; exit $?"], check=False)
    assert cause_of_exit(inside.returncode) is Cause.KILLED
    assert cause_of_exception(SystemExit(137)) is Cause.KILLED
    assert cause_of_exception(SystemExit("killed")) is Cause.CRASHED
