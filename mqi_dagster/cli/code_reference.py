"""What the code can say of itself, as tables for the guide: assets, checks, commands, options of courses.

    python -m mqi_dagster.cli.code_reference docs

Each table stands in its page between two comments and is written anew; the rest of the page is kept.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import typer

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.cli.app import app
from mqi_dagster.cli.exit_codes import ExitCode
from mqi_dagster.definitions import build_definitions
from mqi_dagster.imaging.quality_checks import CHECKS
from mqi_dagster.resources.site import Site
from mqi_dagster.settings.rtpipeline import KNOWN, field_at

_MARK = "<!-- {name}: written by `make docs` -->"
_END = "<!-- end of {name} -->"


def assets() -> str:
    """Every asset: its partition, what it is, and its checks."""
    definitions = _definitions()
    graph = definitions.resolve_asset_graph()
    checks: dict[dg.AssetKey, list[str]] = {}
    for check in sorted(graph.asset_check_keys, key=lambda one: one.name):
        checks.setdefault(check.asset_key, []).append(f"`{check.name}`")
    jobs = [
        (number, job) for number, one in enumerate(PIPELINES) for level in one.levels for job in level.jobs
    ]
    pipeline = {asset: number for number, job in jobs for asset in job.assets}

    def place(key: dg.AssetKey) -> int:
        return pipeline.get(key.to_user_string(), len(PIPELINES))

    rows = []
    for key in sorted(graph.toposorted_asset_keys, key=place):
        node = graph.get(key)
        partition = node.partitions_def
        kind = partition.name if isinstance(partition, dg.DynamicPartitionsDefinition) else ""
        rows.append(
            (f"`{key.to_user_string()}`", kind or "", node.description or "", ", ".join(checks.get(key, [])))
        )
    return _table(("asset", "one for each", "what it is", "checks"), rows)


def checks() -> str:
    """Every check but those of courses: its asset, whether it stops what follows, and what it looks at."""
    rows = []
    of_courses = {(check.asset, check.name) for check in CHECKS}
    definitions = _definitions()
    for check in (*(definitions.asset_checks or ()), *(definitions.assets or ())):
        assert isinstance(check, dg.AssetsDefinition)
        for spec in check.check_specs:
            if (spec.asset_key.to_user_string(), spec.name) in of_courses:
                continue
            stops = "yes" if spec.blocking else "no"
            rows.append(
                (f"`{spec.name}`", f"`{spec.asset_key.to_user_string()}`", stops, spec.description or "")
            )
    return _table(("check", "asset", "stops what follows", "passes when"), rows)


def course_checks() -> str:
    """Every check of a course: its asset, what its verdicts mean, and what to do."""
    rows = [
        (
            f"`{check.name}`",
            f"`{check.asset}`",
            check.description,
            check.warning,
            f"**Stops what follows.** {check.failure}" if check.blocking else check.failure,
            check.advice,
        )
        for check in CHECKS
    ]
    return _table(("check", "asset", "PASS", "WARNING", "FAIL", "what to do"), rows)


def exit_codes() -> str:
    """What a command's exit status says."""
    return _table(("status", "meaning"), [(f"{code}", text) for code, text in _documented(ExitCode)])


def commands() -> str:
    """Every command, what it does, and whether it answers as JSON."""
    rows = []
    waiting: list[tuple[str, Any]] = [("mqi", typer.main.get_command(app))]
    while waiting:
        path, command = waiting.pop(0)
        within = getattr(command, "commands", {})
        waiting = [*((f"{path} {name}", one) for name, one in within.items()), *waiting]
        if not within:
            answers = any("--json" in option.opts for option in command.params)
            rows.append((f"`{path}`", (command.help or "").partition("\n\n")[0], "yes" if answers else ""))
    return _table(("command", "what it does", "`--json`"), rows)


def course_options() -> str:
    """What users of rtpipeline write, and what becomes of it."""
    rows = []
    for known in KNOWN:
        field = field_at(known.field) if known.field else None
        words = ["" if field is None else (field.description or "").removesuffix(".")]
        words += [f"refused: {known.note}" if known.is_refused else known.note]
        words += ["the variable says the opposite"] if known.inverted else []
        without = f" ({', '.join(json.dumps(one) for one in known.without)})" if known.without else ""
        rows.append(
            (
                ", ".join(f"`{key}`" for key in known.keys) + without,
                f"`{known.option}`" if known.option else "",
                f"`{known.variable}`" if known.variable else "",
                f"`radiotherapy.{known.field}`" if known.field else "",
                "; ".join(filter(None, words)),
            )
        )
    return _table(("key of the configuration", "option", "variable", "setting", "what it does"), rows)


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "checks.md": {"assets": assets, "checks": checks},
    "course_checks.md": {"course checks": course_checks},
    "commands.md": {"commands": commands},
    "operations.md": {"exit codes": exit_codes},
    "course_options.md": {"options": course_options},
}
"""The tables of each page."""


def written(page: Path) -> str:
    """A page with its tables as the code has them now.

    Raises:
        ValueError: The page has no place for one of them.
    """
    text = page.read_text(encoding="utf-8")
    for name, table in TABLES[page.name].items():
        begin, end = _MARK.format(name=name), _END.format(name=name)
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"{page.name} has no place for the table of {name}")
        text = f"{before}{begin}\n{table()}{end}{after}"
    return text


def main(folder: Path) -> None:
    """Write the tables of every page of the guide."""
    for name in TABLES:
        (folder / name).write_text(written(folder / name), encoding="utf-8")


def _definitions() -> dg.Definitions:
    # No site is needed: what is defined does not depend on its settings.
    return build_definitions(Site(Path("no site") / "mqi.yaml"))


def _documented(kinds: type[IntEnum]) -> Iterator[tuple[str, str]]:
    """Values of an enumeration with the text below each in the code."""
    text = inspect.getsource(kinds)
    (body,) = (node.body for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef))
    for node, after in pairwise(body):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            yield str(node.value.value), str(after.value.value)


def _table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    lines += [
        "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
