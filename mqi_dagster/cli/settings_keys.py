"""Every key of the settings, read from their types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mqi_dagster.settings import Settings

_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "multipleOf": "a multiple of {}",
    "pattern": "must match `{}`",
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the settings."""

    name: str
    """Dotted name."""
    type: str
    required: bool
    default: Any
    allowed: str
    """Allowed values, empty where the type says it all."""
    description: str

    @property
    def last(self) -> str:
        """The name within its section."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class SectionKeys:
    """One section with its keys and the sections inside it, in the order of the types."""

    name: str
    description: str
    optional: bool
    """Whether the section is absent where nobody writes it, rather than at its defaults."""
    members: tuple[Key | SectionKeys, ...]

    @property
    def last(self) -> str:
        """The name within the section around it."""
        return self.name.rpartition(".")[2]


def settings_keys() -> SectionKeys:
    """All sections and keys of the settings."""
    schema = Settings.model_json_schema()
    return _section("", schema, schema["$defs"], optional=False)


def every_key(section: SectionKeys) -> Iterator[Key]:
    """The keys of a section and of those inside it."""
    for member in section.members:
        if isinstance(member, Key):
            yield member
        else:
            yield from every_key(member)


def _section(
    name: str, schema: Mapping[str, Any], types: Mapping[str, Any], *, optional: bool, description: str = ""
) -> SectionKeys:
    members = tuple(
        _member(f"{name}.{key}" if name else key, field, key in schema.get("required", ()), types)
        for key, field in schema["properties"].items()
    )
    text = description or " ".join(str(schema.get("description", "")).split())
    return SectionKeys(name, text, optional, members)


def _member(
    name: str, field: Mapping[str, Any], required: bool, types: Mapping[str, Any]
) -> Key | SectionKeys:
    description = str(field.get("description", ""))
    choices = [choice for choice in field.get("anyOf", (field,)) if choice.get("type") != "null"]
    target = _resolved(choices[0], types)
    if "properties" in target:
        return _section(name, target, types, optional="anyOf" in field, description=description)
    if "patternProperties" in target:
        inner = _resolved(next(iter(target["patternProperties"].values())), types)
        return _section(f"{name}.<name>", inner, types, optional=True, description=description)
    item = _resolved(target["items"], types) if "items" in target else {}
    if "properties" in item:
        return _section(f"{name}.<each>", item, types, optional=True, description=description)
    default = field.get("default", {} if target.get("type") == "object" else None)
    nullable = "anyOf" in field
    kind = _type(target, types) + (" or null" if nullable else "")
    return Key(name, kind, required, default, _allowed(target, types), description)


def _resolved(schema: Mapping[str, Any], types: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    return types[reference.rpartition("/")[2]] if reference else schema


def _type(schema: Mapping[str, Any], types: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return "choice"
    if schema.get("format") == "path":
        return "path"
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            parts = [_type(_resolved(item, types), types) for item in schema["prefixItems"]]
            return f"{len(parts)} x {parts[0]}"
        return f"list of {_type(_resolved(schema['items'], types), types)}"
    if schema.get("type") == "object":
        return f"mapping of {_type(_resolved(schema['additionalProperties'], types), types)}"
    names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
    return names[schema["type"]]


def _allowed(schema: Mapping[str, Any], types: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "prefixItems" in schema:
        inner = _allowed(_resolved(schema["prefixItems"][0], types), types)
        return f"each {inner}" if inner else ""
    parts = [text.format(_number(schema[word])) for word, text in _BOUNDS.items() if word in schema]
    if "minItems" in schema:
        parts.append(f"at least {schema['minItems']} of them")
    return ", ".join(parts)


def _number(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)
