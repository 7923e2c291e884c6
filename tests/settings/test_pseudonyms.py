"""Keys that say nothing about a patient."""

from __future__ import annotations

import hashlib
import hmac
import multiprocessing
import re
from pathlib import Path

import pytest

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.hpc.naming import checked_name
from mqi_dagster.partitions import BEAM, beam_key, case_key
from mqi_dagster.pseudonyms import Pseudonyms, folder_name_key, make_secret, read_secret

KEY = bytes(range(32))


def test_a_plan_has_the_same_name_under_one_secret_and_another_under_another() -> None:
    one, other = Pseudonyms(KEY), Pseudonyms(KEY[::-1])
    assert one.plan("1.2.3") == one.plan("1.2.3")
    assert len({one.plan("1.2.3"), one.plan("1.2.4"), other.plan("1.2.3"), one.unreadable("1.2.3")}) == 4
    assert re.fullmatch(r"P[A-Z2-7]{9}", one.plan("1.2.3"))
    assert re.fullmatch(r"X[A-Z2-7]{9}", one.unreadable("a/b"))


def test_hashes_are_keyed_and_parts_do_not_run_together() -> None:
    expected = hmac.new(KEY, b"a\x1fb", hashlib.sha256).hexdigest()
    assert Pseudonyms(KEY).keyed("a", "b") == expected
    assert Pseudonyms(KEY).keyed("ab") != expected


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        Pseudonyms(b"short")


def test_a_secret_is_made_once_and_only_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    make_secret(path)
    first = read_secret(path)
    make_secret(path)
    assert read_secret(path) == first
    assert len(first) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["secret"]


def test_processes_that_start_together_agree_on_one_secret(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map(make_secret, [path] * 8)
    assert len(read_secret(path)) == 32
    assert [p.name for p in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize(("content", "mode"), [("00" * 32, 0o644), ("no hex", 0o600), ("", 0o640)])
def test_an_open_or_damaged_secret_is_refused(tmp_path: Path, content: str, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(ConfigurationError):
        read_secret(path)


def test_a_folder_name_becomes_a_safe_key() -> None:
    assert folder_name_key("QA-2026.01") == "QA-2026.01"
    assert re.fullmatch(r"[A-Za-z0-9.-]+", folder_name_key("환자 1/<x>"))
    assert folder_name_key("a b") != folder_name_key("a_b")
    assert "_" not in folder_name_key("a__b")


@pytest.mark.parametrize("name", [".hidden", "-x", "a..b", "...", "n" * 255, "_" * 200])
def test_any_folder_name_becomes_a_key_that_a_disk_and_a_cluster_take(name: str) -> None:
    plan = folder_name_key(name)
    key = beam_key(case_key(plan, 1), 2)
    assert (BEAM.key(key).root, BEAM.key(key).number) == (f"{plan}.fx0001", 2)
    assert checked_name(key, "a key") == key
