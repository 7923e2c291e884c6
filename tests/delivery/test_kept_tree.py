"""A look at an inbox costs what may have changed there, and misses nothing."""

from __future__ import annotations

import os
from pathlib import Path

from mqi_dagster.delivery.inbox_tree import KeptTree, SeenFolder, see_folder

OLD = 1.7e9
NOW_NS = 1_800_000_000_000_000_000
CASES, DELIVERIES = 20, 3


class Inbox:
    """Cases that have lain there for long, and a clock."""

    def __init__(self, root: Path, period: float = 900.0) -> None:
        self.root, self.time = root, 0.0
        for case in range(CASES):
            for number in range(DELIVERIES):
                folder = root / f"case {case:02}" / f"delivery {number}"
                folder.mkdir(parents=True)
                for file in ("PlanInfo.txt", "1.ptn"):
                    (folder / file).write_bytes(b"12")
        self.settle()
        self.tree = KeptTree(root, full_scan_seconds=period, clock=lambda: self.time, now_ns=lambda: NOW_NS)

    def settle(self, below: Path | None = None) -> None:
        for path in [self.root, *(below or self.root).rglob("*")]:
            os.utime(path, (OLD, OLD))

    def scan(self, *in_work: Path) -> int:
        """How many folders are listed; what is seen is what stands there."""
        self.time += 30.0
        seen = self.tree.scan({str(path) for path in in_work})
        assert contents(seen) == contents(see_folder(self.root, self.root))
        return self.tree.listed

    def blind(self) -> bool:
        """Whether a look misses something."""
        self.time += 30.0
        return contents(self.tree.scan()) != contents(see_folder(self.root, self.root))


def contents(tree: SeenFolder) -> list[tuple[str, int, list[object]]]:
    return [(folder.location, folder.mtime_ns, list(folder.files)) for folder in tree.walk()]


def settled(root: Path, period: float = 900.0) -> Inbox:
    inbox = Inbox(root, period)
    # Listed once more: a time that was new at the first look proves nothing.
    assert [inbox.scan() for _ in range(2)] == [1 + CASES + CASES * DELIVERIES] * 2
    assert inbox.scan() == 1
    return inbox


def test_of_an_inbox_at_rest_nothing_but_the_inbox_itself_is_listed(tmp_path: Path) -> None:
    inbox = settled(tmp_path)
    assert [inbox.scan() for _ in range(5)] == [1] * 5


def test_what_is_added_removed_or_renamed_is_seen_at_once(tmp_path: Path) -> None:
    inbox = settled(tmp_path)
    folder = tmp_path / "case 03" / "delivery 1"
    (folder / "2.ptn").write_bytes(b"1")
    assert inbox.scan() == 2
    (folder / "1.ptn").unlink()
    assert inbox.scan() == 2
    (tmp_path / "case 04" / "delivery 0").rename(tmp_path / "case 04" / "later")
    inbox.scan()
    new = tmp_path / "case 05" / "delivery 9"
    new.mkdir()
    (new / "1.ptn").write_bytes(b"1")
    inbox.scan()
    (tmp_path / "case 90").mkdir()
    inbox.scan()


def test_a_file_that_grows_in_place_is_seen_at_once_where_something_is_in_work(tmp_path: Path) -> None:
    inbox = settled(tmp_path)
    case = tmp_path / "case 07"
    for size in (3, 4, 5):
        (case / "delivery 2" / "1.ptn").write_bytes(bytes(size))
        os.utime(case / "delivery 2" / "1.ptn", (OLD, OLD))
        assert inbox.scan(case) == 1 + DELIVERIES


def test_what_has_changed_of_late_is_watched_until_it_rests(tmp_path: Path) -> None:
    inbox = settled(tmp_path)
    folder = tmp_path / "case 03" / "delivery 1"
    (folder / "2.ptn").write_bytes(b"1")
    inbox.scan()
    for size in (2, 3):
        (folder / "2.ptn").write_bytes(bytes(size))
        inbox.scan()
    while inbox.time < 840.0:
        inbox.scan()
    assert inbox.scan() > 0


def test_at_rest_a_file_written_in_place_is_seen_at_the_full_look(tmp_path: Path) -> None:
    inbox = settled(tmp_path)
    file = tmp_path / "case 11" / "delivery 0" / "1.ptn"
    file.write_bytes(b"other")
    assert inbox.blind()
    while inbox.time < 1100.0:
        inbox.blind()
    assert not inbox.blind()


def test_the_full_look_is_spread_over_its_period(tmp_path: Path) -> None:
    inbox = settled(tmp_path, period=3000.0)
    folders = CASES + CASES * DELIVERIES
    listed = []
    while inbox.time < 6200.0:
        listed.append(inbox.scan() - 1)
    assert max(listed) < folders
    assert folders <= sum(listed) <= 2 * folders


def test_a_time_as_coarse_as_two_seconds_hides_nothing(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    inbox.scan()
    folder = tmp_path / "case 00" / "delivery 0"
    (folder / "2.ptn").write_bytes(b"1")
    os.utime(folder, (OLD, OLD))
    inbox.scan()


def test_a_first_look_that_takes_long_goes_on_at_the_next(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    steps = iter(range(10_000))
    tree = KeptTree(tmp_path, longest_seconds=20.0, clock=lambda: float(next(steps)), now_ns=lambda: NOW_NS)
    looks = 0
    while any(folder.listed_at is None for folder in tree.scan().walk()):
        looks += 1
        assert not tree.whole
    assert looks > 2
    assert tree.whole
    assert contents(tree.scan()) == contents(see_folder(tmp_path, tmp_path))
    assert inbox.scan() > 0


def test_a_tree_with_a_folder_that_cannot_be_listed_is_not_whole(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    shallow, deep = KeptTree(tmp_path, deepest=1), KeptTree(tmp_path)
    shallow.scan()
    deep.scan()
    assert not shallow.whole
    assert deep.whole
