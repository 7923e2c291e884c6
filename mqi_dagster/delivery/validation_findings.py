"""What a check found: errors that fail the case, and notes that people should see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from mqi_dagster.delivery.manifest import ManifestPart
from mqi_dagster.errors import InputError, Where


class Severity(StrEnum):
    """What a finding does to its case."""

    ERROR = "error"
    NOTE = "note"


class Finding(ManifestPart):
    """One finding, without paths and identifiers."""

    severity: Severity
    code: str
    """Class of the error (errors.py), or ``note``."""
    message: str
    beam: str | None = None
    """DICOM BeamNumber, where it is of one beam of the plan."""
    delivery: int | None
    """1-based number in time order within the fraction."""
    layer: int | None
    kind: str | None
    """Role of the file."""
    first_cause: str | None

    def __str__(self) -> str:
        location = str(Where(beam=self.beam, delivery=self.delivery, layer=self.layer, kind=self.kind))
        text = f"{location}: {self.message}" if location else self.message
        return f"{text} (first cause: {self.first_cause})" if self.first_cause else text


class Findings:
    """Collects errors instead of stopping at the first one."""

    def __init__(self) -> None:
        self._errors: list[InputError] = []
        self._notes: list[tuple[str, Where]] = []

    def error(self, error: InputError, where: Where | None = None) -> None:
        """Add an error, with the unknown parts of its place filled in from ``where``."""
        self._errors.append(error.at(where) if where is not None else error)

    def note(self, message: str, where: Where | None = None) -> None:
        """Add something that fails nothing."""
        self._notes.append((message, where or Where()))

    @contextmanager
    def collecting(self, where: Where) -> Iterator[None]:
        """Turn an input error raised inside into a finding at ``where``."""
        try:
            yield
        except InputError as error:
            self.error(error, where)

    def errors(self) -> list[InputError]:
        """The errors: of the case first, then by delivery and layer, then in the order of the checks."""
        return sorted(self._errors, key=lambda error: (error.where.delivery or 0, error.where.layer or 0))

    def notes(self) -> tuple[str, ...]:
        """The notes as texts, in the order of the checks."""
        return tuple(str(finding) for finding in self._note_findings())

    def all(self) -> tuple[Finding, ...]:
        """Errors first, then notes."""
        errors = [
            Finding(
                severity=Severity.ERROR,
                code=error.code,
                message=error.message,
                beam=error.where.beam,
                delivery=error.where.delivery,
                layer=error.where.layer,
                kind=error.where.kind,
                first_cause=error.first_cause,
            )
            for error in self.errors()
        ]
        return (*errors, *self._note_findings())

    def _note_findings(self) -> list[Finding]:
        return [
            Finding(
                severity=Severity.NOTE,
                code="note",
                message=message,
                delivery=where.delivery,
                layer=where.layer,
                kind=where.kind,
                first_cause=None,
            )
            for message, where in self._notes
        ]
