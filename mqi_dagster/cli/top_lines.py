"""The board as lines of text, as many as fit on the screen."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, tzinfo

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from mqi_dagster.moments import in_zone, local
from mqi_dagster.worklist import Alarm, BeamStand, CaseStand, CaseState, GpuStand, Stage, Work

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


def summary(work: Work, name: str, error: str | None, now: datetime, width: int, zone: tzinfo) -> list[Text]:
    """The head: time, counts, and whether what is shown is of now."""
    beams = {
        "in work": sum(row.stage.at_work for row in work.beams),
        "queued": work.queue.queued,
        "waiting": work.queue.waiting_beams,
        "failed": sum(row.state is CaseState.FAILED for row in work.beams),
    }
    said = ", ".join(f"{count} {word}" for word, count in beams.items() if count) or "no beam waits"
    open_cases = len(work.cases) - sum(row.stage is Stage.CONCLUDED for row in work.cases)
    if width < _WIDE:
        head = Text.assemble(
            ("mqi top", "bold"), f" {work.at.astimezone(zone):%H:%M:%S %Z}  {said}; {open_cases} cases open"
        )
    else:
        head = Text.assemble(
            (f"mqi top {name}", "bold"),
            f"  {local(work.at, zone, seconds=True)}  beams: {said}"
            f"  cases: {open_cases} open, {work.concluded_cases} concluded",
        )
    if error is None:
        return [head]
    age = lasting((now - work.at).total_seconds())
    return [head, Text(f"{age} old: {error}", style="bold red")]


def pool_lines(
    gpus: Iterable[GpuStand],
    beams: dict[str, BeamStand],
    now: datetime,
    width: int,
    *,
    whole: bool = False,
) -> list[Text]:
    """One line a slot: its owner, and what is known of the device; without cutting a name where `whole`."""
    lines = []
    for gpu in gpus:
        place = f"{gpu.host}/{gpu.kind}{gpu.index}"
        parts = [_fill(place, 18 if width < _WIDE else 26, whole)]
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
    waiting = f"; {queue.waiting_cases} cases ready" if queue.waiting_cases else ""
    inbox = f"; {queue.inbox} in the inbox" if queue.inbox else ""
    text = f"runs {runs}{pool}; queued {queue.queued}"
    return Text(f"{text}{f' ({reasons})' if reasons else ''}{waiting}{inbox}")


def alarm_lines(alarms: list[Alarm], at_most: int, zone: tzinfo) -> list[Text]:
    """The alarms, so many lines at most."""
    if not alarms or at_most < 1:
        return []
    shown = alarms if len(alarms) <= at_most else alarms[: max(1, at_most - 1)]
    lines = [Text(f"! {one.subject}: {in_zone(one.text, zone)}", style="red") for one in shown]
    if len(alarms) > len(shown) and at_most > 1:
        lines.append(Text(f"! {len(alarms) - len(shown)} more alarms", style="red"))
    return lines


def head_line(cases: bool, width: int, longest: int = 0) -> Text:
    """Titles of the columns; the keys have the width of the longest one, in columns, where it is given."""
    key, stage, progress = _widths(cases, width)
    key = max(key, longest)
    cells = [("case" if cases else "beam", key)]
    if not cases and width >= _VERY_WIDE:
        cells.append(("name, energies, gantry", _LABEL))
    cells += [("stage", stage), ("", progress + 6)]
    if cases:
        cells += [("done", 6), ("since", 11), ("prio", 4), ("why", 0)]
    else:
        cells += [("batch", 5), (" time", 5), (" left", 5), ("where", 0)]
    return Text(" ".join(set_cell_size(name, size) if size else name for name, size in cells), style="bold")


def row_line(
    row: CaseStand | BeamStand, width: int, chosen: bool, zone: tzinfo, longest: int | None = None
) -> Text:
    """One row of the list; where the longest key's columns are given, nothing is cut."""
    key, stage, progress = _widths(isinstance(row, CaseStand), width)
    key, whole = max(key, longest or 0), longest is not None
    words = row.stage.words if width >= _WIDE else _SHORT.get(row.stage, row.stage.words)
    begun = row.stage.at_work or row.percent > 0
    cells = [set_cell_size(row.case if isinstance(row, CaseStand) else row.beam, key)]
    if isinstance(row, BeamStand) and width >= _VERY_WIDE:
        cells.append(_fill(row.label, _LABEL, whole))
    cells.append(_fill(words, stage, whole))
    if isinstance(row, CaseStand):
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


def _where(row: BeamStand, width: int, zone: tzinfo) -> str:
    place = row.place or ""
    parts = [place if width >= _WIDE else place.rpartition("/")[2]]
    if row.job is not None:
        parts.append(f"job {row.job} {row.job_state or ''}".rstrip())
    if row.attempt is not None and row.attempt > 1:
        parts.append(f"attempt {row.attempt}")
    parts.append(in_zone(row.reason, zone))
    return ", ".join(part for part in parts if part)


def detail_line(row: CaseStand | BeamStand, zone: tzinfo) -> Text:
    """What does not fit into the row of the cursor."""
    parts = [row.case] if isinstance(row, CaseStand) else [row.beam, *filter(None, (row.label,))]
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
