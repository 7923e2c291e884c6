"""Digests, and results that are whole or absent."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

import pytest
from pydantic import BaseModel

from mqi_dagster.errors import ConfigurationError, InfrastructureError, StoreError
from mqi_dagster.files import sha256_file, write_whole
from mqi_dagster.store.digests import canonical_json, digest_of
from mqi_dagster.store.published import Published
from mqi_dagster.store.store import Store

CASE = "P012345678.fx0001"


class Mode(StrEnum):
    ROWS = "rows"


class Part(BaseModel):
    size: float
    mode: Mode


def _publish(store: Store, text: str = "dose", digest: str = "ab12", beam: str | None = "b03") -> Published:
    with store.stage(CASE, beam, "raw_dose") as folder:
        (folder / "sub").mkdir()
        (folder / "dose.raw").write_text(text)
        (folder / "sub" / "log.txt").write_text("log")
        meta = {"histories": 200000.0}
        return store.publish(folder, CASE, beam, "raw_dose", digest, meta=meta)


def test_canonical_json_has_one_form() -> None:
    value = {"b": [1, 2.5, True, None, "µ"], "a": Part(size=0.1, mode=Mode.ROWS), "c": (-0.0, 1e-7)}
    assert canonical_json(value) == (
        b'{"a":{"mode":"rows","size":0.1},"b":[1,2.5,true,null,"\\u00b5"],"c":[0.0,1e-07]}'
    )


def test_a_digest_depends_on_content_and_not_on_order() -> None:
    assert digest_of(a=1, b={"x": 1, "y": 2}) == digest_of(b={"y": 2, "x": 1}, a=1)
    assert digest_of(a=1) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    assert digest_of(a=[1, 2]) != digest_of(a=[2, 1])
    assert digest_of(a="1") != digest_of(a=1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, [{"x": -math.inf}]])
def test_a_digest_of_no_number_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="NaN"):
        digest_of(a=bad)


@pytest.mark.parametrize("bad", [Path("/data/x"), {1, 2}, {1: "x"}, b"x", object()])
def test_a_digest_of_what_has_no_canonical_form_is_refused(bad: object) -> None:
    with pytest.raises(TypeError):
        digest_of(a=bad)


def test_a_written_file_is_whole_and_of_the_wanted_mode(tmp_path: Path) -> None:
    write_whole(tmp_path / "x", b"old", 0o644)
    write_whole(tmp_path / "x", b"abc", 0o600)
    assert (tmp_path / "x").read_bytes() == b"abc"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert sha256_file(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "x", b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_published_result_stands_under_its_names_with_its_manifest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    published = _publish(store)
    folder = tmp_path / "cases" / CASE / "b03" / "raw_dose" / "ab12"
    assert published.folder == folder
    assert json.loads((folder / "manifest.json").read_text()) == {
        "asset": "raw_dose",
        "digest": "ab12",
        "files": {
            "dose.raw": {
                "sha256": "daf81fe9648c6ae09439b52d850b3ad158d88a82709d8873e27d0ebf55ed08a1",
                "size": 4,
            },
            "sub/log.txt": {
                "sha256": "836ff184e7b41b1e13cb5fd89fa1de98dbbab99e9d2918913ff43b86a5c7c213",
                "size": 3,
            },
        },
        "meta": {"histories": 200000.0},
    }
    assert published.path("sub/log.txt").read_text() == "log"
    assert list((tmp_path / ".staging").iterdir()) == []
    assert (folder.parent / "current").readlink() == Path("ab12")
    found = Store(tmp_path).find(CASE, "b03", "raw_dose", "ab12")
    assert found == published
    assert Store(tmp_path).resolve(CASE, "b03", "raw_dose", "ab12").meta == {"histories": 200000.0}
    with pytest.raises(StoreError):
        published.path("other.raw")


def test_what_belongs_to_the_case_stands_beside_its_beams(tmp_path: Path) -> None:
    assert _publish(Store(tmp_path), beam=None).folder == (
        tmp_path / "cases" / CASE / "_case" / "raw_dose" / "ab12"
    )


def test_results_are_the_owners_alone(tmp_path: Path) -> None:
    published = _publish(Store(tmp_path))
    modes = {path.name: path.stat().st_mode & 0o777 for path in published.folder.rglob("*")}
    assert modes == {"dose.raw": 0o600, "sub": 0o700, "log.txt": 0o600, "manifest.json": 0o600}
    assert published.folder.stat().st_mode & 0o777 == 0o700


def test_the_same_result_again_is_the_one_that_stands_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = _publish(store)
    before = first.path("dose.raw").stat()
    again = _publish(store)
    assert again == first
    assert again.path("dose.raw").stat().st_ino == before.st_ino
    assert list((tmp_path / ".staging").iterdir()) == []
    assert list((tmp_path / ".quarantine").iterdir()) == []


@pytest.mark.parametrize("damage", ["changed", "missing", "added", "manifest", "no manifest", "link"])
def test_a_damaged_result_is_noticed_set_aside_and_replaced(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    folder = _publish(store).folder
    if damage == "changed":
        (folder / "dose.raw").write_text("DOSE")
    elif damage == "missing":
        (folder / "dose.raw").unlink()
    elif damage == "added":
        (folder / "more.raw").write_text("x")
    elif damage == "manifest":
        (folder / "manifest.json").write_text("{}")
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        (folder / "dose.raw").rename(tmp_path / "dose.raw")
        (folder / "dose.raw").symlink_to(tmp_path / "dose.raw")
    with pytest.raises(StoreError) as caught:
        store.resolve(CASE, "b03", "raw_dose", "ab12")
    assert str(tmp_path) not in str(caught.value)
    assert "case P012345678.fx0001, beam b03" in str(caught.value)
    repaired = _publish(store)
    repaired.verify()
    assert repaired.path("dose.raw").read_text() == "dose"
    assert len(list((tmp_path / ".quarantine").iterdir())) == 1


def test_a_damaged_result_can_be_set_aside(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _publish(store)
    assert store.set_aside(CASE, "b03", "raw_dose", "ab12")
    assert store.find(CASE, "b03", "raw_dose", "ab12") is None
    assert not store.set_aside(CASE, "b03", "raw_dose", "ab12")
    with pytest.raises(StoreError, match="no result"):
        store.resolve(CASE, "b03", "raw_dose", "ab12")


def test_a_new_digest_leaves_the_old_result_and_turns_the_link(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = _publish(store)
    new = _publish(store, "other", "cd34")
    old.verify()
    new.verify()
    assert (new.folder.parent / "current").readlink() == Path("cd34")
    _publish(store)
    assert (new.folder.parent / "current").readlink() == Path("ab12")


def test_an_interrupted_stage_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt), store.stage(CASE, "b03", "raw_dose") as folder:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt
    assert list((tmp_path / ".staging").iterdir()) == []
    assert list((tmp_path / "cases").iterdir()) == []


def test_nothing_is_published_without_files_with_links_or_with_paths_in_its_manifest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.stage(CASE, "b03", "raw_dose") as folder:
        with pytest.raises(StoreError, match="without files"):
            store.publish(folder, CASE, "b03", "raw_dose", "ab12", meta={})
        (folder / "x").symlink_to("/etc/hostname")
        with pytest.raises(StoreError, match="neither"):
            store.publish(folder, CASE, "b03", "raw_dose", "ab12", meta={})
        (folder / "x").unlink()
        (folder / "x").write_text("x")
        with pytest.raises(TypeError):
            store.publish(folder, CASE, "b03", "raw_dose", "ab12", meta={"where": tmp_path})
        with pytest.raises(ValueError, match="NaN"):
            store.publish(folder, CASE, "b03", "raw_dose", "ab12", meta={"mean": math.nan})
    assert not (tmp_path / "cases" / CASE / "b03" / "raw_dose" / "ab12").exists()


def test_two_workers_that_publish_the_same_result_both_get_it(tmp_path: Path) -> None:
    results: list[Published] = []
    barrier = threading.Barrier(4)

    def work() -> None:
        store = Store(tmp_path)
        barrier.wait()
        for number in range(5):
            results.append(_publish(store, digest=f"d{number}"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    for published in results:
        published.verify()
    assert list((tmp_path / ".quarantine").iterdir()) == []
    assert list((tmp_path / ".staging").iterdir()) == []


@pytest.mark.parametrize("bad", ["", "..", "a/b", "a b", "../x", "a..b", ".hidden", "é", "a\n"])
def test_unsafe_names_are_refused(tmp_path: Path, bad: str) -> None:
    store = Store(tmp_path)
    for names in ((bad, "b03", "raw_dose", "ab"), (CASE, bad, "raw_dose", "ab"), (CASE, "b03", bad, "ab")):
        with pytest.raises(StoreError, match="safe name"):
            store.find(*names)
    with pytest.raises(StoreError, match="safe name"):
        store.find(CASE, "b03", "raw_dose", bad)
    with pytest.raises(StoreError):
        store.find(CASE, "_case", "raw_dose", "ab")


def test_a_folder_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    Store(tmp_path)
    assert (tmp_path / "layout").read_text() == "1\n"
    (tmp_path / "layout").write_text("2\n")
    with pytest.raises(ConfigurationError, match="layout 2"):
        Store(tmp_path)
    assert (tmp_path / "layout").read_text() == "2\n"
    (tmp_path / "layout").write_text("first\n")
    with pytest.raises(ConfigurationError, match="no number"):
        Store(tmp_path)


def test_what_a_crash_left_is_cleaned_and_work_in_progress_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = tmp_path / ".staging" / "raw_dose.1.aa"
    (old / "sub").mkdir(parents=True)
    busy = tmp_path / ".staging" / "raw_dose.2.bb"
    busy.mkdir()
    (busy / "fresh").write_text("x")
    hour_ago = time.time() - 3600
    for path in (old / "sub", old, busy):
        os.utime(path, (hour_ago, hour_ago))
    assert store.clean_staging(timedelta(minutes=30)) == 1
    assert [path.name for path in (tmp_path / ".staging").iterdir()] == ["raw_dose.2.bb"]


def test_a_disk_error_is_told_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "DOE_JOHN").write_text("a file")
    with pytest.raises(InfrastructureError) as caught:
        Store(tmp_path / "DOE_JOHN")
    assert "DOE_JOHN" not in str(caught.value)
