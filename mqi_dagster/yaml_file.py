"""The one way to read a YAML file of the site: bounded, with typed errors that say what is wrong in words.

Aliases (``*name``) may make a file of 300 bytes into thousands of millions of values: the values are counted
as if each alias were written out, and a file with too many is refused before one of them is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mqi_dagster.errors import ConfigurationError, shown

LARGEST_BYTES = 500_000
"""What `mqi init` writes has a tenth."""
MOST_VALUES = 200_000
"""Keys and values of a file with every alias written out."""
DEEPEST = 50
_MOST_BRACKETS, _LONGEST_LINE = 500, 2000
"""A text below both nests less than 5000 deep, as two levels need at least a bracket or a column."""


def read_yaml(path: Path, role: str) -> Any:
    """The content of a YAML file; None where it holds nothing.

    Args:
        path: The file.
        role: What it is, for example ``settings file mqi.yaml``.

    Raises:
        ConfigurationError: It cannot be read, is too large, is not YAML, or its aliases make it too large.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{role} cannot be read: {error.strerror}") from error
    if len(content) > LARGEST_BYTES:
        raise ConfigurationError(f"{role} is larger than {LARGEST_BYTES:,} bytes")
    try:
        return _content(content.decode("utf-8-sig"), role)
    except RecursionError:
        raise ConfigurationError(f"{role} is nested more than {DEEPEST} deep") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{role} is not YAML: {error}") from error
    except (ValueError, ArithmeticError, TypeError, AttributeError, LookupError) as error:
        # What PyYAML makes of a day that does not exist, of bytes that are no text, of very many digits.
        raise ConfigurationError(f"{role} is not YAML: {type(error).__name__}") from error


def _content(text: str, role: str) -> Any:
    if (fast := getattr(yaml, "CSafeLoader", None)) is not None and _is_shallow(text):
        try:
            return _load(fast, text, role)
        except (yaml.YAMLError, ConfigurationError):
            # The loader below says in the same words what is wrong, with or without libyaml.
            pass
    return _load(yaml.SafeLoader, text, role)


def _is_shallow(text: str) -> bool:
    """Whether libyaml can read a text: it recurses, and very deep nesting would end the process."""
    brackets = text.count("[") + text.count("{")
    return brackets <= _MOST_BRACKETS and max(map(len, text.splitlines()), default=0) <= _LONGEST_LINE


def _load(kind: Any, text: str, role: str) -> Any:
    # In two steps, as `yaml.safe_load` does them at once.
    loader = kind(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _require_few(node, role)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _require_few(top: yaml.Node, role: str) -> None:
    """Refuse a graph that has too many values, is too deep or contains itself."""
    counts: dict[int, int] = {}
    open_ones: set[int] = set()
    stack: list[tuple[yaml.Node, Iterator[yaml.Node]]] = [(top, _below(top))]
    open_ones.add(id(top))
    while stack:
        node, rest = stack[-1]
        below = next((one for one in rest if id(one) not in counts), None)
        if below is None:
            stack.pop()
            open_ones.discard(id(node))
            counts[id(node)] = 1 + sum(counts[id(one)] for one in _below(node))
            if counts[id(node)] > MOST_VALUES:
                raise ConfigurationError(
                    f"{role} has more than {MOST_VALUES:,} values once its aliases are written out"
                )
        elif id(below) in open_ones:
            raise ConfigurationError(f"{role} has an alias that contains itself")
        elif len(stack) >= DEEPEST:
            raise ConfigurationError(f"{role} is nested more than {DEEPEST} deep")
        else:
            open_ones.add(id(below))
            stack.append((below, _below(below)))


def _below(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair


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


_Model = TypeVar("_Model", bound=BaseModel)


def validated(model: type[_Model], content: Any, role: str) -> _Model:
    """Parsed YAML as a model.

    Args:
        model: What it has to be.
        content: Of a file.
        role: What the file is, for example ``machine file g2.yaml``.

    Raises:
        ConfigurationError: It lacks a key, has an unknown one, or a value out of range; each is named.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(f"{role}: " + "; ".join(problems(error, model, "file"))) from error


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


def _name(location: tuple[int | str, ...]) -> str:
    return ".".join(shown(str(part)) for part in location if part != "[key]")


def _words(item: ErrorDetails, model: type[BaseModel]) -> str:
    kind, location = item["type"], item["loc"]
    if kind == "extra_forbidden":
        return "there is no such key" + _meant(location, model)
    if item["input"] is None and kind != "missing":
        return "has no value"
    if location and location[-1] == "[key]":
        return "the name is not of the allowed form"
    if kind == "missing" and location and isinstance(location[-1], int):
        return "the list has too few values"
    context: Mapping[str, Any] = item.get("ctx", {})
    values = {name: _number(value) for name, value in context.items()}
    return _WORDS[kind].format(**values) if kind in _WORDS else item["msg"].removeprefix("Value error, ")


def _number(value: Any) -> Any:
    return f"{value:.12g}" if isinstance(value, float) else value


def _meant(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    """The key that was probably meant: the nearest of its section, or the same name in another one."""
    wanted = str(location[-1])
    section = model
    for part in location[:-1]:
        field = section.model_fields.get(str(part))
        # What is no key of the section is a name or a number of one of several.
        section = section if field is None else next(_sections(field.annotation), section)
    if near := get_close_matches(wanted, section.model_fields, n=1, cutoff=0.7):
        return f"; did you mean {_name((*location[:-1], near[0]))}?"
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
