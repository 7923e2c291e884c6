"""README's way works as it is typed: on a fresh clone, beside a running demo, and after it was stopped."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIRST, REAL_INBOX = "", "Point it at a real inbox"
# `mqi dev` lasts until somebody ends it: here it ends when the pages answer. The rest is as it stands.
ONLY_DEV_ENDS = """\
set -eo pipefail
mqi() {
  if [ "$1" = dev ]; then command mqi "$@" --port 0 --detach && command mqi stop "${@:2}"
  else command mqi "$@"; fi
}
"""


def block_under(heading: str) -> str:
    """The first block of commands below a heading of README; of its beginning for an empty one."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    if heading:
        text = text.partition(f"\n## {heading}\n")[2]
    found = re.search(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found.group(1)


def typed(clone: Path, commands: str) -> str:
    """Type commands into a shell that knows nothing of this test's environment; what they say."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    ended = subprocess.run(
        ["bash", "-c", ONLY_DEV_ENDS + commands],
        cwd=clone,
        env={**kept, "PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHON": str(Path(sys._base_executable))},  # type: ignore[attr-defined]
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-4000:]
    return ended.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_way_to_a_real_inbox_works_from_every_state(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    made = subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=False)
    if made.returncode != 0:
        pytest.skip("not a git checkout")
    way = block_under(REAL_INBOX)
    first = block_under(FIRST).splitlines()
    assert first == ["make demo", "make test"]
    try:
        fresh = typed(clone, way)
        assert re.search(r"^  1 of \d+ packages: ", fresh, re.MULTILINE), "an installation says how far it is"
        assert "made mqi.yaml" in fresh and "site/mqi.yaml: settings and machine files are right" in fresh
        shutil.rmtree(clone / "site")
        demo = typed(clone, "make demo")
        assert "handed over" in demo
        assert "made mqi.yaml" in typed(clone, way), "the site of the demo is another one"
        assert "nothing to do" in typed(clone, way), "typed twice"
    finally:
        stopped = typed(clone, "make stop")
    assert "ended" in stopped
    assert "nothing to do" in typed(clone, way)
    shutil.rmtree(clone / "site")
    assert "made mqi.yaml" in typed(clone, way)
    assert "nothing was running" in typed(clone, "make stop")
