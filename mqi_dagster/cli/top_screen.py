"""The board on a screen of any size, and the same once, as plain text."""

from __future__ import annotations

from datetime import datetime

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.text import Text

from mqi_dagster.cli.top_lines import (
    alarm_lines,
    detail_line,
    head_line,
    pool_lines,
    queue_line,
    row_line,
    summary,
)
from mqi_dagster.cli.top_view import View, key_of
from mqi_dagster.worklist import Work

KEYS = "q quit  ↑↓ move  c cases/beams  s state  / text  l log  Esc clear"
_ROWS_ONCE = 100


class Screen:
    """The board as it fills a terminal.

    Args:
        work: What was read last; None where nothing could be read yet.
        view: What is chosen.
        name: Name of the site.
        error: Why the last reading failed.
        now: UTC.
    """

    def __init__(self, work: Work | None, view: View, name: str, error: str | None, now: datetime) -> None:
        self._work = work
        self._view = view
        self._name = name
        self._error = error
        self._now = now

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, options.height or console.height
        lines = self.lines(width, height)[:height]
        for place, line in enumerate(lines):
            line.truncate(width, overflow="ellipsis")
            line.no_wrap, line.end = True, ""
            yield from console.render(line, options.update(width=width, height=None))
            if place < len(lines) - 1:
                yield Segment.line()

    def lines(self, width: int, height: int) -> list[Text]:
        """Every line of a screen of this size."""
        work, view = self._work, self._view
        if work is None:
            return [Text(f"mqi top {self._name}", style="bold"), Text(self._error or "reading …")]
        if view.log is not None:
            return self._log(height)
        lines = summary(work, self._name, self._error, self._now, width, view.zone)
        beams = {row.beam: row for row in work.beams if row.place is not None}
        slots = pool_lines(work.gpus, beams, self._now, width)
        room = max(2, height // 4)
        lines += slots if len(slots) <= room else [*slots[: room - 1], _more(len(slots) - room + 1, "slots")]
        lines.append(queue_line(work, view.zone))
        lines += alarm_lines(work.alarms, max(1, height // 8), view.zone)
        return lines + self._list(work, width, height - len(lines))

    def _list(self, work: Work, width: int, height: int) -> list[Text]:
        view = self._view
        rows, chosen = view.rows(work), view.chosen(work)
        room = max(1, height - 3)
        first = max(0, min(chosen - room // 2, len(rows) - room))
        lines = [head_line(view.cases, width)]
        lines += [
            row_line(row, width, place == chosen, view.zone)
            for place, row in enumerate(rows[first : first + room], start=first)
        ]
        lines += [Text("")] * (room + 1 - len(lines))
        lines.append(detail_line(rows[chosen], view.zone) if rows else Text("nothing to show", style="dim"))
        return [*lines, self._foot(len(rows))]

    def _foot(self, count: int) -> Text:
        view = self._view
        if view.typing:
            return Text(f"text: {view.text}▏ (Enter keeps it, Esc clears it)", style="bold")
        chosen = [f"{count} {'cases' if view.cases else 'beams'}"]
        if view.state is not None:
            chosen.append(view.state.value)
        if view.text:
            chosen.append(f"“{view.text}”")
        return Text.assemble((" ".join(chosen), "bold"), ("  " + KEYS, "dim"))

    def _log(self, height: int) -> list[Text]:
        view = self._view
        log = view.log or []
        room = max(1, height - 2)
        last = max(room, len(log) - view.log_offset)
        lines = [Text(line) for line in log[max(0, last - room) : last]]
        lines += [Text("")] * (room - len(lines))
        return [
            Text(view.log_title, style="bold"),
            *lines,
            Text("↑↓ PgUp PgDn move  Esc back  q quit", style="dim"),
        ]


def _more(count: int, what: str) -> Text:
    return Text(f"… {count} more {what}", style="dim")


def print_once(console: Console, work: Work, view: View, name: str) -> None:
    """The same as plain text, every line whole."""
    width = max(console.width, 120)
    rows = view.rows(work)
    lines = summary(work, name, None, work.at, width, view.zone)
    beams = {row.beam: row for row in work.beams}
    lines += pool_lines(work.gpus, beams, work.at, width, whole=True)
    longest = max((cell_len(key_of(row)) for row in rows[:_ROWS_ONCE]), default=0)
    lines += [
        queue_line(work, view.zone),
        *alarm_lines(work.alarms, len(work.alarms), view.zone),
        head_line(view.cases, width, longest),
    ]
    lines += [row_line(row, width, False, view.zone, longest) for row in rows[:_ROWS_ONCE]]
    if len(rows) > _ROWS_ONCE:
        lines.append(Text(f"… {len(rows) - _ROWS_ONCE} more; --json lists all", style="dim"))
    for line in lines:
        console.print(line, soft_wrap=True)
