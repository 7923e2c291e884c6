"""The engine's input file ``moqui_tps.in``: written from typed values, read back without moqui's silences.

Syntax (docs/formats.md 6): one ``Key value`` per line, the first blank separates, ``#`` starts a comment
anywhere, keys are case-insensitive, booleans are ``true`` or a non-zero number, lists split at a comma.
moqui ignores unknown keys, takes the first of two equal ones, reads ``-199.5`` as the integer -199 and any
odd word as false, and crashes on a line of blanks; here each of these is an error that names the key.
"""

from __future__ import annotations

import re
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from mqi_dagster.engine_contract.tps_keys import KEYS, TpsFile
from mqi_dagster.errors import EngineInputError, Where

_WHERE = Where(kind="TPS file")
_FIELD_OF = {key.name.lower(): name for name, key in KEYS.items()}
_INTEGER = re.compile(r"[+-]?[0-9]+")
_UNSAFE_TEXT = re.compile(r"[\x00-\x1f\x7f#]")
_PLACEHOLDER = re.compile(r"[{}<>]")


def _written(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    if isinstance(value, float):
        return repr(value)
    text = str(value)
    key = KEYS[name].name
    if not text or text != text.strip() or _UNSAFE_TEXT.search(text):
        raise EngineInputError(
            f"{key}: the value is empty or holds a character that the TPS file cannot carry"
            " ('#', a control character, or a blank at an end)",
            where=_WHERE,
        )
    if _PLACEHOLDER.search(text):
        raise EngineInputError(f"{key}: an unresolved placeholder is left in the value", where=_WHERE)
    return text


def render(tps: TpsFile) -> str:
    """The file's text: every key that has a value, in fixed order, groups separated by empty lines.

    Raises:
        EngineInputError: A text cannot be written, or holds an unresolved ``{}`` or ``<>``; names the key.
    """
    lines: list[str] = []
    group: int | None = None
    for name, key in KEYS.items():
        value = getattr(tps, name)
        if value is None:
            continue
        if group is not None and key.group != group:
            lines.append("")
        group = key.group
        lines.append(f"{key.name} {_written(name, value)}")
    return "\n".join(lines) + "\n"


def _kind(name: str) -> Any:
    annotation = TpsFile.model_fields[name].annotation
    options = [part for part in get_args(annotation) if part is not NoneType]
    if get_origin(annotation) is Literal:
        return str
    if get_origin(annotation) is tuple:
        return tuple
    return options[0] if options else annotation


def field_of(key: str) -> str | None:
    """The field of a key of the file, in whatever letters it is written; None where there is no such key."""
    return _FIELD_OF.get(key.lower())


def parse_value(name: str, text: str) -> object:
    """The typed value of a field from its text in the file.

    Raises:
        EngineInputError: The text is no such value; names the key.
    """
    kind, key = _kind(name), KEYS[name].name
    if kind is str:
        return text
    if kind is bool:
        return _boolean(key, text)
    if kind is tuple:
        return tuple(_integer(key, part.strip()) for part in text.split(","))
    if kind is int:
        return _integer(key, text)
    try:
        return float(text)
    except ValueError as error:
        raise EngineInputError(f"{key}: not a number", where=_WHERE) from error


def _integer(key: str, text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise EngineInputError(f"{key}: not an integer (moqui would cut it off in silence)", where=_WHERE)
    return int(text)


def _boolean(key: str, text: str) -> bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text) != 0
    except ValueError as error:
        raise EngineInputError(f"{key}: neither true, false nor a number", where=_WHERE) from error


def validated(values: dict[str, object]) -> TpsFile:
    """The TPS file of these field values.

    Raises:
        EngineInputError: A required key is missing or a value is out of range; names the keys.
    """
    try:
        return TpsFile.model_validate(values)
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False, include_input=False):
            name = str(item["loc"][0]) if item["loc"] else ""
            if item["type"] == "missing":
                lines.append(f"required key {KEYS[name].name} is missing")
            else:
                lines.append(f"{KEYS[name].name}: {item['msg']}" if name in KEYS else item["msg"])
        raise EngineInputError("; ".join(lines), where=_WHERE) from error


def parse_tps(text: str) -> TpsFile:
    """Read a TPS file.

    Raises:
        EngineInputError: An unknown, repeated or missing key, a value that does not fit, or a line of
            blanks only (moqui crashes on it); the message names the key or the line.
    """
    values: dict[str, object] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if line and not line.strip():
            raise EngineInputError(f"line {number} holds only blanks", where=_WHERE)
        content = line.split("#", 1)[0].strip()
        if not content:
            continue
        key, *rest = content.split(maxsplit=1)
        name = field_of(key)
        if name is None:
            raise EngineInputError(f"key {key} on line {number} is unknown", where=_WHERE)
        if name in values:
            raise EngineInputError(f"key {KEYS[name].name} stands twice", where=_WHERE)
        if not rest:
            raise EngineInputError(f"key {KEYS[name].name} has no value", where=_WHERE)
        values[name] = parse_value(name, rest[0])
    return validated(values)
