"""What is wrong with a file of keys, in people's words: the key, what it wants, the nearest one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mqi_dagster.errors import shown

_WORDS = {
    "missing": "is missing, and has no default",
    "string_type": "must be text; put it in quotes where it looks like a number",
    "string_pattern_mismatch": "is not of the allowed form ({pattern})",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "path_type": "must be a path",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a section with keys of its own",
    "model_type": "must be a section with keys of its own",
    "model_attributes_type": "must be a section with keys of its own",
    "too_short": "must have at least {min_length} values",
    "too_long": "must have at most {max_length} values",
    "enum": "must be {expected}",
    "literal_error": "must be {expected}",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
}


def problems(error: ValidationError, model: type[BaseModel], file: str = "settings") -> list[str]:
    """One line for each wrong key, without the values.

    Args:
        error: What the types say.
        model: The type of the whole file.
        file: What a fault of no key is of.
    """
    return [
        f"{_name(item['loc']) or file}: {_words(item, model)}" for item in error.errors(include_url=False)
    ]


def _name(place: tuple[int | str, ...]) -> str:
    return ".".join(shown(str(part)) for part in place if part != "[key]")


def _words(item: ErrorDetails, model: type[BaseModel]) -> str:
    kind, place = item["type"], item["loc"]
    if kind == "extra_forbidden":
        return "there is no such key" + _meant(place, model)
    if item["input"] is None and kind != "missing":
        return "has no value"
    if place and place[-1] == "[key]":
        return "the name is not of the allowed form"
    if kind == "missing" and place and isinstance(place[-1], int):
        return "the list has too few values"
    context: Mapping[str, Any] = item.get("ctx", {})
    values = {name: _number(value) for name, value in context.items()}
    return _WORDS[kind].format(**values) if kind in _WORDS else item["msg"].removeprefix("Value error, ")


def _number(value: Any) -> Any:
    return f"{value:.12g}" if isinstance(value, float) else value


def _meant(place: tuple[int | str, ...], model: type[BaseModel]) -> str:
    """The key that was probably meant: the nearest of its section, or the same name in another one."""
    wanted = str(place[-1])
    section = model
    for part in place[:-1]:
        field = section.model_fields.get(str(part))
        # What is no key of the section is a name or a number of one of several.
        section = section if field is None else next(_sections(field.annotation), section)
    if near := get_close_matches(wanted, section.model_fields, n=1, cutoff=0.7):
        return f"; did you mean {_name((*place[:-1], near[0]))}?"
    every = [name for name in _every_name(model) if name.rpartition(".")[2] == wanted]
    return f"; did you mean {' or '.join(every[:3])}?" if every else ""


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation, such as the one of ``dict[str, Host]`` or ``Webhook | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for part in get_args(annotation):
        yield from _sections(part)


def _every_name(model: type[BaseModel], before: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield before + name
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _every_name(annotation, f"{before}{name}.")
