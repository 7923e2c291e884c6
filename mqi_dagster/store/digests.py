"""Digests: the same inputs have the same name, on every machine and in every version of Python."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath

from pydantic import BaseModel


def canonical_json(value: object) -> bytes:
    """JSON of a value in its one canonical form: sorted keys, no blanks, floats by ``repr``.

    Mappings, sequences, text, numbers, booleans, None, enumerations (by value) and pydantic models are
    known. Sets and dates are not: their order or zone would be a guess.

    Raises:
        TypeError: The value holds something else; a path above all, since paths differ between machines.
        ValueError: The value holds NaN or an infinity.
    """
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")


def digest_of(**parts: object) -> str:
    """SHA-256 (hex) of the canonical JSON of the named parts."""
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a digest cannot be made of NaN or an infinity")
        # -0.0 equals 0.0 but prints differently.
        return value + 0.0
    if isinstance(value, PurePath):
        raise TypeError("a digest cannot be made of a path: paths differ between machines")
    if isinstance(value, BaseModel):
        return _plain(dict(value))
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("the keys of a digest's parts must be text")
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise TypeError(f"a digest cannot be made of {type(value).__name__}")
