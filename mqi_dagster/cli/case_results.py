"""What `mqi case run` says in the end: a verdict on every case, with its beams."""

from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.text import Text

from mqi_dagster.cli.results_table import BeamRow, print_results


class Verdict(StrEnum):
    """What came of a case."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    """Concluded, though beams or layers of the plan never came."""
    FAILED = "failed"

    @property
    def concluded(self) -> bool:
        """Whether its results stand at the target with their completion marker."""
        return self is not Verdict.FAILED


class CaseResult(BaseModel):
    """What came of one case of the folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    case: str
    status: Verdict
    error: str | None = None
    """First cause of a failure of the case itself; those of its beams stand with the beams."""
    missing_beams: tuple[int, ...] = ()
    beams: tuple[BeamRow, ...] = ()


def overall(results: Sequence[CaseResult]) -> Verdict:
    """The verdict of the whole folder: as bad as that of its worst case."""
    verdicts = {result.status for result in results}
    for verdict in (Verdict.FAILED, Verdict.PARTIAL):
        if verdict in verdicts:
            return verdict
    return Verdict.COMPLETE if verdicts else Verdict.FAILED


def show_results(console: Console, results: Sequence[CaseResult]) -> None:
    """The results as a table, and the first cause of every failure."""
    rows = [row for result in results for row in result.beams]
    if rows:
        print_results(console, rows)
    for result in results:
        missing = ", ".join(str(number) for number in result.missing_beams)
        partial = f"; no delivery of beam {missing}" if missing else ""
        style = "green" if result.status.concluded else "red"
        console.print(Text.assemble(f"case {result.case}: ", (result.status.value, style), partial))
        for row in result.beams:
            if row.error is not None:
                console.print(
                    Text(f"  beam {row.beam} ({row.label}): {row.error}", style="red"), soft_wrap=True
                )
        if result.error is not None:
            console.print(Text(f"  {result.error}", style="red"), soft_wrap=True)
