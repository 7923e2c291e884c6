"""What README and docs/ say is so: links, examples, commands, messages, names of settings and defects."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from mqi_dagster import errors
from mqi_dagster.hpc import errors as remote_errors
from mqi_dagster.hu_table import HuTable
from mqi_dagster.imaging.models import model_errors
from mqi_dagster.machine import Machine
from mqi_dagster.processes import errors as process_errors
from mqi_dagster.settings import parse_settings
from mqi_dagster.synthetic.defects import list_defects
from tests.docs.code_names import is_defined

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")} - {ROOT / "README.md"})]
PACKAGE = ROOT / "mqi_dagster"

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
SECTIONS = (
    "site",
    "paths",
    "intake",
    "interpretation",
    "engine",
    "execution",
    "rt_dose",
    "handover",
    "database",
    "ui",
    "hosts",
)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    return BLOCK.sub("", path.read_text(encoding="utf-8"))


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (name_of(page), text)
        for page in PAGES
        for found, text in BLOCK.findall(page.read_text(encoding="utf-8"))
        if found == language
    ]


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_and_picture_leads_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        if not file.is_file() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_every_page_is_reached_from_the_readme() -> None:
    linked = {target.partition("#")[0] for target in LINK.findall(prose(ROOT / "README.md"))}
    assert {name_of(page) for page in PAGES[1:]} <= linked


def test_every_settings_example_is_valid() -> None:
    examples = [(page, text) for page, text in blocks("yaml") if text.startswith("# mqi.yaml")]
    assert len(examples) >= 4
    for page, text in examples:
        assert parse_settings(yaml.safe_load(text), Path("/site")).site.timezone, page


def test_every_machine_example_is_valid() -> None:
    examples = [text for _, text in blocks("yaml") if text.startswith("# machine file")]
    assert examples
    for text in examples:
        Machine.model_validate(yaml.safe_load(text))


def test_every_hu_table_in_a_text_is_valid() -> None:
    examples = [text for _, text in blocks("yaml") if text.startswith("# HU table")]
    assert examples
    for text in examples:
        HuTable.model_validate(yaml.safe_load(text))


def command_tree() -> Any:
    from mqi_dagster.cli.app import app

    return typer.main.get_command(app)


def fault_of(words: list[str], *, whole: bool = False) -> str:
    """What is wrong with a command as it is written in a page, empty where nothing is.

    Args:
        words: The command.
        whole: Whether it is to be typed as it stands, so that no required part may be missing.
    """
    command = command_tree()
    rest = words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        found = command.commands.get(rest[0])
        if found is None:
            return f"no command {rest[0]}"
        command, rest = found, rest[1:]
    options = {name: param for param in command.params for name in (*param.opts, *param.secondary_opts)}
    given, used = 0, set()
    while rest:
        word, *rest = rest
        if not word.startswith("-"):
            given += 1
            continue
        name, equals, _ = word.partition("=")
        param = options.get(name)
        if param is None:
            return f"no option {name}"
        used.add(param.name)
        if not param.is_flag and not equals:
            if not rest:
                return f"{name} without a value"
            rest = rest[1:]
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    if given > len(arguments):
        return f"{given} arguments, it takes {len(arguments)}"
    missing = [param.name for param in options.values() if param.required and param.name not in used]
    if whole and (
        set(missing) - {param.name for param in arguments} or given < sum(p.required for p in arguments)
    ):
        return "a required part is missing"
    return ""


def shell_lines() -> Iterator[tuple[str, list[str]]]:
    for page, text in blocks("sh"):
        for line in text.splitlines():
            if line.strip() and not line.startswith("#"):
                yield page, shlex.split(line, comments=True)


def test_every_command_in_a_shell_block_exists_with_its_options() -> None:
    commands = [(page, words) for page, words in shell_lines() if words[0] == "mqi"]
    assert len(commands) >= 10
    assert [
        (page, " ".join(words), fault) for page, words in commands if (fault := fault_of(words, whole=True))
    ] == []
    bare = [
        (page, words)
        for page, words in commands
        if len(words) - 1 < 1 or ("case" in words[1:2] and len(words) < 3)
    ]
    assert bare == []


def test_every_command_named_in_a_text_exists() -> None:
    wrong = []
    for page in PAGES:
        for code in CODE.findall(prose(page)):
            if re.match(r"mqi [a-z]", code):
                words = [word for word in code.split() if word not in ("…", "...")]
                if fault := fault_of(words):
                    wrong.append((name_of(page), code, fault))
    assert wrong == []


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[1] for _, words in shell_lines() if words[0] == "make"}
    for page in PAGES:
        named |= set(re.findall(r"`make ([a-z-]+)`", prose(page)))
    assert {"demo", "test"} <= named
    assert named <= targets


def settings_names(schema: dict[str, Any], types: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, field in schema["properties"].items():
        name = f"{prefix}{key}"
        yield name
        for choice in field.get("anyOf", [field]):
            target = types[choice["$ref"].rpartition("/")[2]] if "$ref" in choice else choice
            if "properties" in target:
                yield from settings_names(target, types, f"{name}.")


def test_every_setting_named_in_a_text_exists() -> None:
    from mqi_dagster.settings import Settings

    schema = Settings.model_json_schema()
    known = set(settings_names(schema, schema["$defs"]))
    dotted = re.compile(rf"({'|'.join(SECTIONS)})(\.[a-z_]+)+")
    named = {
        code.partition(":")[0]
        for page in PAGES
        for code in CODE.findall(prose(page))
        if dotted.fullmatch(code.partition(":")[0])
        and not code.endswith(".dcm")
        and page.name != "settings.md"
        # Functions of the rooms engine, execution and handover look like settings.
        and not is_defined(code)
    }
    assert len(named) > 20
    assert named - known == set()


def test_the_defects_of_the_page_are_those_of_the_command() -> None:
    text = (ROOT / "docs" / "simulate-delivery.md").read_text(encoding="utf-8")
    section = text.partition("## Defects")[2]
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.MULTILINE))
    assert rows == list_defects()


def test_the_options_of_the_page_are_those_of_the_command() -> None:
    simulate = command_tree().commands["simulate-delivery"]
    text = (ROOT / "docs" / "simulate-delivery.md").read_text(encoding="utf-8").partition("## Defects")[0]
    named = set(re.findall(r"`(--[a-z-]+)", text)) | set(re.findall(r" (--[a-z-]+)", text))
    offered = {name for param in simulate.params for name in param.opts if name.startswith("--")}
    assert named == offered


def test_the_error_codes_of_the_page_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8").partition("## Error codes")[2]
    rows = set(re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE))
    codes = {
        one.code
        for module in (errors, remote_errors, process_errors, model_errors)
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, errors.MqiError) and one is not errors.MqiError
    }
    assert rows == codes | {"unexpected", "check"}


def written_texts() -> list[str]:
    """Every text of the package, with … for a value that is put in."""
    texts = []
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {
            id(part)
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            for part in ast.walk(node)
            if part is not node
        }
        for node in ast.walk(tree):
            if id(node) in inside:
                continue
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                texts.append(
                    "".join(
                        str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
                    )
                )
    return texts


def test_every_message_that_the_page_explains_is_one_that_the_code_can_say() -> None:
    pages = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("checks", "slurm")}
    of_cluster = pages["slurm"].partition("## What each error means")[2].partition("\n## ")[0]
    parts = [pages["checks"].partition("## Error codes")[0], of_cluster]
    cells = [cell for part in parts for cell in re.findall(r"^\| (`.+?`) \| ", part, re.MULTILINE)]
    messages = {code for cell in cells for code in CODE.findall(cell)} - {"interpreted_csvs"}
    texts = [text for text in written_texts() if len(text.replace("…", "").strip()) >= 6]
    # A text whose beginning is a value stands for any beginning.
    forms = [re.compile(".*?".join(re.escape(part) for part in text.split("…"))) for text in texts]

    def said(message: str) -> bool:
        without_keyword = re.sub(r"^[A-Z]\w+(, [A-Z]\w+)*: ", "", message)
        return any(
            message in text or without_keyword in text or form.fullmatch(without_keyword)
            for text, form in zip(texts, forms, strict=True)
        )

    assert len(messages) > 120
    assert sorted(message for message in messages if not said(message)) == []
