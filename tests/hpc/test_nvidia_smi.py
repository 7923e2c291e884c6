"""The GPUs of a host by its nvidia-smi: what it says, what it does not tell, and what is no answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqi_dagster.execution.gpus import ComputeProcess, Gpu
from mqi_dagster.hpc import nvidia_smi
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.errors import AnswerError, RemoteCommandError
from mqi_dagster.hpc.nvidia_smi import gpus_of_host, parse_gpus
from mqi_dagster.hpc.shell import Answer

UUIDS = ("GPU-5f0e8e2c-1111-2222-3333-444455556666", "GPU-aaaaaaaa-1111-2222-3333-444455556666")
TWO = f"""\
0, {UUIDS[0]}, NVIDIA RTX A5000, 24564, 1302, 37, 61, 1695, 7600
1, {UUIDS[1]}, NVIDIA A100-SXM4-80GB MIG 1g.10gb, 81920, 0, [N/A], 33, 210, [Not Supported]
"""


def test_every_field_has_its_place() -> None:
    first, second = parse_gpus(TWO, f"{UUIDS[0]}, 4711, 1290\n{UUIDS[0]}, 4712, [N/A]\n")
    assert first == Gpu(
        index=0,
        uuid=UUIDS[0],
        name="NVIDIA RTX A5000",
        memory_mb=24564,
        used_mb=1302,
        utilisation_percent=37,
        temperature_c=61,
        sm_clock_mhz=1695,
        memory_clock_mhz=7600,
        processes=(ComputeProcess(4711, 1290 * 1024 * 1024), ComputeProcess(4712, None)),
    )
    assert (second.utilisation_percent, second.memory_clock_mhz, second.processes) == (None, None, ())


def test_a_host_without_a_gpu_has_none() -> None:
    assert parse_gpus("No devices were found\n", "") == []
    assert parse_gpus("", "") == []


@pytest.mark.parametrize(
    ("gpus", "processes", "said"),
    [
        (TWO.replace("1302", "[Unknown Error]"), "", "'[Unknown Error]' for memory.used"),
        (TWO.replace("1302", "1302 MiB"), "", "'1302 MiB' for memory.used"),
        (TWO.replace("61", "-61"), "", "'-61' for temperature.gpu"),
        (f"[N/A], {UUIDS[0]}, A, 1, 1, 1, 1, 1, 1", "", "does not tell index"),
        ("Unable to determine the device handle for GPU0: Unknown Error", "", "lists a GPU as"),
        ("0, [N/A], A, 1, 1, 1, 1, 1, 1", "", "lists a GPU as"),
        (TWO, f"{UUIDS[0]}, 4711", "lists a process as"),
        (TWO, f"{UUIDS[0]}, [N/A], 12", "does not tell pid"),
    ],
)
def test_what_is_not_understood_is_an_error_that_quotes_it(gpus: str, processes: str, said: str) -> None:
    with pytest.raises(AnswerError) as raised:
        parse_gpus(gpus, processes)
    assert said in str(raised.value)


NUMBER = st.none() | st.integers(0, 999_999_999)
NAME = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9 ,()./-]{0,20}[A-Za-z0-9])?", fullmatch=True)


@st.composite
def rows(draw: st.DrawFn) -> list[Gpu]:
    found = []
    for index in range(draw(st.integers(0, 4))):
        numbers = draw(st.tuples(*[NUMBER] * 6))
        pids = draw(
            st.lists(st.tuples(st.integers(1, 4_000_000), st.none() | st.integers(0, 99_999)), max_size=3)
        )
        processes = tuple(ComputeProcess(pid, None if mb is None else mb << 20) for pid, mb in pids)
        found.append(Gpu(index, f"GPU-{index}", draw(NAME), *numbers, processes=processes))
    return found


def written(value: int | None) -> str:
    return "[N/A]" if value is None else str(value)


@given(rows())
def test_what_is_written_as_nvidia_smi_writes_it_is_read_back(gpus: list[Gpu]) -> None:
    numbers = (
        "memory_mb",
        "used_mb",
        "utilisation_percent",
        "temperature_c",
        "sm_clock_mhz",
        "memory_clock_mhz",
    )
    text = "".join(
        ", ".join([str(gpu.index), gpu.uuid, gpu.name, *(written(getattr(gpu, name)) for name in numbers)])
        + "\n"
        for gpu in gpus
    )
    processes = "".join(
        f"{gpu.uuid}, {one.pid}, {written(None if one.used_bytes is None else one.used_bytes >> 20)}\n"
        for gpu in gpus
        for one in gpu.processes
    )
    assert parse_gpus(text, processes) == gpus


@given(st.text(max_size=200), st.text(max_size=80))
def test_no_text_is_mistaken_or_ends_in_another_error(gpus: str, processes: str) -> None:
    try:
        parse_gpus(gpus, processes)
    except AnswerError as error:
        assert error.message.startswith("nvidia-smi ")


def test_a_host_without_the_program_is_a_failed_command(
    monkeypatch: pytest.MonkeyPatch, nowhere: Connection
) -> None:
    # Stands in for the SSH command alone, whose own tests have a real server.
    answer = Answer(127, b"", b"env: 'nvidia-smi': No such file or directory")
    monkeypatch.setattr(nvidia_smi, "run", lambda *_: answer)
    with pytest.raises(RemoteCommandError, match="nvidia-smi fails: exit code 127"):
        gpus_of_host(nowhere)
