"""The validated inventory of a case: what `case_manifest` publishes and every later step reads.

Real paths stand here and nowhere else; the file is written with mode 0600.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ManifestPart(BaseModel):
    """A part of the manifest: immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class InputFile(ManifestPart):
    """One input file."""

    path: Path
    sha256: Sha256
    size: int


class RecordPart(ManifestPart):
    """One machine record (`.ptn`) of a layer; a resumed layer has two, in time order."""

    delivery: int
    """1-based number of the delivery in time order within the case."""
    range_code: int
    """DOSE1_RANGE of PlanRange."""
    rows: int
    record: InputFile
    machine_plan: InputFile | None
    """The `.mgn`, where the machine wrote one."""


class LayerEntry(ManifestPart):
    """One layer of a delivered beam."""

    number: int
    """LAYER_NO."""
    energy_mev: float
    planned_mu: float
    delivered_mu: float
    """Beam-on monitor units of all parts."""
    parts: tuple[RecordPart, ...]


class BeamEntry(ManifestPart):
    """One delivered treatment beam."""

    number: int
    """DICOM BeamNumber."""
    name: str
    complete: bool
    """Whether every planned layer was delivered."""
    layers: tuple[LayerEntry, ...]
    gantry_deg: float | None = None
    """None in a manifest that an earlier version wrote."""
    shown_name: str = ""
    """Its name for people, on one line and without the patient's identity; empty as above."""

    @property
    def energies_mev(self) -> tuple[float, float]:
        """Lowest and highest energy of its delivered layers [MeV]."""
        energies = [layer.energy_mev for layer in self.layers]
        return min(energies), max(energies)

    @property
    def label(self) -> str:
        """What stands beside its key: name, energies and gantry angle."""
        low, high = self.energies_mev
        return beam_label(self.shown_name, low, high, self.gantry_deg)


def beam_label(name: str, low_mev: float, high_mev: float, gantry_deg: float | None) -> str:
    """What people are told of a beam beside its key.

    Args:
        name: On one line and without the patient's identity; may be empty.
        low_mev: Lowest energy of its delivered layers [MeV].
        high_mev: Highest one [MeV].
        gantry_deg: None where nobody knows.
    """
    energies = f"{high_mev:.1f} MeV" if low_mev == high_mev else f"{low_mev:.1f}-{high_mev:.1f} MeV"
    gantry = "" if gantry_deg is None else f"gantry {gantry_deg:g}°"
    return ", ".join(part for part in (name, energies, gantry) if part)


class DeliveryEntry(ManifestPart):
    """One folder that the machine wrote."""

    number: int
    folder: Path
    beam_number: int
    irradiated_at: datetime
    """The machine's own time, in UTC."""
    first_layer: int
    last_layer: int
    plan_info: InputFile
    plan_range: InputFile
    files: tuple[InputFile, ...]


class ScanEnd(ManifestPart):
    """Where the CT ends inside the body."""

    beam: int | None
    """DICOM BeamNumber of the beam that it concerns; None for the scan as a whole."""
    text: str

    def __str__(self) -> str:
        return self.text if self.beam is None else f"beam {self.beam}: {self.text}"


class CaseManifest(ManifestPart):
    """One fraction of one plan, checked."""

    case: str
    plan: InputFile
    plan_sop_instance_uid: str
    machine_id: str
    fraction: int
    """The NNNN of the case key: order of first sight."""
    clinical_fraction: int | None
    """Order of delivery among the known fractions of the plan, as far as known."""
    partial: bool
    """Whether a treatment beam of the plan, or a layer of a delivered one, is absent."""
    missing_beams: tuple[int, ...]
    deliveries: tuple[DeliveryEntry, ...]
    beams: tuple[BeamEntry, ...]
    ct_series: tuple[InputFile, ...] = ()
    """The CT that came with the case, if any, by instance."""
    scan_ends: tuple[ScanEnd, ...] = ()
    """Where the CT ends inside the body, as far as a dose is simulated in it; stands among the notes too."""
    duplicates: tuple[InputFile, ...] = ()
    """Files that repeat another's content byte for byte and were set aside."""
    unused: tuple[Path, ...] = ()
    """Files in the case folder that no step uses."""
    notes: tuple[str, ...] = ()
    """What the checks found worth saying without failing the case, without paths and identifiers."""
    plan_label: str = ""
    """RT Plan Label for people, on one line and without the patient's identity; empty as `shown_name` is."""

    def beam(self, number: int) -> BeamEntry:
        """The beam of a DICOM BeamNumber; KeyError if it was not delivered."""
        for beam in self.beams:
            if beam.number == number:
                return beam
        raise KeyError(number)


def beam_inputs(manifest: CaseManifest, beam_number: int) -> dict[str, object]:
    """What a beam's results depend on, by content alone, as JSON values for a digest.

    No times, paths or numbers of deliveries: the order of delivery, the names of folders and further
    fractions or beams leave it unchanged.

    Raises:
        KeyError: The beam was not delivered.
    """
    return {
        "plan": manifest.plan.sha256,
        "beam": beam_number,
        "layers": [
            {
                "layer": layer.number,
                "energy_mev": layer.energy_mev,
                "parts": [
                    {
                        "record": part.record.sha256,
                        "range_code": part.range_code,
                        "machine_plan": None if part.machine_plan is None else part.machine_plan.sha256,
                    }
                    for part in layer.parts
                ],
            }
            for layer in sorted(manifest.beam(beam_number).layers, key=lambda layer: layer.number)
        ],
    }
