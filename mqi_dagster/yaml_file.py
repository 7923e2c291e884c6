"""The one way to read a YAML file of the site: bounded, with typed errors.

Aliases (``*name``) may make a file of 300 bytes into thousands of millions of values: the values are counted
as if each alias were written out, and a file with too many is refused before one of them is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mqi_dagster.errors import ConfigurationError

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
