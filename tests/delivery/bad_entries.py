"""Entries of an inbox that stop whoever trusts them, made beside good cases."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.dicom.dicom_files import deflated, nested, whole

ION_PLAN = "1.2.840.10008.5.1.4.1.1.481.8"
YEAR_30828 = 910_692_730_085
BEAM = "2026010510100000"


def delivery(folder: Path) -> Path:
    """A delivery folder with nothing but a PlanInfo."""
    folder.mkdir(parents=True)
    (folder / "PlanInfo.txt").write_text("x")
    return folder


@contextmanager
def nested_folders(inbox: Path, levels: int = 1500) -> Iterator[Path]:
    """Folders within each other, as a copy through a junction that points at its parent leaves them."""
    top = inbox / "copyloop"
    try:
        yield _make_nested(top, levels)
    finally:
        # Python's own removal goes down by recursion, and so does pytest's.
        subprocess.run(["rm", "-rf", str(top)], check=True)


def _make_nested(top: Path, levels: int) -> Path:
    top.mkdir()
    back = os.open(".", os.O_RDONLY)
    try:
        os.chdir(top)
        for _ in range(levels):
            os.mkdir("a")  # noqa: PTH102 - the whole path is longer than the system takes
            os.chdir("a")
    finally:
        os.fchdir(back)
        os.close(back)
    return top


def name_not_utf8(inbox: Path) -> Path:
    """A case whose name is Latin-1."""
    folder = inbox / os.fsdecode(b"M\xfcller")
    delivery(folder / BEAM)
    return folder


def far_time(folder: Path) -> None:
    """Give a folder's PlanInfo the time that Samba clients show for a broken FILETIME."""
    info = next(folder.glob("*/PlanInfo.txt"))
    os.utime(info, (YEAR_30828, YEAR_30828))
    if info.stat().st_mtime < 9e11:
        pytest.skip("this file system cannot hold such a time")


def on_tmpfs(name: str) -> Path:
    """An empty folder on a file system that holds any time."""
    base = Path("/dev/shm")
    if not os.access(base, os.W_OK):
        pytest.skip("there is no tmpfs to write to")
    folder = base / f"{name}-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def plan(**elements: object) -> bytes:
    """The head of an RT Ion Plan."""
    return whole(ION_PLAN, **elements)


def deflate_bomb(size: int) -> bytes:
    """An RT Ion Plan of a few megabytes that inflates to ``size`` bytes."""
    head = deflated(plan())
    start = len(head) - _deflated_length(head)
    inflated = zlib.decompress(head[start:], -zlib.MAX_WBITS)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, min(size, 0xFFFFFFFE))
    first = packer.compress(inflated + pixels) + packer.flush(zlib.Z_FULL_FLUSH)
    # Behind a full flush the same zeros are the same bytes again and again.
    zeros = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head[:start] + first + zeros * (size >> 20) + packer.flush()


def _deflated_length(content: bytes) -> int:
    # The group length of the file meta information stands first behind the preamble (PS3.10 7.1).
    (length,) = struct.unpack("<I", content[140:144])
    return len(content) - 144 - int(length)


def nested_sequences(depth: int = 3000) -> bytes:
    """An RT Ion Plan whose sequences stand within each other."""
    return (
        nested(depth)
        .replace(b"1.2.840.10008.5.1.4.1.1.2\0", ION_PLAN.encode() + b"\0")
        .replace(b"\x16\x00\x1a\x00", b"\x16\x00\x1e\x00")
    )


def damaged_vr() -> bytes:
    """An RT Ion Plan in which one byte of a value representation is no letter."""
    content = plan(PatientComments="w" * 40)
    return content.replace(b"LT", b"L\x00", 1)
