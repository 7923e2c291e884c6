"""What an interpretation on the disk must be, whoever wrote it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mqi_dagster.delivery.csv_reading import csv_facts
from mqi_dagster.delivery.interpretation import interpret_beam, verify_interpreted
from mqi_dagster.delivery.manifest import BeamEntry, InputFile, LayerEntry, RecordPart
from mqi_dagster.delivery.summary import SUMMARY_NAME, read_summary
from mqi_dagster.errors import DeliveryError, StoreError
from mqi_dagster.machine import Machine, Machines
from mqi_dagster.plan.model import PlanBeam, PlanLayer, ScanMode
from mqi_dagster.settings import CsvDialect, Interpretation

PLANNED_MU = 2000 * 2.12e-8


@pytest.fixture
def g2(machines: Machines) -> Machine:
    return machines.named("G2")


@pytest.fixture
def entry(tmp_path: Path) -> BeamEntry:
    layers = []
    for number, energy in [(1, 150.0), (2, 149.6)]:
        words = np.zeros((2, 8), dtype=">u2")
        words[:] = (24576, 32768, 650, 805, 1000, 995, number, 49153)
        path = tmp_path / f"{number}.ptn"
        path.write_bytes(words.tobytes())
        record = InputFile(path=path, sha256=hashlib.sha256(words.tobytes()).hexdigest(), size=32)
        part = RecordPart(delivery=1, range_code=2, rows=2, record=record, machine_plan=None)
        layers.append(
            LayerEntry(
                number=number, energy_mev=energy, planned_mu=PLANNED_MU, delivered_mu=0.0, parts=(part,)
            )
        )
    return BeamEntry(number=2, name="B:1", complete=True, layers=tuple(layers))


def _site_output(out: Path, *, counts: str = "1000") -> Path:
    """What a site's own command leaves behind."""
    folder = out / "log" / "B_1"
    folder.mkdir(parents=True)
    for name in ("01_150.00MeV.csv", "02_149.60MeV.csv"):
        (folder / name).write_bytes(b"0.0,0.0,0.0,1000\r\n0.06,0.0,0.0," + counts.encode() + b"\r\n")
    return folder


OPTIONS = Interpretation.model_validate({})


def test_a_sites_output_gets_a_summary_from_the_records_and_the_files(
    tmp_path: Path, entry: BeamEntry, g2: Machine
) -> None:
    out = tmp_path / "out"
    _site_output(out, counts="1001")
    beam = verify_interpreted(out, entry, g2, OPTIONS, dialect=CsvDialect.ROWS)
    assert (out / SUMMARY_NAME).is_file()
    assert [layer.file for layer in beam.layers] == ["log/B_1/01_150.00MeV.csv", "log/B_1/02_149.60MeV.csv"]
    assert [layer.count_sum for layer in beam.layers] == [2001, 2001]
    assert beam.delivered_mu == pytest.approx(4000 * 2.12e-8)
    assert beam.ratio == pytest.approx(1.0)
    assert beam.position_difference_mm is None
    assert verify_interpreted(out, entry, g2, OPTIONS) == beam


PLAN = PlanBeam(
    2, "B:1", "", "G2", 0.0, 0.0, (0.0, 0.0, 0.0), 200.0, 2 * PLANNED_MU, (), (), None,
    tuple(
        PlanLayer(n, 0, e, PLANNED_MU, np.zeros((2, 2)), np.array([0.0, PLANNED_MU]))
        for n, e in [(1, 150.0), (2, 149.6)]
    ),
    ScanMode.LINE,
)  # fmt: skip


@pytest.mark.parametrize("dialect", list(CsvDialect))
def test_our_own_output_passes_and_is_not_rewritten(
    tmp_path: Path, entry: BeamEntry, g2: Machine, dialect: CsvDialect
) -> None:
    out = tmp_path / "out"
    options = Interpretation.model_validate({"plan_csv": True})
    written = interpret_beam(entry, PLAN, g2, options, dialect, out)
    before = (out / SUMMARY_NAME).stat().st_mtime_ns
    assert verify_interpreted(out, entry, g2, options, dialect=dialect) == written
    assert verify_interpreted(out, entry, g2, options, plan_beam=PLAN) == written
    assert (out / SUMMARY_NAME).stat().st_mtime_ns == before
    (out / written.plan_files[0].file).unlink()
    with pytest.raises(DeliveryError, match="no file"):
        verify_interpreted(out, entry, g2, options, dialect=dialect)


@pytest.mark.parametrize("told", ["nothing", "something else"])
def test_delivered_is_compared_here_whatever_a_sites_own_summary_says_of_it(
    tmp_path: Path, entry: BeamEntry, g2: Machine, told: str
) -> None:
    out = tmp_path / "out"
    interpret_beam(entry, PLAN, g2, OPTIONS, CsvDialect.ROWS, out)
    (out / "spots.parquet").unlink()
    content = json.loads((out / SUMMARY_NAME).read_text())
    for layer in content["layers"]:
        if told == "nothing":
            del layer["delivery"]
        else:
            layer["delivery"]["beam_off_percent"] = 5.0
    (out / SUMMARY_NAME).write_text(json.dumps(content))
    beam = verify_interpreted(out, entry, g2, OPTIONS, plan_beam=PLAN)
    compared = [layer.delivery for layer in read_summary(out).layers]
    assert [one is not None and one.beam_off_percent for one in compared] == [0.0, 0.0]
    assert (out / "spots.parquet").is_file()
    assert read_summary(out) == beam


def _rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / old).rename(folder / new)


def _write(text: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "02_149.60MeV.csv").write_bytes(text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "02_149.60MeV.csv").unlink(), "no file"),
        (_rename("02_149.60MeV.csv", "02_149.70MeV.csv"), "the name says"),
        (_rename("02_149.60MeV.csv", "layer2.csv"), "name is not"),
        (lambda folder: (folder / "002_149.60MeV.csv").write_bytes(b"0,0,0,1\n"), "two files"),
        (lambda folder: (folder / "03_149.60MeV.csv").write_bytes(b"0,0,0,1\n"), "was not delivered"),
        (_write(b""), "first line"),
        (_write(b"0.0,0.0,0.0,1000\r\n0.06,0.0,0.0,1003\r\n"), "add up to 2003, expected 2000"),
        (_write(b"0.0,0.0,0.0,1000\r\n0.06,0.0,0.0,1000.0\r\n"), "whole count"),
        (_write(b"0.0,0.0,0.0,2001\r\n0.06,0.0,0.0,-1\r\n"), "negative"),
        (_write(b"0.0,0.0,0.0,1000\r\n0.06,nan,0.0,1000\r\n"), "finite"),
        (_write(b"0.0,0.0,0.0,1000\r\n0.06,0.0,0.0\r\n"), "lacks a number"),
        (_write(b"0.0,0.0,0.0,1000\r\n0.06,0.0,0.0,1000,7\r\n"), "whole count"),
        (_write(b"0.0,zero,0.0,1000\r\n0.06,0.0,0.0,1000\r\n"), "whole count"),
        (_write(b"0.0,0.0,0.0,1000,0.06,0.0,0.0,1000\n"), "written as flat"),
        (_write(b"0.0,0.0,0.0,1000,0.06,0.0,0.0\n"), "first line"),
    ],
)
def test_damage_is_named_and_no_summary_is_written(
    tmp_path: Path,
    entry: BeamEntry,
    g2: Machine,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    out = tmp_path / "out"
    damage(_site_output(out))
    with pytest.raises(DeliveryError, match=message) as caught:
        verify_interpreted(out, entry, g2, OPTIONS, dialect=CsvDialect.ROWS)
    assert not (out / SUMMARY_NAME).exists()
    assert str(tmp_path) not in str(caught.value)


def test_no_output_at_all_is_a_typed_error(tmp_path: Path, entry: BeamEntry, g2: Machine) -> None:
    with pytest.raises(DeliveryError, match="folder cannot be read"):
        verify_interpreted(tmp_path / "out", entry, g2, OPTIONS)


def test_a_summary_that_disagrees_with_its_files_is_refused(
    tmp_path: Path, entry: BeamEntry, g2: Machine
) -> None:
    out = tmp_path / "out"
    folder = _site_output(out)
    verify_interpreted(out, entry, g2, OPTIONS)
    (folder / "01_150.00MeV.csv").write_bytes(b"0.0,0.0,0.0,1001\r\n0.06,0.0,0.0,1000\r\n")
    with pytest.raises(DeliveryError, match="disagrees"):
        verify_interpreted(out, entry, g2, OPTIONS)
    (out / SUMMARY_NAME).write_text("{}")
    with pytest.raises(StoreError, match="expected content"):
        verify_interpreted(out, entry, g2, OPTIONS)


@pytest.mark.parametrize(("between", "end"), [("\r\n", "\r\n"), ("\n", ""), (",", "\n"), (",", "")])
def test_blocks_are_cut_between_samples(tmp_path: Path, between: str, end: str) -> None:
    """A file of several blocks reads like one, whatever ends its lines."""
    samples = 300_000
    path = tmp_path / "a.csv"
    path.write_text(between.join(f"{i}.25,-1.5,2.5,{i % 7}" for i in range(samples)) + end, newline="")
    facts = csv_facts(path)
    assert path.stat().st_size > 1 << 22
    assert (facts.samples, facts.count_sum) == (300_000, 899_997)
    assert facts.dialect is (CsvDialect.FLAT if between == "," else CsvDialect.ROWS)
