"""A plan with a SETUP beam numbered 1 and two treatment beams, and interpreted CSVs written by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from mqi_dagster.delivery.summary import InterpretedBeam, InterpretedLayer
from mqi_dagster.machine import Machine, Machines
from mqi_dagster.plan.model import PlanBeam
from mqi_dagster.plan.reading import read_ion_plan
from mqi_dagster.settings import CsvDialect, Samples
from mqi_dagster.synthetic.plans import BuiltInPlan, Patient, built_in_plan

MARKERS = ("MARKERID4711", "MARKERNAME", "19310203")
BEAM_NAMES = {2: "1G180:TX", 3: "2S110"}


@dataclass(frozen=True)
class BeamCase:
    """One beam with everything a view is made of."""

    plan: Path
    beam: PlanBeam
    machine: Machine
    interpreted_dir: Path
    interpreted: InterpretedBeam


def write_csv(path: Path, counts: Sequence[int], dialect: CsvDialect) -> str:
    """Samples every 0.06 ms at x = 1.5 mm, y = -2.5 mm; returns the SHA-256."""
    samples = [f"{0.06 * j:.2f},1.5,-2.5,{n}" for j, n in enumerate(counts)]
    text = "\r\n".join(samples) + "\r\n" if dialect is CsvDialect.ROWS else ",".join(samples) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return hashlib.sha256(text.encode()).hexdigest()


def layer_of(number: int, energy_mev: float, counts: Sequence[int], file: str, sha: str) -> InterpretedLayer:
    """A layer whose figures follow from its counts; MU are round numbers that nothing here reads."""
    return InterpretedLayer(
        number=number,
        energy_mev=energy_mev,
        file=file,
        sha256=sha,
        rows=len(counts),
        beam_on_samples=len(counts),
        samples=len(counts),
        count_sum=sum(counts),
        raw_dose1_sum=sum(counts),
        raw_dose2_sum=sum(counts),
        delivered_mu=1.0,
        planned_mu=1.0,
        ratio=1.0,
        range_codes=(2,),
        timeline=None,
        position_difference_mm=None,
        compared_samples=0,
    )


@pytest.fixture
def plan(tmp_path: Path, machines: Machines) -> Path:
    """A plan of G2: SETUP is beam 1, treatment beams are 2 and 3; its patient has marker identifiers."""
    patient = Patient("MARKERID4711", "MARKERNAME^HONG", "19310203")
    options = BuiltInPlan(beams=2, layers=2, spots=4, energies_mev=(150.0, 150.0), energy_step_mev=40.0)
    dataset = built_in_plan(machines.named("G2"), options, patient=patient)
    for beam in dataset.IonBeamSequence:
        beam.BeamName = BEAM_NAMES.get(beam.BeamNumber, beam.BeamName)
    path = tmp_path / "source" / "RP.dcm"
    path.parent.mkdir()
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def beam_case(plan: Path, tmp_path: Path, machines: Machines) -> Callable[..., BeamCase]:
    """Makes the interpretation of a beam from the counts of its two layers (150 and 110 MeV)."""

    def make(
        number: int = 2,
        counts: Sequence[Sequence[int]] = ((4000,), (1000, 2000, 3000)),
        dialect: CsvDialect = CsvDialect.ROWS,
        dividing_factor: float = 1.0,
    ) -> BeamCase:
        folder = tmp_path / f"interpreted-{number}"
        beam = read_ion_plan(plan).beam(number)
        layers = []
        for index, (energy, of_layer) in enumerate(zip((150.0, 110.0), counts, strict=True), start=1):
            file = f"log/{beam.name.replace(':', '_')}/{index:02d}_{energy:.2f}MeV.csv"
            sha = write_csv(folder / file, of_layer, dialect)
            layers.append(layer_of(index, energy, of_layer, file, sha))
        interpreted = InterpretedBeam(
            number=number,
            name=beam.name,
            folder=beam.name.replace(":", "_"),
            machine_id="G2",
            dialect=dialect,
            selection=Samples.BEAM_ON,
            mu_per_count=2.12e-8,
            dose_dividing_factor=dividing_factor,
            complete=True,
            layers=tuple(layers),
            count_sum=sum(sum(c) for c in counts),
            delivered_mu=2.0,
            planned_mu=2.0,
            ratio=1.0,
            position_difference_mm=None,
        )
        return BeamCase(plan, beam, machines.named("G2"), folder, interpreted)

    return make
