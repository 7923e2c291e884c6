"""Moments are told in the zone of the site, and written in UTC."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.cli.top_screen import summary
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.moments import in_zone, local
from mqi_dagster.notify.mail import MailChannel
from mqi_dagster.notify.message import Message
from mqi_dagster.operations.site_folder import initialise
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import Mail
from mqi_dagster.worklist import QueueStatus, Work

SEOUL = ZoneInfo("Asia/Seoul")
MOMENT = datetime(2026, 1, 4, 16, 10, 5, tzinfo=UTC)


def test_a_moment_is_told_with_its_zone() -> None:
    assert local(MOMENT, SEOUL) == "2026-01-05 01:10 KST"
    assert local(MOMENT, SEOUL, seconds=True) == "2026-01-05 01:10:05 KST"
    assert local(MOMENT, UTC) == "2026-01-04 16:10 UTC"


def test_moments_inside_a_text_are_told_so_too() -> None:
    written = "no answer since 2026-01-04 16:10 UTC; again at 2026-01-04 16:11:30 UTC: away"
    assert in_zone(written, SEOUL) == (
        "no answer since 2026-01-05 01:10 KST; again at 2026-01-05 01:11:30 KST: away"
    )
    assert in_zone("no moment: 2026-13-44 16:10 UTC", SEOUL) == "no moment: 2026-13-44 16:10 UTC"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moments") / "clinic"
    initialise(folder, {"site.timezone": "Asia/Seoul"})
    text = "was not seen since 2026-01-04 16:10 UTC"
    Site(folder / "mqi.yaml").ledger.alarms.raise_(AlarmKind.GPU_LOST, "host/gpu0", text, MOMENT)
    return folder


def test_the_alarms_are_told_in_the_site_s_zone_and_in_utc_to_scripts(site: Path) -> None:
    shown = CliRunner().invoke(app, ["alarms", "--site", str(site)], catch_exceptions=False).output
    assert "2026-01-05 01:10 KST" in shown and "UTC" not in shown
    listed = CliRunner().invoke(app, ["alarms", "--json", "--site", str(site)], catch_exceptions=False)
    assert "since 2026-01-04 16:10 UTC" in json.loads(listed.output)[0]["text"]


def test_the_board_tells_the_site_s_time() -> None:
    work = Work(at=MOMENT, daemon_alive=True, daemon_seen=None, cases=[], beams=[], gpus=[], alarms=[],
                concluded_cases=0, queue=QueueStatus(queued=0, in_work=0, max_runs=1, pool_in_use=0,
                pool_limit=1, waiting_beams=0, waiting_cases=0, inbox=0, reasons={}))  # fmt: skip
    assert "2026-01-05 01:10:05 KST" in summary(work, "clinic", None, MOMENT, 200, SEOUL)[0].plain


def test_a_mail_tells_the_site_s_time() -> None:
    settings = Mail(host="localhost", sender="a@b.org", recipients=("c@d.org",))
    message = Message(1, "clinic", "test", "", "", "text", MOMENT.astimezone(SEOUL))
    assert "2026-01-05 01:10:05 KST" in MailChannel(settings)._mail(message).get_content()
