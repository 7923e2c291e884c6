"""What an RT Dose takes over from its plan: identity, study, frame of reference, and whom it refers to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset, FileDataset

from mqi_dagster.dicom.reading import decoding, decoding_as, read_dicom
from mqi_dagster.errors import DicomError, DoseError, Where

RT_ION_PLAN_CLASS = "1.2.840.10008.5.1.4.1.1.481.8"

_WHERE = Where(kind="RT plan")


@dataclass(frozen=True, slots=True, eq=False)
class PlanReference:
    """A plan's dataset and the beam of it that a dose is of."""

    dataset: Dataset
    """Holds identity; goes nowhere but into the DICOM file."""
    beam_number: int
    fraction_group_number: int

    def uid(self, keyword: str) -> str:
        """A UID of the plan.

        Raises:
            DoseError: The plan has none.
        """
        value = str(self.dataset.get(keyword) or "")
        if not value:
            raise DoseError(f"the plan has no {keyword}", where=_WHERE)
        return value


def dataset_of(path: Path, where: Where, *, of_ours: bool = False) -> FileDataset:
    """A DICOM file, with every error rewritten so that it names no path and no identifier.

    Args:
        path: The file.
        where: What it is, for errors.
        of_ours: Whether this program has written it.

    Raises:
        DoseError: It cannot be read, or is no DICOM file.
    """
    with decoding_as(DoseError, where):
        return read_dicom(path, of_ours=of_ours)


@contextmanager
def elements_of(where: Where) -> Iterator[None]:
    """Reads elements of a data set.

    Raises:
        DoseError: One is damaged; with the first cause.
    """
    try:
        with decoding():
            yield
    except DicomError as error:
        raise DoseError("is damaged", where=where, first_cause=error.first_cause) from None


def read_plan_reference(path: Path, beam_number: int) -> PlanReference:
    """The plan of a dose, and the fraction group that delivers the beam.

    Raises:
        DoseError: The file is no RT Ion Plan, has no such beam, or not exactly one fraction group for it.
    """
    dataset = dataset_of(path, _WHERE)
    with elements_of(_WHERE):
        if str(dataset.get("SOPClassUID", "")) != RT_ION_PLAN_CLASS:
            raise DoseError("SOPClassUID is not that of an RT Ion Plan", where=_WHERE)
        if beam_number not in [int(beam.BeamNumber) for beam in dataset.get("IonBeamSequence") or []]:
            raise DoseError(f"the plan has no beam {beam_number}", where=_WHERE)
        groups = [
            int(group.FractionGroupNumber)
            for group in dataset.get("FractionGroupSequence") or []
            if beam_number
            in [int(beam.ReferencedBeamNumber) for beam in group.get("ReferencedBeamSequence") or []]
        ]
    if len(groups) != 1:
        raise DoseError(
            f"FractionGroupSequence: {len(groups)} fraction groups refer to beam {beam_number}, not one",
            where=_WHERE,
        )
    return PlanReference(dataset, beam_number, groups[0])
