"""The beam model as a file beside the TPS file, for engines that have no table of the machine themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mqi_dagster.errors import EngineInputError, Where
from mqi_dagster.hu_table import HuCurves
from mqi_dagster.machine import BeamModel, Machine, RangeShifter
from mqi_dagster.plan.model import PlanBeam

_WHERE = Where(kind="beam model")


class EngineBeamModel(BaseModel):
    """What the engine needs to turn counts at positions into protons in front of the phantom or patient."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    machine_id: str
    sad_mm: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    """Virtual source-axis distances in x and y [mm]."""
    mu_per_count: Annotated[float, Field(gt=0)]
    """Monitor units per count of the dose monitor in range code 2."""
    counts_divided_by: Annotated[float, Field(gt=0)]
    """D: the counts of the CSVs are those of the monitor divided by this."""
    range_shifter_offset_mm: float
    """From the snout position to the side of a range shifter that faces the patient [mm]."""
    range_shifters: dict[str, RangeShifter]
    """The range shifters of this beam by RangeShifterID."""
    tables: BeamModel
    hu_table: HuCurves | None = None
    """What the values of the CT mean, where the engine simulates in one."""

    def protons_per_written_count(self, energy_mev: float) -> float:
        """D * K(E): protons per count as it stands in the CSV.

        Raises:
            ConfigurationError: The energy [MeV] lies outside the table.
        """
        return self.tables.protons_per_mu.at(energy_mev) * self.mu_per_count * self.counts_divided_by

    def render(self) -> str:
        """The file's text, the same for the same values."""
        absent = {"hu_table"} if self.hu_table is None else None
        return self.model_dump_json(indent=1, exclude=absent) + "\n"


def beam_model_for(
    machine: Machine, beam: PlanBeam, counts_divided_by: float, hu_table: HuCurves | None = None
) -> EngineBeamModel:
    """The beam model of one beam.

    Args:
        machine: Its machine.
        beam: The beam in the plan.
        counts_divided_by: What the counts of the CSVs were divided by.
        hu_table: The table of the CT's scanner, where the beam is simulated in a CT.

    Raises:
        UnknownMachineError: The beam has a range shifter that the machine file does not describe.
    """
    return EngineBeamModel(
        machine_id=machine.id,
        sad_mm=machine.sad_mm,
        mu_per_count=machine.record.mu_per_count,
        counts_divided_by=counts_divided_by,
        range_shifter_offset_mm=machine.range_shifter_offset_mm,
        range_shifters={
            shifter.shifter_id: machine.range_shifter(shifter.shifter_id) for shifter in beam.range_shifters
        },
        tables=machine.beam_model,
        hu_table=hu_table,
    )


def read_beam_model(path: Path) -> EngineBeamModel:
    """Read a beam model file.

    Raises:
        EngineInputError: It cannot be read or does not fit the types.
    """
    try:
        return EngineBeamModel.model_validate_json(path.read_bytes())
    except OSError as error:
        raise EngineInputError(f"cannot be read: {error.strerror}", where=_WHERE) from error
    except ValidationError as error:
        keys = ", ".join(".".join(str(part) for part in item["loc"]) for item in error.errors())
        raise EngineInputError(f"does not fit: {keys or 'no JSON'}", where=_WHERE) from error
