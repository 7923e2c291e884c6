"""Properties of counting and of the CSV dialects, for any samples."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqi_dagster.delivery.counting import RecordCounts, RunningCounts
from mqi_dagster.delivery.csv_reading import csv_facts, read_samples
from mqi_dagster.delivery.csv_writing import CsvWriter, beam_folder, layer_file
from mqi_dagster.settings import CsvDialect

RAW = st.lists(st.integers(0, 65535), max_size=60)
FLOAT = st.floats(-1000, 1000, width=32)
SAMPLE = st.tuples(st.floats(0, 200_000, width=32), FLOAT, FLOAT, st.integers(0, 2_000_000))


@given(
    raw=RAW,
    factor=st.sampled_from([160 / 470, 1.0, 1400 / 470, 4200 / 470, 12600 / 470]),
    divisor=st.floats(0.1, 100),
    cut=st.integers(0, 60),
)
def test_counts_keep_every_partial_sum_and_do_not_depend_on_pieces(
    raw: list[int], factor: float, divisor: float, cut: int
) -> None:
    values = np.array(raw, dtype=np.uint16)
    whole = RecordCounts(RunningCounts(), factor, divisor).follow(values)
    running = RunningCounts()
    pieces = RecordCounts(running, factor, divisor)
    together = np.concatenate([pieces.follow(values[:cut]), pieces.follow(values[cut:])])
    assert together.tolist() == whole.tolist()
    assert (whole >= 0).all()
    exact = 0.0
    for number, count_sum in zip(raw, np.cumsum(whole), strict=True):
        exact += number
        assert abs(count_sum - exact * factor / divisor) <= 0.5 + 1e-6
    assert running.rounded == whole.sum()


@given(raw=RAW)
def test_whole_numbers_are_their_own_counts(raw: list[int]) -> None:
    counts = RecordCounts(RunningCounts(), 1.0, 1.0).follow(np.array(raw, dtype=np.uint16))
    assert counts.tolist() == raw


@pytest.mark.parametrize("dialect", list(CsvDialect))
@given(samples=st.lists(SAMPLE, min_size=1, max_size=40), cut=st.integers(0, 40))
@settings(max_examples=60)
def test_a_csv_reads_back_to_the_same_floats(
    dialect: CsvDialect, samples: list[tuple[float, float, float, int]], cut: int
) -> None:
    time = np.array([sample[0] for sample in samples], dtype=np.float32)
    xy = np.array([sample[1:3] for sample in samples], dtype=np.float32)
    counts = np.array([sample[3] for sample in samples], dtype=np.int64)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "01_100.00MeV.csv"
        with CsvWriter(path, dialect) as writer:
            writer.append(time[:cut], xy[:cut], counts[:cut])
            writer.append(time[cut:], xy[cut:], counts[cut:])
        text = path.read_bytes()
        facts = csv_facts(path, dialect)
        frames = list(read_samples(path, dialect))
    tokens = text.replace(b"\r\n", b",").strip(b",\n").split(b",")
    assert [float(token) for token in tokens[1::4]] == pytest.approx(xy[:, 0].tolist(), rel=1e-6, abs=1e-30)
    assert [np.float32(token.decode()) for token in tokens[0::4]] == time.tolist()
    assert [np.float32(token.decode()) for token in tokens[2::4]] == xy[:, 1].tolist()
    assert [int(token) for token in tokens[3::4]] == counts.tolist()
    if dialect is CsvDialect.FLAT:
        assert text.count(b"\n") == 1 and text.endswith(b"\n") and b"\r" not in text
    else:
        assert text.count(b"\r\n") == text.count(b"\n") == len(samples)
    assert facts.samples == len(samples) and facts.count_sum == counts.sum()
    assert facts.sha256 == writer.sha256
    assert np.concatenate([frame["y_mm"].to_numpy() for frame in frames]).astype(np.float32).tolist() == (
        xy[:, 1].tolist()
    )


def test_names_are_safe_and_sort_like_layers() -> None:
    assert beam_folder("1G180:TX") == "1G180_TX"
    assert beam_folder("빔 1/..") == "__1___"
    assert layer_file(2, 147.5, 99) == "02_147.50MeV.csv"
    assert layer_file(2, 70.0, 100) == "002_70.00MeV.csv"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_an_error_while_writing_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    with pytest.raises(failure), CsvWriter(tmp_path / "a.csv", CsvDialect.ROWS) as writer:
        writer.append(np.zeros(1, np.float32), np.zeros((1, 2), np.float32), np.zeros(1, np.int64))
        raise failure
    assert list(tmp_path.iterdir()) == []
