"""``mqi top`` during the chaos: what it says is compared with the records, what it costs is measured."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.errors import InfrastructureError
from mqi_dagster.resources.site import Site
from mqi_dagster.worklist import Worklist
from mqi_dagster.worklist.reading import plain_errors
from tests.chaos.chaos_site import ChaosSite
from tests.services.stack import MQI
from tests.worklist.between import snapshot, wrong
from tests.worklist.terminal import Terminal

SECONDS = 2.0
"""From one comparison to the next; and within it an open board has to show what is new."""
COMMAND_EVERY = 20
"""Of so many comparisons one is with the command itself, which is started anew."""
FRAME = b"\x1b[H"
READ_AT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?= KST)")
"""When a board was read, in the zone of the sites."""
UNTOLD = timedelta(seconds=5)
"""Two seconds, one that is rounded off, and two for a frame that waits to be read here."""
KEPT_BYTES = 100_000


class OpenBoard:
    """A board in a terminal, left open, with the times of its frames.

    Args:
        folder: The site, by a path that the site's own processes do not have: what ends them leaves it open.
    """

    def __init__(self, folder: Path) -> None:
        self._terminal = Terminal("top", "--site", str(folder), columns=140, rows=50)
        self._frames: list[float] = []
        self.told = 0
        """Frames that say that their reading is old."""
        self.untold = 0
        """Frames of an old reading that do not say so."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._cpu = self._began = 0.0
        self.share = 0.0
        """Of one core, once it is closed."""
        self.ended: int | None = None
        """Its exit status after q."""

    def open(self) -> None:
        """Return when it shows the site."""
        self._terminal.see("beams", seconds=120)
        self._began, self._cpu = time.monotonic(), self._terminal.cpu_seconds
        self._thread.start()

    def _follow(self) -> None:
        while not self._stop.is_set() and self._terminal.process.poll() is None:
            seen = self._terminal.output.count(FRAME)
            self._terminal._read(0.1)
            if self._terminal.output.count(FRAME) > seen:
                self._frames.append(time.monotonic())
                self._judge(self._terminal.screen)
            self._terminal.output = self._terminal.output[-KEPT_BYTES:]

    def _judge(self, screen: list[str]) -> None:
        read_at = next((found[0] for line in screen[:1] if (found := READ_AT.search(line))), None)
        if read_at is None:
            return
        if any(" old: " in line for line in screen[:2]):
            self.told += 1
            return
        age = datetime.now(UTC) - datetime.strptime(f"{read_at}+0900", "%Y-%m-%d %H:%M:%S%z")
        self.untold += age > UNTOLD

    def close(self) -> None:
        """Press q."""
        alive = self._terminal.process.poll() is None
        if alive:
            spent = self._terminal.cpu_seconds - self._cpu
            self.share = spent / (time.monotonic() - self._began)
        self._stop.set()
        self._thread.join()
        if alive:
            self._terminal.press("q")
            self.ended = self._terminal.end()
        self._terminal.__exit__(None, None, None)

    @property
    def frames(self) -> int:
        """How often it was drawn."""
        return len(self._frames)

    @property
    def late(self) -> int:
        """Frames that came later than they should."""
        return sum(length > SECONDS for length in self._lengths)

    @property
    def _lengths(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self._frames)] or [0.0]

    def described(self) -> str:
        """How often it was drawn, and read."""
        return (
            f"{self.frames} frames, {self.late} later than {SECONDS:g} s, the longest"
            f" {max(self._lengths):.1f} s; {self.told} say that their reading is older than {SECONDS:g} s,"
            f" {self.untold} more should"
        )


class BoardWatch:
    """Compares what the board of one site says with the site's records, in a thread of its own.

    Args:
        site: The site.
        folder: For the board's own path of it.
    """

    def __init__(self, site: ChaosSite, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._site = site
        self._path = folder / f"board-of-{site.name}"
        self._path.symlink_to(site.stack.site)
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1)
        self._comparing: Future[None] | None = None
        self.board = OpenBoard(self._path)
        self.compared = 0
        self.away = 0
        """Comparisons that came to nothing because the records were away."""
        self.wrong: list[str] = []
        self.broken: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self.board.open()
        self._comparing = self._thread.submit(self._run)

    def stop(self) -> None:
        """End, and close the board."""
        self._stop.set()
        self._thread.shutdown()
        self.board.close()
        if self._comparing is not None:
            self.broken = self._comparing.exception()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._compare()
            except InfrastructureError:
                self.away += 1
                self._stop.wait(SECONDS)

    def _compare(self) -> None:
        """Compare until the end, or until the records are away."""
        stack = self._site.stack
        site = Site(stack.settings_file)
        with plain_errors(), stack.opened() as instance, closing(stack.ledger()) as ledger:
            followed = Worklist(instance, site, PIPELINES, site.open_ledger_for_reading())
            while not self._stop.wait(SECONDS):
                by_command = self.compared % COMMAND_EVERY == 0
                before = snapshot(instance, ledger)
                said = self._by_command() if by_command else _plain(followed)
                after = snapshot(instance, ledger)
                self.compared += 1
                self.wrong += [
                    f"look {self.compared} of mqi top: {text}" for text in wrong(before, said, after)
                ]

    def _by_command(self) -> dict[str, Any]:
        done = subprocess.run(
            [str(MQI), "top", "--site", str(self._path), "--json"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode != 0:
            raise InfrastructureError(done.stderr)
        return dict(json.loads(done.stdout))

    def tell(self, say: Callable[[str], None]) -> None:
        """What was measured."""
        say(
            f"mqi top of {self._site.name}: {self.compared} looks compared, {self.away} without records,"
            f" {len(self.wrong)} wrong; {100 * self.board.share:.1f} % of a core; {self.board.described()}"
        )


def _plain(followed: Worklist) -> dict[str, Any]:
    return dict(json.loads(followed.snapshot().model_dump_json()))


@contextmanager
def watching(sites: list[ChaosSite], folder: Path) -> Iterator[list[BoardWatch]]:
    """With a board open at each site, and each of them compared."""
    watches = [BoardWatch(site, folder) for site in sites]
    for watch in watches:
        watch.start()
    try:
        yield watches
    finally:
        for watch in watches:
            watch.stop()
