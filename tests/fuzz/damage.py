"""Ways in which a file may be damaged, each reproducible from a seed."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

_LENGTHS = (0, 1, 0xFF, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
_TAGS = (
    (0xFFFE, 0xE000),
    (0xFFFE, 0xE00D),
    (0xFFFE, 0xE0DD),
    (0x7FE0, 0x0010),
    (0x0008, 0x0016),
    (0x0002, 0x0010),
)


def _part(rng: random.Random, content: bytes) -> tuple[int, int]:
    start = rng.randrange(len(content) + 1)
    return start, min(len(content), start + int(2 ** rng.uniform(0, 11)))


def flip_bits(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 8, 64)) if content else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def cut_front(rng: random.Random, content: bytes) -> bytes:
    return content[rng.randrange(len(content) + 1) :]


def insert_block(rng: random.Random, content: bytes) -> bytes:
    start, end = _part(rng, content)
    block = rng.choice((rng.randbytes(end - start), content[start:end], b"\xff" * (end - start)))
    return content[:start] + block + content[start:]


def remove_block(rng: random.Random, content: bytes) -> bytes:
    start, end = _part(rng, content)
    return content[:start] + content[end:]


def swap_blocks(rng: random.Random, content: bytes) -> bytes:
    first, second = sorted((_part(rng, content), _part(rng, content)))
    if first[1] > second[0]:
        return content[::-1]
    between, behind = content[first[1] : second[0]], content[second[1] :]
    return b"".join((content[: first[0]], content[slice(*second)], between, content[slice(*first)], behind))


def zero_run(rng: random.Random, content: bytes) -> bytes:
    start, end = _part(rng, content)
    return content[:start] + bytes(end - start) + content[end:]


def wrong_length(rng: random.Random, content: bytes) -> bytes:
    """Numbers that a reader takes for lengths."""
    start = rng.randrange(max(1, len(content) - 4))
    width, form = rng.choice(((2, "<H"), (4, "<I"), (4, ">I")))
    number = rng.choice(_LENGTHS) & (0xFFFF if width == 2 else 0xFFFFFFFF)
    return content[:start] + struct.pack(form, number) + content[start + width :]


def insert_elements(rng: random.Random, content: bytes) -> bytes:
    """Bytes that a reader of DICOM takes for elements, nested or not."""
    start = rng.randrange(len(content) + 1)
    element = struct.pack("<HHI", *rng.choice(_TAGS), rng.choice(_LENGTHS))
    return content[:start] + element * rng.choice((1, 3, 2000)) + content[start:]


def damaged_letters(rng: random.Random, content: bytes) -> bytes:
    """Digits and letters that are others."""
    changed = bytearray(content)
    places = [at for at, byte in enumerate(changed[:20_000]) if chr(byte).isalnum()] or [0]
    for _ in range(rng.choice((1, 3, 20)) if content else 0):
        changed[rng.choice(places)] = rng.choice(b"0159-+.eE,;|\\/\n\r\t\0 ~\xb0\xff[]{}:&*#'\"")
    return bytes(changed)


WAYS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    flip_bits,
    cut,
    cut_front,
    insert_block,
    remove_block,
    swap_blocks,
    zero_run,
    wrong_length,
    insert_elements,
    damaged_letters,
)


def damaged(seed: int, content: bytes) -> tuple[str, bytes]:
    """The content after one to three damages, and their names."""
    rng = random.Random(seed)
    ways = rng.choices(WAYS, k=rng.choice((1, 1, 1, 2, 3)))
    for way in ways:
        content = way(rng, content)
    return "+".join(way.__name__ for way in ways), content
