"""What a person has chosen to see of the board: which rows, filtered how, and where the cursor is."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, tzinfo

from mqi_dagster.worklist import BeamStand, CaseStand, CaseState, Work

Shown = CaseStand | BeamStand
FILTERS: tuple[CaseState | None, ...] = (
    None,
    CaseState.IN_WORK,
    CaseState.WAITING,
    CaseState.FAILED,
    CaseState.COMPLETE,
    CaseState.PARTIAL,
)


@dataclass(slots=True)
class View:
    """The choices."""

    cases: bool = False
    """Whether the list is of cases; else of beams."""
    state: CaseState | None = None
    text: str = ""
    typing: bool = False
    """Whether keys go into the text."""
    cursor: str | None = None
    """Key of the chosen row: it stays chosen where the rows move."""
    place: int = 0
    log: list[str] | None = None
    """Lines of the log that is open."""
    log_title: str = ""
    log_offset: int = 0
    quit: bool = False
    zone: tzinfo = UTC
    """Of the site, in which moments are told."""
    _kept: tuple[object, list[Shown]] = field(default=(None, []), repr=False)

    def rows(self, work: Work) -> list[Shown]:
        """The rows that are wanted, in the order of the board."""
        mark = (id(work), self.cases, self.state, self.text)
        if self._kept[0] != mark:
            rows: list[Shown] = [*work.cases] if self.cases else [*work.beams]
            if self.state is not None:
                rows = [row for row in rows if row.state is self.state]
            if self.text:
                words = self.text.lower()
                rows = [row for row in rows if words in _words(row)]
            self._kept = (mark, rows)
        return self._kept[1]

    def chosen(self, work: Work) -> int:
        """Place of the cursor among the rows; -1 where there is no row."""
        rows = self.rows(work)
        if not rows:
            return -1
        if self.cursor is not None:
            for place, row in enumerate(rows):
                if key_of(row) == self.cursor:
                    self.place = place
                    return place
        self.place = min(self.place, len(rows) - 1)
        return self.place

    def move(self, work: Work, steps: int) -> None:
        """Move the cursor."""
        rows, place = self.rows(work), self.chosen(work)
        if rows:
            self.place = max(0, min(len(rows) - 1, place + steps))
            self.cursor = key_of(rows[self.place])

    def next_state(self) -> None:
        """Show the rows of the next state."""
        self.state = FILTERS[(FILTERS.index(self.state) + 1) % len(FILTERS)]
        self.cursor, self.place = None, 0


def key_of(row: Shown) -> str:
    """Key of a row."""
    return row.beam if isinstance(row, BeamStand) else row.case


def _words(row: Shown) -> str:
    parts = [key_of(row), row.stage.words, row.state.value, row.reason]
    if isinstance(row, BeamStand):
        parts += [row.label, row.place or "", row.job or ""]
    return " ".join(parts).lower()
