"""Apply each wrong change of `tests/mutations/` to a copy of the tree and see that a test notices it.

The head of a patch names the tests that have to fail (`tests: …`). Exit 1 if a change survives, if it no
longer applies, or if those tests fail without it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("mqi_dagster", "tests", "deploy", "pyproject.toml")
FAILED = 1
"""pytest's exit code for failed tests; any other says that they did not run."""


def copy_tree(target: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)
    shared = ROOT.parent / "shared"
    if shared.is_dir():
        (target.parent / "shared").symlink_to(shared)


def run_tests(tree: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    return subprocess.run(argv, cwd=tree, capture_output=True, text=True, timeout=600, check=False)


def tests_of(patch: Path) -> list[str]:
    for line in patch.read_text().splitlines():
        if line.startswith("tests: "):
            return line.removeprefix("tests: ").split()
    raise SystemExit(f"{patch.name} names no tests")


def main() -> int:
    patches = sorted((ROOT / "tests" / "mutations").glob("*.patch"))
    named = sorted({test for patch in patches for test in tests_of(patch)})
    noticed = survived = 0
    with tempfile.TemporaryDirectory(prefix="mqi-mutate.") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        copy_tree(tree)
        unchanged = run_tests(tree, named)
        if unchanged.returncode != 0:
            print(unchanged.stdout[-4000:])
            print("the tests fail without any change")
            return 1
        for patch in patches:
            started = time.monotonic()
            subprocess.run(["git", "apply", str(patch)], cwd=tree, check=True)
            outcome = run_tests(tree, tests_of(patch))
            subprocess.run(["git", "apply", "-R", str(patch)], cwd=tree, check=True)
            seen = outcome.returncode == FAILED
            noticed, survived = noticed + seen, survived + (not seen)
            verdict = "noticed" if seen else f"SURVIVED (pytest exit {outcome.returncode})"
            print(f"{patch.stem:36} {verdict}  {time.monotonic() - started:.1f} s", flush=True)
    print(f"{noticed} passed, {survived} failed")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
