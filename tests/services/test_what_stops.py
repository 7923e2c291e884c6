"""Whatever stops working is an alarm on every surface, and all goes on by itself once it is back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services.stack import HOLD, MQI, Stack
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SENSORS = """
query { sensorsOrError(repositorySelector: {
  repositoryName: "__repository__", repositoryLocationName: "mqi"}) {
  ... on Sensors { results { name id sensorState { id } } } } }
"""
STOP = "mutation Stop($id: String!) { stopSensor(id: $id) { __typename } }"
START = """
mutation Start($name: String!) { startSensor(sensorSelector: {repositoryName: "__repository__",
  repositoryLocationName: "mqi", sensorName: $name}) { __typename } }
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A site whose inbox is a share, where this user may mount one."""
    made = Stack(tmp_path_factory.mktemp("what-stops"), {"alarms": {"disk_free_gb": 0}})
    share = made.folder / "share"
    share.mkdir()
    if os.geteuid() == 0 and mount("--bind", share, made.inbox):
        # A delivery is renamed to its place, which no mount is in the way of there.
        mounted, made.inbox = made.inbox, share
        try:
            with made.running():
                yield made
        finally:
            subprocess.run(["umount", "-l", str(mounted)], check=False)
    else:
        with made.running():
            yield made


def mount(*arguments: str | Path) -> bool:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, check=False)
    return done.returncode == 0


def mqi(site: Path, *arguments: str) -> tuple[int, Any]:
    done = subprocess.run(
        [str(MQI), arguments[0], "--site", str(site), *arguments[1:], "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout.strip() else done.stderr


def raised(site: Stack, kind: str, subject: str) -> None:
    """Wait for an alarm in the ledger; then every surface has to say so."""
    wait_for(
        lambda: (kind, subject) in {(one.kind.value, one.subject) for one in site.ledger().alarms.open()},
        f"the alarm {kind}",
        300,
        report=site.report,
    )
    assert (kind, subject) in {(one["kind"], one["subject"]) for one in mqi(site.site, "alarms")[1]}
    board = mqi(site.site, "top")[1]
    assert (kind, subject) in {(one["kind"], one["subject"]) for one in board["alarms"]}
    code, findings = mqi(site.site, "doctor")
    told = [one for one in findings if one["verdict"] != "ok" and subject in one["subject"] + one["found"]]
    assert told, findings
    assert code == 1


def cleared(site: Stack, kind: str) -> None:
    wait_for(
        lambda: kind not in {one.kind.value for one in site.ledger().alarms.open()},
        f"the end of the alarm {kind}",
        300,
        report=site.report,
    )


def test_an_inbox_that_is_unmounted_and_mounted_again(site: Stack) -> None:
    share = site.folder / "share"
    inbox = site.site / "inbox"
    if not share.samefile(inbox):
        pytest.skip("nothing can be mounted here")
    site.steer(seconds=HOLD)
    case = site.case_of(site.deliver(seed=90, beams=2))
    wait_for(site.engines, "an engine runs", 200, report=site.report)
    subprocess.run(["umount", "-l", str(inbox)], check=True)
    assert list(inbox.iterdir()) == []
    raised(site, "inbox_away", "inbox")
    site.steer()
    wait_for(
        lambda: {one.code for one in site.ledger().outcomes.open_retries()} == {"inputs-away"},
        "a beam waits for the inbox",
        200,
        report=site.report,
    )
    assert mount("--bind", share, inbox)
    cleared(site, "inbox_away")
    site.wait_for_conclusion(case)
    assert site.ledger().alarms.open() == []


def test_a_daemon_that_was_killed(site: Stack) -> None:
    again = site.crash("daemon")
    raised(site, "daemon_away", "daemon")
    again()
    cleared(site, "daemon_away")
    site.wait_for_conclusion(site.case_of(site.deliver(seed=91, beams=1)))


def test_a_code_location_that_was_killed(site: Stack) -> None:
    again = site.crash("code")
    raised(site, "code_away", "code")
    again()
    cleared(site, "code_away")
    site.wait_for_conclusion(site.case_of(site.deliver(seed=92, beams=1)))


def test_a_watch_that_was_killed(site: Stack) -> None:
    again = site.crash("watch")
    raised(site, "watch_away", "watch")
    again()
    cleared(site, "watch_away")


def test_a_sensor_that_somebody_has_switched_off(site: Stack) -> None:
    known = site.graphql(SENSORS)["sensorsOrError"]["results"]
    (state,) = [one["sensorState"]["id"] for one in known if one["name"] == "case_arrivals"]
    assert site.graphql(STOP, id=state)["stopSensor"]["__typename"] != "PythonError"
    raised(site, "sensor_stopped", "case_arrivals")
    assert site.graphql(START, name="case_arrivals")["startSensor"]["__typename"] == "Sensor"
    cleared(site, "sensor_stopped")
    site.wait_for_conclusion(site.case_of(site.deliver(seed=93, beams=1)))


def test_a_copy_whose_ledger_is_damaged(site: Stack, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("mqi.yaml", "secret"):
        shutil.copy2(site.site / name, copy / name)
    for name in ("config", "dagster"):
        shutil.copytree(site.site / name, copy / name)
    for name in ("inbox", "data", "state", "handover"):
        (copy / name).mkdir()
    content = (site.site / "state" / "ledger.sqlite").read_bytes()
    (copy / "state" / "ledger.sqlite").write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    code, findings = mqi(copy, "doctor")
    assert code == 1
    assert [one["verdict"] for one in findings if one["subject"] == "ledger"] == ["fault"]
    assert "ledger_away" in {one["kind"] for one in mqi(copy, "alarms")[1]}
    code, said = mqi(copy, "top")
    assert code == 1 and "the ledger's database failed" in said
    site.wait_for_conclusion(site.case_of(site.deliver(seed=94, beams=1)))
