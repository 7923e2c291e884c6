"""The board as text: which rows a person has chosen to see, and as many of them as fit on the screen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.text import Text

from mqi_dagster.moments import in_zone, local
from mqi_dagster.partitions import CASE, COURSE
from mqi_dagster.worklist import AlarmStatus, BeamStatus, CaseState, CaseStatus, GpuStatus, Stage, Work

Shown = CaseStatus | BeamStatus
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
    """Whether the list is of cases; else of beams, where there are any."""
    state: CaseState | None = None
    text: str = ""
    typing: bool = False
    """Whether keys go into the text."""
    cursor: str | None = None
    """Key of the chosen row: it stays chosen where the rows move."""
    position: int = 0
    log: list[str] | None = None
    """Lines of the log that is open."""
    log_title: str = ""
    log_offset: int = 0
    quit: bool = False
    zone: tzinfo = UTC
    """Of the site, in which moments are told."""
    _kept: tuple[object, list[Shown]] = field(default=(None, []), repr=False)

    def of_cases(self, work: Work) -> bool:
        """Whether cases are listed: also where nothing has beams, as courses have none."""
        return self.cases or not work.beams

    def rows(self, work: Work) -> list[Shown]:
        """The rows that are wanted, in the order of the board."""
        mark = (id(work), self.cases, self.state, self.text)
        if self._kept[0] != mark:
            rows: list[Shown] = [*work.cases] if self.of_cases(work) else [*work.beams]
            if self.state is not None:
                rows = [row for row in rows if row.state is self.state]
            if self.text:
                words = self.text.lower()
                rows = [row for row in rows if words in _words(row)]
            self._kept = (mark, rows)
        return self._kept[1]

    def chosen(self, work: Work) -> int:
        """Position of the cursor among the rows; -1 where there is no row."""
        rows = self.rows(work)
        if not rows:
            return -1
        if self.cursor is not None:
            for position, row in enumerate(rows):
                if key_of(row) == self.cursor:
                    self.position = position
                    return position
        self.position = min(self.position, len(rows) - 1)
        return self.position

    def move(self, work: Work, steps: int) -> None:
        """Move the cursor."""
        rows, position = self.rows(work), self.chosen(work)
        if rows:
            self.position = max(0, min(len(rows) - 1, position + steps))
            self.cursor = key_of(rows[self.position])

    def next_state(self) -> None:
        """Show the rows of the next state."""
        self.state = FILTERS[(FILTERS.index(self.state) + 1) % len(FILTERS)]
        self.cursor, self.position = None, 0


def key_of(row: Shown) -> str:
    """Key of a row."""
    return row.beam if isinstance(row, BeamStatus) else row.case


def _words(row: Shown) -> str:
    parts = [key_of(row), row.stage.words, row.state.value, row.reason]
    if isinstance(row, BeamStatus):
        parts += [row.label, row.slot or "", row.job or ""]
    return " ".join(parts).lower()


STYLES = {
    CaseState.FAILED: "red",
    CaseState.COMPLETE: "green",
    CaseState.PARTIAL: "yellow",
    CaseState.IN_WORK: "cyan",
    CaseState.WAITING: "",
}
_BLOCKS = " ▏▎▍▌▋▊▉█"
_SHORT = {
    Stage.INTERPRETING: "interpreting",
    Stage.WAITING_FOR_SLOT: "no free slot",
    Stage.WAITING_FOR_CLUSTER: "cluster away",
    Stage.QUEUED_ON_CLUSTER: "in Slurm",
    Stage.MAKING_RT_DOSE: "RT Dose",
    Stage.WAITING_FOR_TARGET: "target away",
    Stage.RETRIED: "tried again",
    Stage.INBOX: "in the inbox",
    Stage.TREE: "in the tree",
    Stage.BEAMS: "beams at work",
}
_WIDE = 110
"""Columns from which on nothing is shortened."""
_VERY_WIDE = 160
"""Columns from which on a beam's name, energies and gantry stand in a column of their own."""
_LABEL = 44


def _fill(text: str, size: int, whole: bool) -> str:
    """A cell of so many columns; longer than that where its text is and may not be cut."""
    return set_cell_size(text, max(size, cell_len(text)) if whole else size)


def lasting(seconds: float | None) -> str:
    """A length of time in seven characters at most."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    if whole < 100 * 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}"
    return f"{whole // 86400}d"


def bar(percent: float, width: int) -> str:
    """A bar of so many characters."""
    eighths = round(max(0.0, min(100.0, percent)) / 100 * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_BLOCKS[rest] if rest else "")).ljust(width, "·")[:width]


def _unit(work: Work) -> str:
    """What the rows are that are no beams: courses where nothing else is listed, else cases."""
    courses = bool(work.cases) and not work.beams and all(COURSE.has(row.case) for row in work.cases)
    return COURSE.name if courses else CASE.name


def summary(work: Work, name: str, error: str | None, now: datetime, width: int, zone: tzinfo) -> list[Text]:
    """The head: time, counts, and whether what is shown is of now."""
    beams = {
        "in work": sum(row.stage.at_work for row in work.beams),
        "queued": work.queue.queued,
        "waiting": work.queue.waiting_beams,
        "failed": sum(row.state is CaseState.FAILED for row in work.beams),
    }
    said = ", ".join(f"{count} {word}" for word, count in beams.items() if count) or "no beam waits"
    unit = _unit(work)
    of_beams = unit == CASE.name
    open_cases = len(work.cases) - sum(row.stage is Stage.CONCLUDED for row in work.cases)
    if width < _WIDE:
        head = Text.assemble(
            ("mqi top", "bold"),
            f" {work.at.astimezone(zone):%H:%M:%S %Z}  {f'{said}; ' if of_beams else ''}"
            f"{open_cases} {unit}s open",
        )
    else:
        head = Text.assemble(
            (f"mqi top {name}", "bold"),
            f"  {local(work.at, zone, seconds=True)}{f'  beams: {said}' if of_beams else ''}"
            f"  {unit}s: {open_cases} open, {work.concluded_cases} concluded",
        )
    if error is None:
        return [head]
    age = lasting((now - work.at).total_seconds())
    return [head, Text(f"{age} old: {error}", style="bold red")]


def pool_lines(
    gpus: Iterable[GpuStatus],
    beams: dict[str, BeamStatus],
    now: datetime,
    width: int,
    *,
    whole: bool = False,
) -> list[Text]:
    """One line a slot: its owner, and what is known of the device; without cutting a name where `whole`."""
    lines = []
    for gpu in gpus:
        slot = f"{gpu.host}/{gpu.kind}{gpu.index}"
        parts = [_fill(slot, 18 if width < _WIDE else 26, whole)]
        owner = beams.get(gpu.owner) if gpu.owner is not None else None
        percent = f" {owner.percent:3.0f} %" if owner is not None else ""
        style = "cyan" if gpu.owner is not None else "green"
        free = ("free" if gpu.in_service else "out of service") if gpu.slot else "no slot"
        parts.append(_fill((gpu.owner or free) + percent, 31, whole))
        if gpu.leased_at is not None:
            parts.append(lasting((now - gpu.leased_at).total_seconds()).rjust(6))
        if gpu.used_mb is not None and gpu.memory_mb:
            parts.append(f"{gpu.used_mb / 1024:4.1f}/{gpu.memory_mb / 1024:.0f} GB")
        elif gpu.memory_mb:
            parts.append(f"{gpu.memory_mb / 1024:.0f} GB")
        if gpu.utilisation_percent is not None:
            parts.append(f"{gpu.utilisation_percent:3.0f} %")
        if gpu.temperature_c is not None:
            parts.append(f"{gpu.temperature_c:.0f} °C")
        if gpu.name and width >= _WIDE:
            parts.append(gpu.name)
        if owner is not None and owner.label and width >= _WIDE:
            parts.append(owner.label)
        lines.append(Text(" ".join(parts), style=style if gpu.in_service else "dim"))
    return lines


def queue_line(work: Work, zone: tzinfo) -> Text:
    """The queue and its reasons."""
    queue = work.queue
    runs = f"{queue.in_work} of {queue.max_runs}" if queue.max_runs is not None else f"{queue.in_work}"
    pool = f", pool {queue.pool_in_use} of {queue.pool_limit}" if queue.pool_limit is not None else ""
    most_first = sorted(queue.reasons.items(), key=lambda item: -item[1])
    reasons = "; ".join(f"{count} × {in_zone(why, zone)}" for why, count in most_first)
    unit = _unit(work)
    waiting = f"; {queue.waiting_cases} {unit}s ready" if queue.waiting_cases else ""
    where = Stage.INBOX if unit == CASE.name else Stage.TREE
    inbox = f"; {queue.inbox} {where.words}" if queue.inbox else ""
    text = f"runs {runs}{pool}; queued {queue.queued}"
    return Text(f"{text}{f' ({reasons})' if reasons else ''}{waiting}{inbox}")


def alarm_lines(alarms: list[AlarmStatus], at_most: int, zone: tzinfo) -> list[Text]:
    """The alarms, so many lines at most."""
    if not alarms or at_most < 1:
        return []
    shown = alarms if len(alarms) <= at_most else alarms[: max(1, at_most - 1)]
    lines = [Text(f"! {one.subject}: {in_zone(one.text, zone)}", style="red") for one in shown]
    if len(alarms) > len(shown) and at_most > 1:
        lines.append(Text(f"! {len(alarms) - len(shown)} more alarms", style="red"))
    return lines


def head_line(cases: bool, width: int, longest: int = 0, unit: str = CASE.name) -> Text:
    """Titles of the columns; the keys have the width of the longest one, in columns, where it is given."""
    key, stage, progress = _widths(cases, width)
    key = max(key, longest)
    cells = [(unit if cases else "beam", key)]
    if not cases and width >= _VERY_WIDE:
        cells.append(("name, energies, gantry", _LABEL))
    cells += [("stage", stage), ("", progress + 6)]
    if cases:
        cells += [("done", 6), ("since", 11), ("prio", 4), ("why", 0)]
    else:
        cells += [("batch", 5), (" time", 5), (" left", 5), ("where", 0)]
    return Text(" ".join(set_cell_size(name, size) if size else name for name, size in cells), style="bold")


def row_line(
    row: CaseStatus | BeamStatus, width: int, chosen: bool, zone: tzinfo, longest: int | None = None
) -> Text:
    """One row of the list; where the longest key's columns are given, nothing is cut."""
    key, stage, progress = _widths(isinstance(row, CaseStatus), width)
    key, whole = max(key, longest or 0), longest is not None
    words = row.stage.words if width >= _WIDE else _SHORT.get(row.stage, row.stage.words)
    begun = row.stage.at_work or row.percent > 0
    cells = [set_cell_size(row.case if isinstance(row, CaseStatus) else row.beam, key)]
    if isinstance(row, BeamStatus) and width >= _VERY_WIDE:
        cells.append(_fill(row.label, _LABEL, whole))
    cells.append(_fill(words, stage, whole))
    if isinstance(row, CaseStatus):
        done = "-" if row.beams_total is None else f"{row.beams_done} of {row.beams_total}"
        since = f"{row.since.astimezone(zone):%m-%d %H:%M}" if row.since is not None else "-"
        cells.append(f"{bar(row.percent, progress)} {row.percent:3.0f} %" if begun else " " * (progress + 6))
        cells += [f"{done:6}", f"{since:11}", f"{row.priority or '':4}", in_zone(row.reason, zone)]
    elif begun:
        batch = f"{row.batch}/{row.batches}" if row.batch is not None and row.batches is not None else ""
        left = lasting(row.remaining_seconds) if row.remaining_seconds is not None else ""
        cells += [f"{bar(row.percent, progress)} {row.percent:3.0f} %", f"{batch:5}"]
        cells += [f"{lasting(row.elapsed_seconds):>5}", f"{left:>5}", _where(row, width, zone)]
    else:
        cells.append(_where(row, width, zone))
    return Text(" ".join(cells), style=(STYLES[row.state] + (" reverse" if chosen else "")).strip())


def _where(row: BeamStatus, width: int, zone: tzinfo) -> str:
    slot = row.slot or ""
    parts = [slot if width >= _WIDE else slot.rpartition("/")[2]]
    if row.job is not None:
        parts.append(f"job {row.job} {row.job_state or ''}".rstrip())
    if row.attempt is not None and row.attempt > 1:
        parts.append(f"attempt {row.attempt}")
    parts.append(in_zone(row.reason, zone))
    return ", ".join(part for part in parts if part)


def detail_line(row: CaseStatus | BeamStatus, zone: tzinfo) -> Text:
    """What does not fit into the row of the cursor."""
    parts = [row.case] if isinstance(row, CaseStatus) else [row.beam, *filter(None, (row.label,))]
    parts.append(row.stage.words)
    if row.reason:
        parts.append(in_zone(row.reason, zone))
    if row.next_step:
        parts.append(f"what to do: {row.next_step}")
    return Text(": ".join(parts), style=STYLES[row.state])


def _widths(cases: bool, width: int) -> tuple[int, int, int]:
    """Columns of the key, the stage and the bar."""
    wide = width >= _WIDE
    return (17 if cases else 22) + (3 if wide else 0), 25 if wide else 13, 20 if wide else 5


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
        for position, line in enumerate(lines):
            line.truncate(width, overflow="ellipsis")
            line.no_wrap, line.end = True, ""
            yield from console.render(line, options.update(width=width, height=None))
            if position < len(lines) - 1:
                yield Segment.line()

    def lines(self, width: int, height: int) -> list[Text]:
        """Every line of a screen of this size."""
        work, view = self._work, self._view
        if work is None:
            return [Text(f"mqi top {self._name}", style="bold"), Text(self._error or "reading …")]
        if view.log is not None:
            return self._log(height)
        lines = summary(work, self._name, self._error, self._now, width, view.zone)
        beams = {row.beam: row for row in work.beams if row.slot is not None}
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
        lines = [head_line(view.of_cases(work), width, unit=_unit(work))]
        lines += [
            row_line(row, width, position == chosen, view.zone)
            for position, row in enumerate(rows[first : first + room], start=first)
        ]
        lines += [Text("")] * (room + 1 - len(lines))
        lines.append(detail_line(rows[chosen], view.zone) if rows else Text("nothing to show", style="dim"))
        return [*lines, self._foot(f"{len(rows)} {_unit(work) if view.of_cases(work) else 'beam'}s")]

    def _foot(self, count: str) -> Text:
        view = self._view
        if view.typing:
            return Text(f"text: {view.text}▏ (Enter keeps it, Esc clears it)", style="bold")
        chosen = [count]
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
        head_line(view.of_cases(work), width, longest, _unit(work)),
    ]
    lines += [row_line(row, width, False, view.zone, longest) for row in rows[:_ROWS_ONCE]]
    if len(rows) > _ROWS_ONCE:
        lines.append(Text(f"… {len(rows) - _ROWS_ONCE} more; --json lists all", style="dim"))
    for line in lines:
        console.print(line, soft_wrap=True)
