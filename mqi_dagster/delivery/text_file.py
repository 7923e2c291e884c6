"""The machine's text files, read with typed errors that hold no path."""

from __future__ import annotations

from pathlib import Path

from mqi_dagster.errors import DeliveryError, Where

LARGEST_BYTES = 4_000_000
"""Far above any PlanRange of a real beam (about 100 bytes a layer)."""


def read_text_file(path: Path, kind: str) -> str:
    """The text of a small ASCII or UTF-8 file.

    Bytes of another encoding stay in it as lone surrogates: a value that nobody reads decides about nothing.
    Whoever reads a value asks `is_text` first.

    Args:
        path: The file.
        kind: Its role in errors, for example ``PlanInfo``.

    Raises:
        DeliveryError: It is missing, unreadable, far too large, or binary.
    """
    where = Where(kind=kind)
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_BYTES + 1)
    except FileNotFoundError:
        raise DeliveryError(f"{kind} is missing", where=where) from None
    except OSError as error:
        raise DeliveryError(f"{kind} cannot be read: {error.strerror}", where=where) from None
    if len(content) > LARGEST_BYTES:
        raise DeliveryError(f"{kind} is larger than {LARGEST_BYTES} bytes", where=where)
    text = content.decode("utf-8-sig", errors="surrogateescape")
    if "\0" in text:
        raise DeliveryError(f"{kind} holds binary content", where=where)
    return text


def is_text(value: str) -> bool:
    """Whether a value of `read_text_file` was ASCII or UTF-8."""
    return not any("\udc80" <= character <= "\udcff" for character in value)


def whole_number(text: str, key: str, kind: str, at_least: int = 0) -> int:
    """A non-negative whole number written in ASCII digits.

    Raises:
        DeliveryError: The text is anything else or the number is too small.
    """
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 9):
        raise DeliveryError(f"{key} is not a whole number", where=Where(kind=kind))
    value = int(digits)
    if value < at_least:
        raise DeliveryError(f"{key} is {value}, below {at_least}", where=Where(kind=kind))
    return value
