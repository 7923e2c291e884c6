"""Records become CSVs: what stands in them, and what was added up."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mqi_dagster.delivery.interpretation import interpret_beam, read_summary
from mqi_dagster.delivery.manifest import BeamEntry, InputFile, LayerEntry, RecordPart
from mqi_dagster.delivery.summary import InterpretedBeam, TimelineSource
from mqi_dagster.errors import ConfigurationError, DeliveryError, UnknownMachineError
from mqi_dagster.machine import Machine, Machines
from mqi_dagster.plan.model import Block, PlanBeam, PlanLayer, ScanMode
from mqi_dagster.settings import CsvDialect, Interpretation, Samples

IDLE, ON = 1, 49153
REST = (65229, 100)
ROWS = [
    # x, y, monitor 1, flag
    (*REST, 3, IDLE),
    (*REST, 51, ON),
    (24576, 32768, 400, ON),
    (24676, 32868, 100, ON),
    (*REST, 7, IDLE),
]


def _words(rows: list[tuple[int, int, int, int]], layer: int = 1) -> np.ndarray:
    words = np.zeros((len(rows), 8), dtype=">u2")
    for index, (x, y, dose, flag) in enumerate(rows):
        words[index] = (x, y, 650, 805, dose, dose // 2, layer, flag)
    return words


def _file(path: Path, content: bytes) -> InputFile:
    path.write_bytes(content)
    return InputFile(path=path, sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def _part(path: Path, rows: list[tuple[int, int, int, int]], code: int = 2, delivery: int = 1) -> RecordPart:
    return RecordPart(
        delivery=delivery,
        range_code=code,
        rows=len(rows),
        record=_file(path, _words(rows).tobytes()),
        machine_plan=None,
    )


def _entry(*parts: RecordPart, planned_mu: float = 1e-5, name: str = "1G180:TX") -> BeamEntry:
    layer = LayerEntry(number=1, energy_mev=147.5, planned_mu=planned_mu, delivered_mu=0.0, parts=parts)
    return BeamEntry(number=3, name=name, complete=True, layers=(layer,))


def _plan(
    spots: list[tuple[float, float, float]],
    layers: int = 1,
    name: str = "1G180:TX",
    energy_mev: float = 147.5,
) -> PlanBeam:
    values = np.array(spots, dtype=np.float64)
    return PlanBeam(
        number=3,
        name=name,
        description="",
        machine_name="G2",
        gantry_angle_deg=0.0,
        couch_angle_deg=0.0,
        isocenter_mm=(0.0, 0.0, 0.0),
        snout_position_mm=200.0,
        meterset_mu=float(values[:, 2].sum()) * layers,
        range_shifters=(),
        blocks=(),
        mlc=None,
        layers=tuple(
            PlanLayer(
                number=number,
                control_point_index=2 * number - 2,
                energy_mev=energy_mev,
                meterset_mu=float(values[:, 2].sum()),
                positions_mm=values[:, :2],
                spot_mu=values[:, 2],
            )
            for number in range(1, layers + 1)
        ),
        scan_mode=ScanMode.LINE,
    )


AT_CENTRE = [(0.0, 0.0, 0.0), (0.0, 0.0, 1e-5)]


@pytest.fixture
def g2(machines: Machines) -> Machine:
    return machines.named("G2")


def _interpret(
    entry: BeamEntry, machine: Machine, out: Path, *, dialect: CsvDialect = CsvDialect.ROWS, **options: object
) -> InterpretedBeam:
    return interpret_beam(
        entry, _plan(AT_CENTRE), machine, Interpretation.model_validate(options), dialect, out
    )


def test_rows_hold_the_beam_on_samples_at_their_own_times(tmp_path: Path, g2: Machine) -> None:
    beam = _interpret(_entry(_part(tmp_path / "a.ptn", ROWS)), g2, tmp_path / "out")
    written = (tmp_path / "out/log/1G180_TX/01_147.50MeV.csv").read_bytes()
    assert written == b"0.06,295.14078,-233.28546,51\r\n0.12,0.0,0.0,400\r\n0.18,0.726,0.71411,100\r\n"
    layer = beam.layers[0]
    assert layer.file == "log/1G180_TX/01_147.50MeV.csv"
    assert layer.sha256 == hashlib.sha256(written).hexdigest()
    assert (layer.rows, layer.beam_on_samples, layer.samples, layer.count_sum) == (5, 3, 3, 551)
    assert (layer.raw_dose1_sum, layer.raw_dose2_sum) == (551, 275)
    assert layer.delivered_mu == pytest.approx(551 * 2.12e-8, rel=1e-12)
    assert layer.ratio == pytest.approx(551 * 2.12e-3, rel=1e-12)
    assert beam.mu_per_count == 2.12e-8 and beam.machine_id == "G2"
    assert read_summary(tmp_path / "out") == beam
    assert sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file()) == [
        "01_147.50MeV.csv",
        "spots.parquet",
        "summary.json",
    ]


def test_flat_is_one_line_with_nothing_but_commas(tmp_path: Path, g2: Machine) -> None:
    _interpret(_entry(_part(tmp_path / "a.ptn", ROWS)), g2, tmp_path / "out", dialect=CsvDialect.FLAT)
    written = (tmp_path / "out/log/1G180_TX/01_147.50MeV.csv").read_bytes()
    assert written == b"0.06,295.14078,-233.28546,51,0.12,0.0,0.0,400,0.18,0.726,0.71411,100\n"


def test_all_samples_count_but_only_beam_on_ones_are_monitor_units(tmp_path: Path, g2: Machine) -> None:
    beam = _interpret(
        _entry(_part(tmp_path / "a.ptn", ROWS)), g2, tmp_path / "out", samples=Samples.ALL.value
    )
    lines = (tmp_path / "out/log/1G180_TX/01_147.50MeV.csv").read_bytes().split(b"\r\n")
    assert lines[0] == b"0.0,295.14078,-233.28546,3" and lines[4] == b"0.24,295.14078,-233.28546,7"
    layer = beam.layers[0]
    assert (layer.samples, layer.beam_on_samples, layer.count_sum) == (5, 3, 561)
    assert layer.delivered_mu == pytest.approx(551 * 2.12e-8, rel=1e-12)


def test_the_second_part_follows_the_first_in_time_and_in_the_running_sum(
    tmp_path: Path, g2: Machine
) -> None:
    # Code 1 is 160/470: 10 -> 3.404; then code 2: 1 -> 4.404, 1 -> 5.404 ... rounded as a sum.
    first = _part(tmp_path / "a.ptn", [(24576, 32768, 10, ON), (*REST, 0, IDLE)], code=1)
    second = _part(tmp_path / "b.ptn", [(24576, 32768, 1, ON), (24576, 32768, 1, ON)], delivery=2)
    beam = _interpret(_entry(first, second), g2, tmp_path / "out")
    written = (tmp_path / "out/log/1G180_TX/01_147.50MeV.csv").read_bytes()
    assert written == b"0.0,0.0,0.0,3\r\n0.12,0.0,0.0,1\r\n0.18,0.0,0.0,1\r\n"
    assert beam.layers[0].range_codes == (1, 2)
    assert beam.layers[0].delivered_mu == pytest.approx((10 * 160 / 470 + 2) * 2.12e-8, rel=1e-12)


def test_dividing_keeps_the_sum(tmp_path: Path, g2: Machine) -> None:
    rows = [(24576, 32768, 4, ON)] * 10
    beam = _interpret(_entry(_part(tmp_path / "a.ptn", rows)), g2, tmp_path / "out", dose_dividing_factor=10)
    counts = np.loadtxt(tmp_path / "out/log/1G180_TX/01_147.50MeV.csv", delimiter=",")[:, 3]
    # Running sum 0.4, 0.8, 1.2, ... 4.0; rounding every 0.4 on its own would leave nothing.
    assert counts.tolist() == [0, 1, 0, 1, 0, 0, 1, 0, 1, 0]
    assert beam.count_sum == 4
    assert beam.delivered_mu == pytest.approx(40 * 2.12e-8, rel=1e-12)


@pytest.mark.parametrize("code", [0, 6])
def test_an_unknown_range_code_is_refused_with_its_place(tmp_path: Path, g2: Machine, code: int) -> None:
    with pytest.raises(UnknownMachineError) as caught:
        _interpret(_entry(_part(tmp_path / "a.ptn", ROWS, code=code, delivery=4)), g2, tmp_path / "out")
    assert (caught.value.where.layer, caught.value.where.delivery) == (1, 4)
    assert not list((tmp_path / "out").rglob("*.csv*"))


def test_a_record_that_changed_since_validation_leaves_no_csv(tmp_path: Path, g2: Machine) -> None:
    entry = _entry(_part(tmp_path / "a.ptn", ROWS))
    (tmp_path / "a.ptn").write_bytes(_words([*ROWS[:2], *ROWS]).tobytes())
    with pytest.raises(DeliveryError, match="no longer the file"):
        _interpret(entry, g2, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_layer_without_beam_is_refused(tmp_path: Path, g2: Machine) -> None:
    with pytest.raises(DeliveryError, match="no sample") as caught:
        _interpret(_entry(_part(tmp_path / "a.ptn", [(*REST, 3, IDLE)])), g2, tmp_path / "out")
    assert caught.value.where.layer == 1


def test_energy_or_layer_that_the_plan_does_not_have_is_refused(tmp_path: Path, g2: Machine) -> None:
    entry = _entry(_part(tmp_path / "a.ptn", ROWS))
    options = Interpretation.model_validate({})
    with pytest.raises(DeliveryError, match=r"planned at 147\.6 MeV"):
        plan = _plan(AT_CENTRE, energy_mev=147.6)
        interpret_beam(entry, plan, g2, options, CsvDialect.ROWS, tmp_path / "out")
    with pytest.raises(DeliveryError, match="no such layer"):
        interpret_beam(entry, replace(plan, layers=()), g2, options, CsvDialect.ROWS, tmp_path / "out")


def test_names_have_three_digits_from_a_hundred_layers_on(tmp_path: Path, g2: Machine) -> None:
    entry = _entry(_part(tmp_path / "a.ptn", ROWS))
    options = Interpretation.model_validate({})
    plan = _plan(AT_CENTRE, layers=100)
    beam = interpret_beam(entry, plan, g2, options, CsvDialect.ROWS, tmp_path / "out")
    assert beam.layers[0].file == "log/1G180_TX/001_147.50MeV.csv"


def test_the_difference_is_weighted_by_mu_and_starts_when_the_beam_arrives(
    tmp_path: Path, g2: Machine
) -> None:
    # Rest position left out; 400 counts at (0, 0) and 100 at (0.726, 0.71411): a fifth of the way.
    layer = _interpret(_entry(_part(tmp_path / "a.ptn", ROWS)), g2, tmp_path / "out").layers[0]
    assert layer.compared_samples == 2
    assert layer.position_difference_mm == pytest.approx((0.1452, 0.142822), abs=1e-9)
    assert layer.timeline is TimelineSource.TIMING_MODEL


def test_a_layer_that_never_comes_near_its_start_shows_its_distance(tmp_path: Path, g2: Machine) -> None:
    entry = _entry(_part(tmp_path / "a.ptn", [(24576 + 2000, 32768, 400, ON)] * 3))
    layer = _interpret(entry, g2, tmp_path / "out").layers[0]
    assert layer.position_difference_mm == pytest.approx((14.52, 0.0), abs=1e-9)
    assert layer.compared_samples == 3


def test_planned_samples_follow_the_timeline_and_sum_to_the_layer(tmp_path: Path, g2: Machine) -> None:
    # 6 mm in 300 us at 0.001 MU: five steps of 60 us, 0.0002 MU or 9433.96 counts each.
    entry = _entry(_part(tmp_path / "a.ptn", ROWS), planned_mu=0.001)
    plan = _plan([(0.0, 0.0, 0.0), (5.997, -3.0e-9, 0.001)])
    options = Interpretation.model_validate({"plan_csv": True})
    beam = interpret_beam(entry, plan, g2, options, CsvDialect.ROWS, tmp_path / "out")
    samples = np.loadtxt(tmp_path / "out/plan_csv/1G180_TX/01_147.50MeV.csv", delimiter=",")
    assert samples[:, 0] == pytest.approx([0, 0.06, 0.12, 0.18, 0.24, 0.3], abs=1e-6)
    assert samples[:, 1] == pytest.approx([0, 1.1994, 2.3988, 3.5982, 4.7976, 5.997], abs=1e-6)
    assert samples[:, 3].tolist() == [0, 9434, 9434, 9434, 9434, 9434]
    assert beam.plan_files[0].count_sum == 47170  # 0.001 / 2.12e-8 = 47169.8
    assert beam.layers[0].count_sum == 551


def test_no_plan_csv_and_no_aperture_unless_asked(tmp_path: Path, machines: Machines) -> None:
    outline = np.array([[-40.0, -30.0], [40.0, -30.0], [40.0, 30.0]])
    plan = replace(_plan(AT_CENTRE), blocks=(Block(1, 65.0, "BRASS", outline),))
    entry = _entry(_part(tmp_path / "a.ptn", ROWS))
    for machine, plan_csv, expected in [("G1", False, 0), ("G2", True, 0), ("G1", True, 1)]:
        out = tmp_path / f"{machine}{plan_csv}"
        options = Interpretation.model_validate({"plan_csv": plan_csv})
        beam = interpret_beam(entry, plan, machines.named(machine), options, CsvDialect.ROWS, out)
        assert len(beam.aperture_files) == expected
        assert len(list(out.glob("plan_csv/*/*_aperture*.csv"))) == expected
        assert all((out / file).is_file() for file in beam.aperture_files)
    assert "-4,-3\n4,-3\n4,3" in (out / beam.aperture_files[0]).read_text()


def test_an_energy_outside_the_machines_table_names_the_layer(tmp_path: Path, g2: Machine) -> None:
    part = _part(tmp_path / "a.ptn", ROWS)
    layer = LayerEntry(number=1, energy_mev=60.0, planned_mu=1.0, delivered_mu=0.0, parts=(part,))
    entry = BeamEntry(number=3, name="b", complete=True, layers=(layer,))
    plan = _plan(AT_CENTRE, energy_mev=60.0)
    with pytest.raises(ConfigurationError, match="60 MeV") as caught:
        interpret_beam(entry, plan, g2, Interpretation.model_validate({}), CsvDialect.ROWS, tmp_path / "o")
    assert caught.value.where.layer == 1
