"""Every damaged input is read rightly or refused by a typed error that names its role, and nothing else."""

from __future__ import annotations

import math
import random
import re
import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mqi_dagster.delivery.discovery import arrival_of
from mqi_dagster.delivery.machine_plan import read_machine_plan
from mqi_dagster.delivery.plan_info import KEYS, parse_plan_info, read_plan_info
from mqi_dagster.delivery.plan_range import parse_plan_range, read_plan_range
from mqi_dagster.delivery.survey import survey_arrival
from mqi_dagster.delivery.validation import check_case
from mqi_dagster.dicom.kinds import dicom_kind
from mqi_dagster.errors import ConfigurationError, DeliveryError, MqiError
from mqi_dagster.machine import Machines, read_machine, read_machines
from mqi_dagster.operations.settings_text import settings_file
from mqi_dagster.operations.site_folder import PACKAGED_MACHINES
from mqi_dagster.plan.reading import read_ion_plan
from mqi_dagster.settings import read_settings
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest
from tests.delivery.delivery_cases import HOUR, SEOUL, plan_info_text, read_record
from tests.fuzz.damage import damaged

MACHINE = "G2"
CPU_SECONDS = 5.0
MEMORY_BYTES = 1_000_000_000
PLAN = BuiltInPlan(beams=1, layers=2, spots=4, layer_seconds=0.05, energies_mev=(120.0,))
SETTINGS = settings_file({"site.timezone": "Asia/Seoul"})
UNCOMMENTED = re.sub(r"(?m)^(\s*)#(?=[a-z_]+: \S)", r"\1", SETTINGS)


@dataclass(frozen=True)
class Target:
    """A reader with the inputs that are damaged for it."""

    role: str
    """What an error has to name."""
    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], None]


def _plan(path: Path) -> None:
    status = path.stat()
    dicom_kind(path, status.st_size, status.st_mtime_ns)
    plan = read_ion_plan(path)
    assert plan.beams
    for beam in plan.beams:
        assert math.isfinite(beam.meterset_mu)
        for layer in beam.layers:
            assert layer.energy_mev > 0 and math.isfinite(layer.energy_mev)
            assert np.isfinite(layer.positions_mm).all() and np.isfinite(layer.spot_mu).all()
            assert len(layer.positions_mm) == len(layer.spot_mu)
        assert math.isclose(sum(layer.meterset_mu for layer in beam.layers), beam.meterset_mu, rel_tol=1e-3)


def _record(path: Path) -> None:
    words = read_record(path)
    assert np.array_equal(words, np.frombuffer(path.read_bytes(), dtype=">u2").reshape(-1, 8))


def _plan_info(path: Path) -> None:
    info = read_plan_info(path.parent)
    assert 1 <= info.first_layer <= info.last_layer
    assert info.irradiated_at(SEOUL)


def _plan_range(path: Path) -> None:
    rows = read_plan_range(path)
    assert [row.layer for row in rows] == sorted({row.layer for row in rows})


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, machines: Machines) -> Path:
    inbox = tmp_path_factory.mktemp("fuzz")
    request = DeliveryRequest(plan=PLAN, ct="water", ct_cube_mm=60.0, ct_margin_mm=10.0, ct_voxel_mm=10.0)
    return simulate_delivery(request, machines.named(MACHINE), inbox).folder


@pytest.fixture(scope="module")
def targets(case: Path, machines: Machines) -> list[Target]:
    def content(pattern: str) -> tuple[bytes, ...]:
        return tuple(path.read_bytes() for path in sorted(case.rglob(pattern)))

    preset = machines.named(MACHINE).preset
    plans = tuple(path.read_bytes() for path in sorted(case.glob("*.dcm")))

    def machine_plan(path: Path) -> None:
        plan = read_machine_plan(path, preset)
        assert len(plan.time_s) == len(plan.positions_mm) == path.stat().st_size // 14 - 2

    return [
        Target("RT plan", "RP.dcm", (*plans, *_foreign_dicom()), _plan),
        Target("record", "1.ptn", content("*.ptn"), _record),
        Target("machine plan", "1.mgn", content("*.mgn"), machine_plan),
        Target("PlanInfo", "PlanInfo.txt", content("PlanInfo.txt"), _plan_info),
        Target("PlanRange", "PlanRange.txt", content("PlanRange.*"), _plan_range),
        Target(
            "settings",
            "mqi.yaml",
            (SETTINGS.encode(), UNCOMMENTED.encode()),
            lambda path: _discard(read_settings(path)),
        ),
        Target(
            "machine file",
            "g2.yaml",
            tuple(path.read_bytes() for path in PACKAGED_MACHINES.glob("*.yaml")),
            lambda path: _discard(read_machine(path)),
        ),
    ]


def _discard(_: object) -> None:
    pass


def _foreign_dicom() -> tuple[bytes, ...]:
    """The small ones of pydicom's own test files that came with it."""
    names = (Path(pydicom.__file__).parent / "data" / "test_files").rglob("*.dcm")
    return tuple(path.read_bytes() for path in sorted(names) if path.stat().st_size < 100_000)


@contextmanager
def no_hang() -> Iterator[None]:
    """Processor time, not the time of a clock: other work on the machine does not count."""

    def too_long(_signal: int, frame: FrameType | None) -> None:
        raise AssertionError(f"more than {CPU_SECONDS} s of processor time")

    before = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def faults_of(target: Target, seed: int, folder: Path) -> list[str]:
    """What one damaged input makes that is neither a right reading nor a typed error of its role."""
    how, content = damaged(seed, target.seeds[seed % len(target.seeds)])
    path = folder / target.name
    path.write_bytes(content)
    label = f"{target.role}, seed {seed}, {how}"
    try:
        with warnings.catch_warnings(), no_hang():
            warnings.simplefilter("ignore")
            target.read(path)
    except MqiError as error:
        return [] if target.role in str(error) else [f"{label}: its role is not named: {error}"]
    except Exception as error:  # noqa: BLE001 - whatever else comes out is what is looked for
        return [f"{label}: {type(error).__name__}: {error}"[:300]]
    return []


def case_faults(case: Path, seed: int, folder: Path, machines: Machines) -> list[str]:
    """The same of a whole case in which one file is damaged."""
    rng = random.Random(seed)
    names = sorted(path.relative_to(case) for path in case.rglob("*") if path.is_file())
    chosen = rng.choice(names)
    how, content = damaged(seed, (case / chosen).read_bytes())
    for name in names:
        copy = folder / case.name / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content if name == chosen else (case / name).read_bytes())
    label = f"case with {chosen.suffix}, seed {seed}, {how}"
    try:
        with warnings.catch_warnings(), no_hang():
            warnings.simplefilter("ignore")
            check = check_case(survey_arrival(arrival_of(folder / case.name), SEOUL, HOUR), machines)
    except DeliveryError:
        return []
    except Exception as error:  # noqa: BLE001 - whatever else comes out is what is looked for
        return [f"{label}: {type(error).__name__}: {error}"[:300]]
    names_it = all(finding.message for finding in check.findings)
    return (
        [] if names_it and (check.passed or _findings(check)) else [f"{label}: not passed without a finding"]
    )


def _findings(check: object) -> list[object]:
    found = list(check.findings)  # type: ignore[attr-defined]
    return found + [one for fraction in check.fractions for one in fraction.findings]  # type: ignore[attr-defined]


def fuzz(targets: list[Target], case: Path, folder: Path, machines: Machines, seeds: range) -> list[str]:
    places = [folder / target.role for target in targets]
    for place in places:
        place.mkdir(parents=True)
    faults: list[str] = []
    for seed in seeds:
        which = seed % (len(targets) + 1)
        if which < len(targets):
            faults += faults_of(targets[which], seed // (len(targets) + 1), places[which])
        else:
            faults += case_faults(case, seed, folder / f"case {seed % 8}", machines)
    return faults


def test_damaged_inputs(targets: list[Target], case: Path, tmp_path: Path, machines: Machines) -> None:
    faults = fuzz(targets, case, tmp_path, machines, range(320))
    assert not faults, "\n".join(faults)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_ten_thousand_damaged_inputs(
    targets: list[Target], case: Path, tmp_path: Path, machines: Machines
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    faults = fuzz(targets, case, tmp_path, machines, range(1_000, 11_000))
    assert not faults, "\n".join(faults)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < MEMORY_BYTES


WORDS = st.text(st.characters(exclude_characters="\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), max_size=20)
NUMBERS = st.integers(-5, 10**12).map(str)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(KEYS), WORDS | NUMBERS)
def test_any_value_of_a_plan_info_is_read_or_refused_by_name(key: str, value: str) -> None:
    try:
        info = parse_plan_info(plan_info_text(**{key: value}))
    except DeliveryError as error:
        assert error.where.kind == "PlanInfo"
        return
    if key == "DICOM_BEAM_NUMBER":
        assert str(info.beam_number) == (value.strip().lstrip("0") or "0")
    if key == "STOP_LAYER_NUMBER":
        assert info.first_layer <= info.last_layer == int(value)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=400))
def test_any_text_is_read_or_refused_by_name(text: str) -> None:
    for parse, kind in ((parse_plan_info, "PlanInfo"), (parse_plan_range, "PlanRange")):
        try:
            parse(text)
        except DeliveryError as error:
            assert error.where.kind == kind


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_any_bytes_are_settings_or_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mqi.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"^settings"):
        read_settings(path)


def test_machines_are_read_as_they_are() -> None:
    assert read_machines(PACKAGED_MACHINES).all
