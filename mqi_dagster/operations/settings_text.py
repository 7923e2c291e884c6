"""The settings as text: the file of a new site, the reference, and what is wrong with a file."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.hu_table import read_hu_tables
from mqi_dagster.machine import Machines, read_machine
from mqi_dagster.operations.course_files import file_problems
from mqi_dagster.settings import Settings, built_in_profiles, parse_settings, read_content, settings_problems


def configuration_problems(file: Path) -> list[str]:
    """Everything that is wrong with a site's settings and the files that they name, one line each."""
    try:
        content = read_content(file)
    except ConfigurationError as error:
        return [error.message]
    if found := [f"{file.name}: {problem}" for problem in settings_problems(content)]:
        return found
    settings = parse_settings(content, file.resolve().parent)
    paths = settings.paths
    found = [f"{file.name}: {key}: {problem}" for key, problem in file_problems(settings)]
    try:
        read_hu_tables(paths.hu_tables)
    except ConfigurationError as error:
        found.append(error.message)
    folder = paths.machines
    files = sorted(folder.glob("*.yaml"))
    if not files:
        return [*found, f"{file.name}: paths.machines: no machine files (*.yaml) in {folder}"]
    machines = []
    for path in files:
        try:
            machines.append(read_machine(path))
        except ConfigurationError as error:
            found.append(error.message)
    try:
        Machines(machines)
    except ConfigurationError as error:
        found.append(error.message)
    return found


_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "multipleOf": "a multiple of {}",
    "pattern": "must match `{}`",
}


@dataclass(frozen=True, slots=True)
class SettingsKey:
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
    members: tuple[SettingsKey | SectionKeys, ...]

    @property
    def last(self) -> str:
        """The name within the section around it."""
        return self.name.rpartition(".")[2]


def settings_keys() -> SectionKeys:
    """All sections and keys of the settings."""
    schema = Settings.model_json_schema()
    return _section("", schema, schema["$defs"], optional=False)


def every_key(section: SectionKeys) -> Iterator[SettingsKey]:
    """The keys of a section and of those inside it."""
    for member in section.members:
        if isinstance(member, SettingsKey):
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
) -> SettingsKey | SectionKeys:
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
    others = [choice for choice in field.get("anyOf", ()) if choice is not choices[0]]
    words = [str(choice.get("const", choice.get("type"))) for choice in others]
    kind = " or ".join([_type(target, types), *words])
    return SettingsKey(name, kind, required, default, _allowed(target, types), description)


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


_WIDTH = 100
_EMPTY = {"<name>": "{}", "<each>": "[]"}
_HEAD = """\
# Settings of this site. Every key there is stands here, with its default.
# A line "#key: value" is a key at its default: take away the "#" to change it. Relative paths begin at the
# folder of this file. After a change: `mqi validate`, then `mqi stop` and `mqi dev`.
"""


def settings_file(values: Mapping[str, Any]) -> str:
    """The commented settings file of a site.

    Args:
        values: What is set, by dotted name; every other key stands commented out at its default.

    Raises:
        KeyError: A name is no key of the settings.
    """
    root = settings_keys()
    known = {key.name for key in every_key(root)}
    if unknown := set(values) - known:
        raise KeyError(f"no such settings: {', '.join(sorted(unknown))}")
    lines = [_HEAD]
    for member in root.members:
        if isinstance(member, SectionKeys):
            lines += _section_as_text(member, values, depth=0)
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _section_as_text(section: SectionKeys, values: Mapping[str, Any], depth: int) -> list[str]:
    indent = "  " * depth
    parent, _, many = section.name.rpartition(".")
    if many in _EMPTY:
        return [
            *_comment(f"{section.description} Keys: see the settings reference.", indent),
            f"{indent}#{parent.rpartition('.')[2]}: {_EMPTY[many]}",
        ]
    if section.optional:
        return [
            *_comment(f"{section.description} Keys: {', '.join(m.last for m in section.members)}.", indent),
            f"{indent}#{section.last}: null",
        ]
    lines = [*_comment(section.description, indent), f"{indent}{section.last}:"]
    for member in section.members:
        if isinstance(member, SettingsKey):
            lines += _key(member, values, indent + "  ")
        else:
            lines += _section_as_text(member, values, depth + 1)
    return lines


def _key(key: SettingsKey, values: Mapping[str, Any], indent: str) -> list[str]:
    allowed = f" Allowed: {key.allowed}." if key.allowed else ""
    comment = _comment(f"{key.description} [{key.type}]{allowed}", indent)
    if key.name in values:
        return [*comment, f"{indent}{key.last}: {_scalar(values[key.name])}"]
    return [*comment, f"{indent}#{key.last}: {_scalar(key.default)}"]


def _comment(text: str, indent: str) -> list[str]:
    return [f"{indent}# {line}" for line in textwrap.wrap(text.replace("`", ""), _WIDTH - len(indent))]


def _scalar(value: Any) -> str:
    """A value as one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def settings_reference() -> str:
    """The reference of every key, as Markdown."""
    lines = [
        "# Settings",
        "",
        "Generated from the types by `mqi settings-reference` (`make docs`); do not edit.",
        "",
        "The settings of a site are one YAML file, `mqi.yaml` in the site's folder. `mqi init` writes it with"
        " every key commented. Unknown keys are errors. Relative paths begin at the folder of the file;"
        " `mqi validate` names every wrong key.",
    ]
    for member in settings_keys().members:
        if isinstance(member, SectionKeys):
            lines += _reference(member, level=2)
    lines += [
        "",
        "## Built-in engine profiles",
        "",
        "A profile of the same name under `engine.profiles` replaces the built-in one as a whole.",
        "",
        "```yaml",
        *_profiles().splitlines(),
        "```",
        "",
        "## Commands of a site",
        "",
        "`interpretation.command` and `rt_dose.command` replace a built-in conversion by a program of"
        " the site. Each part of `argv` may hold placeholders in braces:",
        "",
        "| command | placeholders |",
        "|---|---|",
        "| `interpretation.command` | `{input}` (a case folder: plan and this beam's deliveries), `{plan}`,"
        " `{beam_number}`, `{output}` |",
        "| `rt_dose.command` | `{raw_dose}`, `{plan}`, `{beam_number}`, `{output}` |",
        "",
        "What the program leaves in `{output}` goes through the same checks as the built-in conversion.",
    ]
    return "\n".join(lines) + "\n"


def _reference(section: SectionKeys, level: int) -> list[str]:
    lines = ["", f"{'#' * level} `{section.name}`", "", section.description, ""]
    keys = [member for member in section.members if isinstance(member, SettingsKey)]
    lines += ["| key | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    lines += [_row(key) for key in keys]
    for member in section.members:
        if isinstance(member, SectionKeys):
            lines += _reference(member, level + 1)
    return lines


def _row(key: SettingsKey) -> str:
    default = "required" if key.required else f"`{_scalar(key.default)}`"
    cells = (f"`{key.name}`", key.type, default, key.allowed, key.description)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _profiles() -> str:
    profiles = {name: profile.model_dump(mode="json") for name, profile in built_in_profiles().items()}
    return yaml.safe_dump(profiles, sort_keys=False, default_flow_style=None, width=_WIDTH)
