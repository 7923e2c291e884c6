"""How far a run of many courses is: bars on a terminal, plain lines in a file."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from mqi_dagster.cli.course_progress import CourseProgress
from mqi_dagster.processes.progress import Progress


def test_in_a_file_every_twentieth_is_a_line() -> None:
    stream = StringIO()
    with CourseProgress(Console(file=stream, width=200)) as shown:
        for ended in range(1001):
            shown.progress(Progress("Index headers", ended, 1000, ended / 10))
        shown.progress(Progress("Courses", 3, 10, 12.5))
        shown.note("something beside it")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 23
    assert lines[0] == "Index headers: 0/1000 (0%) elapsed 0.0s ETA unknown"
    assert lines[20] == "Index headers: 1000/1000 (100%) elapsed 100.0s ETA 0.0s"
    assert lines[21:] == ["Courses: 3/10 (30%) elapsed 12.5s ETA 29.2s", "something beside it"]


def test_on_a_terminal_each_label_has_a_bar() -> None:
    stream = StringIO()
    with CourseProgress(Console(file=stream, width=120, force_terminal=True, color_system=None)) as shown:
        shown.progress(Progress("Segmentation", 1, 4, 10.0))
        shown.progress(Progress("Radiomics", 2, 4, 10.0))
    last = stream.getvalue()
    assert "━" in last
    assert "1/4 (25%) elapsed 10.0s ETA 30.0s" in last and "2/4 (50%) elapsed 10.0s ETA 10.0s" in last
