"""The QA delivery of four beams of nine spots, generated and real: numbers written down by hand."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from mqi_dagster.delivery.interpretation import interpret_beam, verify_interpreted
from mqi_dagster.delivery.manifest import BeamEntry, InputFile, LayerEntry, RecordPart
from mqi_dagster.delivery.summary import InterpretedBeam, TimelineSource
from mqi_dagster.errors import DeliveryError
from mqi_dagster.machine import Machine, Machines
from mqi_dagster.plan.model import PlanBeam, PlanLayer, ScanMode
from mqi_dagster.settings import CsvDialect, Interpretation
from tests.delivery.delivery_cases import read_record

SPOTS = [(-50, 50), (0, 50), (50, 50), (50, 0), (0, 0), (-50, 0), (-50, -50), (0, -50), (50, -50)]
BEAMS = {
    2: ("2S110", 110.0, "2026010510100000", "1010000"),
    3: ("3S150", 150.0, "2026010510140000", "1010001"),
    4: ("4S190", 190.0, "2026010510180000", "1010002"),
    5: ("5S230", 230.0, "2026010510220000", "1010003"),
}
OPTIONS = Interpretation.model_validate({})


@pytest.fixture
def g2(machines: Machines) -> Machine:
    return machines.named("G2")


def _file(path: Path) -> InputFile:
    content = path.read_bytes()
    return InputFile(path=path, sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def _entry(qa: Path, number: int, copies: Path | None = None, code: int = 2) -> BeamEntry:
    """The beam; with ``copies``, from records whose monitor was switched to another range."""
    name, energy, folder, run = BEAMS[number]
    source = qa / folder
    layers = []
    for layer in range(1, 10):
        record = source / f"02_{run}_001_00{number}_00{layer}.ptn"
        rows = record.stat().st_size // 16
        if copies is not None:
            words = np.fromfile(record, dtype=">u2").reshape(-1, 8)
            words[:, 4] = np.rint(words[:, 4] * {1: 470 / 160, 3: 470 / 1400}[code])
            record = copies / f"{code}_{layer}.ptn"
            record.write_bytes(words.tobytes())
        part = RecordPart(
            delivery=number - 1,
            range_code=code,
            rows=rows,
            record=_file(record),
            machine_plan=_file(source / f"02_QA0001_001_00{number}_00{layer}.mgn"),
        )
        layers.append(
            LayerEntry(number=layer, energy_mev=energy, planned_mu=1.0, delivered_mu=0.0, parts=(part,))
        )
    return BeamEntry(number=number, name=name, complete=True, layers=tuple(layers))


def _plan(number: int) -> PlanBeam:
    name, energy, _, _ = BEAMS[number]
    layers = tuple(
        PlanLayer(
            index, 2 * index - 2, energy, 1.0, np.array([spot, spot], dtype=float), np.array([0.0, 1.0])
        )
        for index, spot in enumerate(SPOTS, start=1)
    )
    return PlanBeam(
        number, name, "", "G2", 0.0, 0.0, (0.0, 0.0, 0.0), 200.0, 9.0, (), (), None, layers,
        ScanMode.LINE,
    )  # fmt: skip


def _interpret(entry: BeamEntry, machine: Machine, out: Path, **options: object) -> InterpretedBeam:
    settings = Interpretation.model_validate(options)
    return interpret_beam(entry, _plan(entry.number), machine, settings, CsvDialect.ROWS, out)


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_each_beam_has_0_990_of_its_mu_on_nine_spots_where_planned(
    qa: Path, g2: Machine, tmp_path: Path, number: int
) -> None:
    entry = _entry(qa, number)
    beam = _interpret(entry, g2, tmp_path)
    assert len(beam.layers) == 9
    assert beam.planned_mu == 9.0
    assert beam.ratio == pytest.approx(0.990, abs=0.001)
    for layer in beam.layers:
        assert layer.ratio == pytest.approx(0.990, abs=0.001)
        assert layer.raw_dose2_sum / layer.raw_dose1_sum == pytest.approx(0.995, abs=0.001)
        assert layer.count_sum == layer.raw_dose1_sum
        assert layer.timeline is TimelineSource.MACHINE_PLAN
        assert layer.position_difference_mm is not None
        assert np.hypot(*layer.position_difference_mm) < 0.3
    assert sorted(path.name for path in (tmp_path / "log" / entry.name).iterdir()) == [
        f"0{layer}_{BEAMS[number][1]:.2f}MeV.csv" for layer in range(1, 10)
    ]
    assert verify_interpreted(tmp_path, entry, g2, OPTIONS, dialect=CsvDialect.ROWS) == beam


def test_36_layers_have_their_dose_where_the_nine_spots_are(qa: Path, g2: Machine, tmp_path: Path) -> None:
    layers = 0
    for number, (name, energy, _, _) in BEAMS.items():
        _interpret(_entry(qa, number), g2, tmp_path / name)
        for index, spot in enumerate(SPOTS, start=1):
            samples = np.loadtxt(tmp_path / name / f"log/{name}/0{index}_{energy:.2f}MeV.csv", delimiter=",")
            mean = np.average(samples[:, 1:3], axis=0, weights=samples[:, 3])
            assert np.hypot(*(mean - spot)) < 0.3
            layers += 1
    assert layers == 36


@pytest.mark.parametrize("code", [1, 3])
def test_another_range_with_scaled_counts_gives_the_same_mu(
    qa: Path, g2: Machine, tmp_path: Path, code: int
) -> None:
    plain = _interpret(_entry(qa, 4), g2, tmp_path / "plain")
    copies = tmp_path / "copies"
    copies.mkdir()
    scaled = _interpret(_entry(qa, 4, copies, code), g2, tmp_path / "scaled")
    for a, b in zip(plain.layers, scaled.layers, strict=True):
        # Rounding is at most half a count of the other range a sample, and averages out.
        assert b.delivered_mu == pytest.approx(a.delivered_mu, rel=5e-5)
        assert b.count_sum == pytest.approx(a.count_sum, rel=5e-5)
        assert b.range_codes == (code,)


@pytest.mark.parametrize("qa", ["real"], indirect=True)
def test_the_machine_plan_gives_the_plan_csv_its_duration(qa: Path, g2: Machine, tmp_path: Path) -> None:
    beam = _interpret(_entry(qa, 2), g2, tmp_path, plan_csv=True)
    samples = np.loadtxt(tmp_path / "plan_csv/2S110/01_110.00MeV.csv", delimiter=",")
    # 379.2 - 19.1 ms in steps of 60 us: 6001.67.
    assert len(samples) == 6003
    assert samples[:, 1:3].tolist() == [[-50.0, 50.0]] * 6003
    assert samples[:, 3].sum() == round(1 / 2.12e-8) == 47169811
    assert [plan.timeline for plan in beam.plan_files] == [TimelineSource.MACHINE_PLAN] * 9


@pytest.mark.parametrize("damage", ["truncated", "moved", "one spot more"])
def test_a_machine_plan_that_is_not_this_layers_is_refused(
    qa: Path, g2: Machine, tmp_path: Path, damage: str
) -> None:
    entry = _entry(qa, 3)
    part = entry.layers[4].parts[0]
    assert part.machine_plan is not None
    content = part.machine_plan.path.read_bytes()
    if damage == "truncated":
        content = content[:-1]
    elif damage == "moved":
        moved = struct.pack(">H", 32768 + 5)
        content = content[:14] + content[14:22] + moved + content[24:]
    else:
        content = content[:28] + content[14:28] + content[28:]
    path = tmp_path / "a.mgn"
    path.write_bytes(content)
    changed = part.model_copy(update={"machine_plan": _file(path)})
    layers = list(entry.layers)
    layers[4] = layers[4].model_copy(update={"parts": (changed,)})
    with pytest.raises(DeliveryError) as caught:
        _interpret(entry.model_copy(update={"layers": tuple(layers)}), g2, tmp_path / "out")
    where = caught.value.where
    assert (where.delivery, where.layer, where.kind) == (2, 5, "machine plan")


@pytest.mark.parametrize("qa", ["real"], indirect=True)
def test_sizes_and_counts_of_the_first_layer(qa: Path, g2: Machine, tmp_path: Path) -> None:
    entry = _entry(qa, 2)
    beam = _interpret(entry, g2, tmp_path)
    record = read_record(entry.layers[0].parts[0].record.path)
    assert (beam.layers[0].rows, len(record)) == (6165, 6165)
    assert beam.layers[0].beam_on_samples == 6001
    first = (tmp_path / "log/2S110/01_110.00MeV.csv").read_bytes().split(b"\r\n")[0]
    row = int(np.argmax((record[:, 7] & 0xC000) == 0xC000))
    time, x, y, count = first.split(b",")
    assert float(time) == pytest.approx(row * 0.06, abs=1e-4)
    assert (float(x), float(y)) == pytest.approx((-49.64388, 50.0), abs=1.0)
    assert int(count) == record[row, 4]
