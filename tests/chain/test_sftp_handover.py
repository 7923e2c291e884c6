"""A case is handed over to another machine by SFTP, also when that machine is away for a while."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pwd
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.cli.case_show import show_case, show_cases
from mqi_dagster.cli.screen import output
from mqi_dagster.operations.case_report import case_report
from mqi_dagster.worklist import Stage, Worklist
from tests.chain.chain import ONE_BEAM, Chain
from tests.handover.sftp_server import SftpServer
from tests.ledger.ledger_rows import progress_reports
from tests.waiting import wait_for


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SftpServer]:
    """A host with SFTP alone."""
    made = SftpServer(tmp_path / "server", shell=False)
    made.start()
    yield made
    made.kill()


def chain_to(server: SftpServer, folder: Path) -> Chain:
    host = {
        "host": "127.0.0.1",
        "port": server.port,
        "user": pwd.getpwuid(os.geteuid()).pw_name,
        "key_file": str(server.folder / "user"),
        "known_hosts": str(server.folder / "known_hosts"),
        "connect_seconds": 3,
        "breaker_failures": 1000,
    }
    target = {"target": "pc_localdata", "folder": str(folder / "far" / "results")}
    return Chain(folder / "site", {"handover": target, "hosts": {"pc_localdata": host}})


def test_results_and_marker_arrive_and_are_what_the_receipts_say(server: SftpServer, tmp_path: Path) -> None:
    chain = chain_to(server, tmp_path)
    chain.deliver()
    chain.tick_sensors(2)
    assert [outcome.error for _, _, outcome in chain.runs] == [""] * 4
    (case,) = chain.runs_of("conclusion")
    far = tmp_path / "far" / "results"
    listed = {}
    for number in ("02", "03"):
        receipt = json.loads((far / case / f"{case}__b{number}" / "receipt.json").read_text())
        assert receipt["target"] == "sftp"
        listed |= {entry["name"]: (entry["sha256"], entry["size"]) for entry in receipt["entries"]}
    assert len(listed) == 4
    for name, (sha256, size) in listed.items():
        content = (far / name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (sha256, size)
    summary = (far / case / "summary.json").read_bytes()
    assert (far / case / "_COMPLETE").read_text() == f"{hashlib.sha256(summary).hexdigest()}  summary.json\n"
    assert not (tmp_path / "site" / "handover").exists()


def test_a_host_that_is_away_is_waited_for_in_sight(server: SftpServer, tmp_path: Path) -> None:
    chain = chain_to(server, tmp_path)
    chain.deliver()
    chain.tick("case_arrivals")
    server.kill()
    seen: list[str] = []

    def back() -> None:
        def said() -> list[str]:
            reports = progress_reports(chain.site.ledger).values()
            return [one.message for one in reports if one.phase == "waiting for the target"]

        seen.extend(wait_for(said, "it waits in sight"))
        server.start()

    thread = threading.Thread(target=back)
    thread.start()
    chain.tick("beams_to_simulate")
    thread.join()
    assert seen and "no connection" in seen[0]
    assert [outcome.error for job, _, outcome in chain.runs if job == "beam"] == ["", ""]
    chain.tick("cases_to_conclude")
    (case,) = chain.runs_of("conclusion")
    assert (tmp_path / "far" / "results" / case / "_COMPLETE").is_file()


def test_a_conclusion_that_waits_for_the_host_says_so_on_every_board(
    server: SftpServer, tmp_path: Path
) -> None:
    chain = chain_to(server, tmp_path)
    chain.deliver(plan=ONE_BEAM)
    chain.tick("case_arrivals")
    chain.tick("beams_to_simulate")
    (case,) = chain.runs_of("intake")
    server.kill()
    seen: list[tuple[str, str, str]] = []

    def back() -> None:
        def said() -> list[tuple[str, str, str]]:
            work = Worklist(chain.instance, chain.site, PIPELINES, chain.site.ledger)
            (top,) = work.snapshot().cases
            if top.stage is not Stage.WAITING_FOR_TARGET:
                return []
            listed, shown = io.StringIO(), io.StringIO()
            zone = chain.site.timezone
            show_cases(output(file=listed), list(work.every_case()), {case: work.beams_of(case)}, zone)
            show_case(output(file=shown), case_report(chain.instance, chain.site, case), zone)
            return [(top.reason, listed.getvalue(), shown.getvalue())]

        seen.extend(wait_for(said, "it waits in sight"))
        server.start()

    thread = threading.Thread(target=back)
    thread.start()
    chain.tick("cases_to_conclude")
    thread.join()
    ((reason, listed, shown),) = seen
    assert "no connection" in reason
    assert f"{case}: waiting for the target: {reason}" in listed
    assert f"case {case}: in work, waiting for the target; {reason}" in shown
    assert chain.runs_of("conclusion") == [case]
    assert (tmp_path / "far" / "results" / case / "_COMPLETE").is_file()
