"""A region goes to another process and its features come back, or an error says what is wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("zrad", reason="the imaging extra is not installed")

from mqi_dagster.errors import InputError
from mqi_dagster.imaging.radiomics import Region, cut_region, extract_features
from mqi_dagster.imaging.radiomics_task import read_result, run_region, write_task
from tests.imaging.radiomics_cases import CONFIGURATION_C, box, noise, profile

SHAPE = (20, 24, 28)
SPACING = (3.0, 1.1, 1.1)
IN_3D = profile(CONFIGURATION_C, aggregations=["3D_avg"])


def region(shift: int = 0) -> Region:
    mask = box(SHAPE, (5, 12), (4 + shift, 15 + shift), (7, 18))
    return cut_region(noise(SHAPE), mask, SPACING, IN_3D)


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task that has been computed."""
    folder = tmp_path_factory.mktemp("task")
    write_task(folder, region(), IN_3D)
    run_region(folder)
    return folder


@pytest.fixture
def folder(computed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(computed, tmp_path / "task")


def test_a_result_comes_back_as_it_was_computed(computed: Path) -> None:
    mask = box(SHAPE, (5, 12), (4, 15), (7, 18))
    assert read_result(computed) == extract_features(noise(SHAPE), mask, SPACING, IN_3D)
    assert sorted(one.name for one in computed.iterdir()) == ["region.npz", "result.json", "task.json"]


def test_four_processes_write_the_bytes_that_one_writes(tmp_path: Path) -> None:
    folders = []
    for kind in ("one", "four"):
        for number in range(4):
            folder = tmp_path / kind / str(number)
            folder.mkdir(parents=True)
            write_task(folder, region(number), IN_3D)
            folders.append(folder)
    for folder in folders[:4]:
        run_region(folder)
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(run_region, folders[4:]))
    results = [(folder / "result.json").read_bytes() for folder in folders]
    assert results[:4] == results[4:]
    assert len(set(results)) == 4


def test_a_task_again_replaces_its_result_by_the_same(folder: Path) -> None:
    before = (folder / "result.json").read_bytes()
    (folder / "result.json").write_text("half a res")
    run_region(folder)
    assert (folder / "result.json").read_bytes() == before


def test_reasons_come_back_too(tmp_path: Path) -> None:
    empty = box(SHAPE, (0, 0), (0, 0), (0, 0))
    write_task(tmp_path, cut_region(noise(SHAPE), empty, SPACING, IN_3D), IN_3D)
    run_region(tmp_path)
    assert set(read_result(tmp_path).not_computed.values()) == {"the region is empty"}
    assert (tmp_path / "region.npz").stat().st_size < 1000


@pytest.mark.parametrize("name", ["task.json", "region.npz"])
def test_a_task_without_a_file_is_an_error(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match="cannot be read: No such file or directory"):
        run_region(folder)


def test_a_result_that_is_missing_is_an_error(folder: Path) -> None:
    (folder / "result.json").unlink()
    with pytest.raises(InputError, match="radiomics result: the file cannot be read"):
        read_result(folder)


def test_a_result_of_another_task_is_refused(folder: Path) -> None:
    write_task(folder, region(3), IN_3D)
    with pytest.raises(InputError, match="it is of another task"):
        read_result(folder)


def test_a_result_that_lacks_a_column_is_refused(folder: Path) -> None:
    content = json.loads((folder / "result.json").read_text())
    del content["result"]["features"]["morph_volume"]
    (folder / "result.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="its columns are not those"):
        read_result(folder)


def test_a_value_that_is_no_number_is_refused(folder: Path) -> None:
    content = json.loads((folder / "result.json").read_text())
    content["result"]["features"]["morph_volume"] = float("nan")
    (folder / "result.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="does not hold a result"):
        read_result(folder)


def test_voxels_of_another_region_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_task(tmp_path / "other", region(3), IN_3D)
    shutil.copy(tmp_path / "other" / "region.npz", folder)
    with pytest.raises(InputError, match="the voxels are not those that were written"):
        run_region(folder)


def test_a_task_larger_than_any_is_not_read(folder: Path) -> None:
    with (folder / "task.json").open("ab") as stream:
        os.truncate(stream.fileno(), 5_000_000_000)
    with pytest.raises(InputError, match="larger than 1,000,000 bytes"):
        run_region(folder)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(["task.json", "region.npz"]), at=st.floats(0, 1), change=st.integers(1, 255))
def test_a_task_of_which_a_byte_has_changed_is_never_computed_as_another(
    computed: Path, tmp_path_factory: pytest.TempPathFactory, name: str, at: float, change: int
) -> None:
    folder = shutil.copytree(computed, tmp_path_factory.mktemp("changed") / "task")
    content = bytearray((folder / name).read_bytes())
    content[int(at * (len(content) - 1))] ^= change
    (folder / name).write_bytes(content)
    with pytest.raises(InputError):
        run_region(folder) if name == "region.npz" else read_result(folder)
