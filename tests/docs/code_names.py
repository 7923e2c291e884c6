"""Which names the package has, read from its text: nothing is imported for it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mqi_dagster"


@cache
def _defined(path: Path) -> dict[str, set[str]]:
    """The top-level names of a module, and for each class the names in its body."""
    found: dict[str, set[str]] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {name for part in node.body for name in _names(part)}
        else:
            found |= {name: set() for name in _names(node)}
    return found


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign):
        return [node.target.id] if isinstance(node.target, ast.Name) else []
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


def is_defined(dotted: str) -> bool:
    """Whether `room.module.name` or `room.module.Class.name`, below the package, is defined in the code."""
    parts = dotted.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = PACKAGE.joinpath(*parts[:length])
        for path in (module.with_suffix(".py"), module / "__init__.py"):
            if path.is_file():
                name, *inner = parts[length:]
                known = _defined(path)
                return name in known and (not inner or (len(inner) == 1 and inner[0] in known[name]))
    return False


def rooms() -> set[str]:
    """The first part of every dotted name of the package."""
    return {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
