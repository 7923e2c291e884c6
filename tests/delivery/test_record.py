"""The machine record: big-endian words, beam-on by two bits, calibrated positions, typed damage."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from mqi_dagster.delivery.record import beam_on, positions_mm, record_chunks
from mqi_dagster.errors import DeliveryError
from mqi_dagster.machine import Machines
from tests.delivery.delivery_cases import read_record

ROW = struct.pack(">8H", 24577, 32769, 650, 805, 258, 256, 7, 49153)


def test_words_are_big_endian_and_native_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "layer.ptn"
    path.write_bytes(ROW * 3)
    record = read_record(path)
    assert record.dtype == np.dtype("uint16") and record.dtype.isnative
    assert record.tolist() == [[24577, 32769, 650, 805, 258, 256, 7, 49153]] * 3


def test_on_needs_both_upper_bits_also_with_scan_number_zero() -> None:
    record = np.zeros((6, 8), dtype=np.uint16)
    record[:, 7] = [1, 16385, 32769, 49153, 49152, 0xC07F]
    assert beam_on(record).tolist() == [False, False, False, True, True, True]


def test_positions_follow_offset_and_gain_of_the_machine(machines: Machines) -> None:
    record = np.zeros((2, 8), dtype=np.uint16)
    record[:, 0] = [24576, 65229]
    record[:, 1] = [32868, 100]
    g2 = positions_mm(record, machines.named("G2").record)
    assert g2 == pytest.approx(np.array([[0.0, 0.71411], [295.14078, -233.2854548]]), abs=1e-9)


@pytest.mark.parametrize("size", [0, 1, 15, 17, 31])
def test_a_file_that_is_no_whole_number_of_rows_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "QA0001_secret.ptn"
    path.write_bytes((ROW * 3)[:size])
    with pytest.raises(DeliveryError) as caught:
        read_record(path)
    assert caught.value.where.kind == "record"
    assert "secret" not in str(caught.value)


def test_a_missing_file_is_a_typed_error_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match="No such file") as caught:
        read_record(tmp_path / "QA0001_secret.ptn")
    assert "secret" not in str(caught.value) and str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("rows_per_chunk", [1, 2, 3, 7, 100])
def test_chunks_together_are_the_record(tmp_path: Path, rows_per_chunk: int) -> None:
    words = np.arange(7 * 8, dtype=">u2").reshape(7, 8)
    path = tmp_path / "layer.ptn"
    path.write_bytes(words.tobytes())
    chunks = list(record_chunks(path, rows_per_chunk))
    assert max(len(chunk) for chunk in chunks) <= rows_per_chunk
    assert np.concatenate(chunks).tolist() == words.tolist()


@pytest.mark.parametrize("qa", ["real"], indirect=True)
def test_a_real_record_has_its_rows_layer_and_flags(qa: Path) -> None:
    path = qa / "2026010510140000" / "02_1010001_001_003_005.ptn"
    record = read_record(path)
    assert record.shape == (4083, 8)
    assert int(beam_on(record).sum()) == 4000
    assert np.unique(record[:, 6]).tolist() == [5]
    assert np.unique(record[:, 7]).tolist() == [1, 49153]


@pytest.mark.parametrize("qa", ["generated"], indirect=True)
def test_a_record_has_its_layer_and_flags(qa: Path) -> None:
    path = qa / "2026010510140000" / "02_1010001_001_003_005.ptn"
    record = read_record(path)
    assert record.shape == (path.stat().st_size // 16, 8)
    on = beam_on(record)
    # One stretch of beam, idle rows before and after it.
    assert np.flatnonzero(np.diff(on.astype(int))).size == 2 and not on[0] and not on[-1]
    assert np.unique(record[:, 6]).tolist() == [5]
    assert np.unique(record[on, 7]).tolist() == [49153]
