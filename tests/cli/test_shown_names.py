"""Names that come from inputs are shown as they are, and no terminal, page or mail obeys them."""

from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from zoneinfo import ZoneInfo

import pydicom
import pytest
from rich.table import Table
from rich.text import Text

from mqi_dagster.cli.case_check import check_folder, show_check
from mqi_dagster.cli.case_show import show_case
from mqi_dagster.cli.screen import output
from mqi_dagster.errors import ConfigurationError
from mqi_dagster.hu_table import read_hu_table
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.notify.message import Message
from mqi_dagster.operations.case_report import case_report
from tests.chain.chain import ONE_BEAM, Chain

FOLDER = "[bold red]x[/]\x1b[31m"
SEEN = r"[bold red]x[/]\x1b[31m"
TITLE = "\x1b]0;title\x07"


def printed(screen: StringIO) -> str:
    """What was printed, of which a terminal obeys nothing."""
    text = screen.getvalue()
    assert all(line.isprintable() for line in text.split("\n")), repr(text)
    return text


@pytest.mark.parametrize("failed", [True, False], ids=["failed", "concluded"])
def test_case_show_prints_folder_names_as_they_are(tmp_path: Path, failed: bool) -> None:
    chain = Chain(tmp_path / "site")
    delivered = chain.deliver(*(["truncated:beam=2,layer=1"] if failed else []), plan=ONE_BEAM)
    above, _, name = f"{FOLDER}{TITLE}".partition("/")
    (chain.inbox / above).mkdir()
    delivered.folder.rename(chain.inbox / above / name)
    chain.tick_sensors(rounds=2)
    (case,) = set(chain.runs_of("intake"))
    if failed:
        chain.site.ledger.alarms.raise_(AlarmKind.CASE_FAILED, case, "failed")
    screen = StringIO()
    show_case(output(file=screen), case_report(chain.instance, chain.site, case), ZoneInfo("UTC"))
    assert f"/{SEEN}" in printed(screen)
    assert r"\x1b]0;title\x07" in screen.getvalue()


def test_case_check_prints_beam_names_as_they_are(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    folder = chain.deliver(plan=ONE_BEAM).folder
    (path,) = folder.glob("*.dcm")
    plan = pydicom.dcmread(path)
    for beam in plan.IonBeamSequence:
        beam.BeamName = "[red]x[/]" + TITLE + "n" * 3
    plan.save_as(path)
    check, _ = check_folder(folder, None, None, timezone="Asia/Seoul")
    screen = StringIO()
    show_check(output(file=screen), check)
    assert r"[red]x[/]\x1b]0;title\x07nnn" in printed(screen)


def test_no_text_that_a_command_prints_speaks_to_the_terminal() -> None:
    screen = StringIO()
    console = output(file=screen)
    console.print(Text(f"{FOLDER}{TITLE}\u202e\udcff\nsecond line"))
    table = Table(box=None, show_header=False)
    table.add_row(Text(TITLE + " " * 20))
    console.print(table)
    assert printed(screen).splitlines()[:2] == [
        # The bell rich itself drops.
        SEEN + r"\x1b]0;title\u202e\udcff",
        "second line",
    ]
    assert r"\x1b]0;title" in screen.getvalue().splitlines()[2]


def test_no_mail_or_page_is_told_what_a_terminal_obeys() -> None:
    message = Message(
        1, "site", "alarm_raised", "case_failed", TITLE, f"{TITLE}\nsecond " + "x" * 9000, datetime.now(UTC)
    )
    assert message.text.startswith("\\x1b]0;title\\x07\nsecond x")
    assert len(message.text) < 5000
    assert message.title.isprintable()


def test_an_unknown_key_is_told_escaped_and_bounded(tmp_path: Path) -> None:
    file = tmp_path / "table.yaml"
    file.write_text(f'"\\e]0;{"k" * 900}": 1\n')
    with pytest.raises(ConfigurationError) as raised:
        read_hu_table(file)
    assert "\\x1b]0;kkk" in raised.value.message
    assert "k" * 300 not in raised.value.message
