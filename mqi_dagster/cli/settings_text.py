"""The settings as text: the commented file of a new site, and the reference for people."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import yaml

from mqi_dagster.cli.settings_keys import Key, SectionKeys, every_key, settings_keys
from mqi_dagster.settings import built_in_profiles

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
            lines += _section(member, values, depth=0)
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _section(section: SectionKeys, values: Mapping[str, Any], depth: int) -> list[str]:
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
        if isinstance(member, Key):
            lines += _key(member, values, indent + "  ")
        else:
            lines += _section(member, values, depth + 1)
    return lines


def _key(key: Key, values: Mapping[str, Any], indent: str) -> list[str]:
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
    keys = [member for member in section.members if isinstance(member, Key)]
    lines += ["| key | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    lines += [_row(key) for key in keys]
    for member in section.members:
        if isinstance(member, SectionKeys):
            lines += _reference(member, level + 1)
    return lines


def _row(key: Key) -> str:
    default = "required" if key.required else f"`{_scalar(key.default)}`"
    cells = (f"`{key.name}`", key.type, default, key.allowed, key.description)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _profiles() -> str:
    profiles = {name: profile.model_dump(mode="json") for name, profile in built_in_profiles().items()}
    return yaml.safe_dump(profiles, sort_keys=False, default_flow_style=None, width=_WIDTH)
