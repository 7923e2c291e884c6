"""What commands tell a script: one JSON document on standard output, and nothing beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.location import ledger_url
from mqi_dagster.resources.gpu_pool import this_host
from mqi_dagster.settings import read_settings

CASE = "P000000001.fx0001"


def told(*words: str | Path, status: int = 0) -> Any:
    """What a command prints as JSON."""
    result = CliRunner().invoke(app, [*map(str, words), "--json"], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("json") / "site"
    made = told("init", folder, "--timezone", "Asia/Seoul")
    assert (made["folder"], made["timezone"]) == (str(folder), "Asia/Seoul")
    assert "mqi.yaml" in " ".join(made["made"])
    assert told("init", folder)["made"] == []
    ledger = Ledger.open(ledger_url(read_settings(folder / "mqi.yaml")))
    ledger.arrivals.record("arrival", CASE, "1", True, "", None)
    ledger.close()
    return folder


def test_settings_are_right_or_every_problem_is_listed(site: Path, tmp_path: Path) -> None:
    assert told("validate", "--site", site) == {"settings": str(site / "mqi.yaml"), "problems": []}
    (tmp_path / "mqi.yaml").write_text("site: {timezone: Asia/Seoul}\nui: {prot: 3}\nengine: 4\n")
    assert len(told("validate", tmp_path, status=1)["problems"]) >= 2


def test_a_backup_and_what_is_made_of_it(site: Path, tmp_path: Path) -> None:
    made = told("backup", tmp_path / "backup", "--site", site)
    assert (made["folder"], made["data"]) == (str(tmp_path / "backup"), False)
    assert made["files"] > 3 and made["bytes"] > 1000
    restored = told("restore", tmp_path / "backup", tmp_path / "other")
    assert (restored["folder"], restored["data"]) == (str(tmp_path / "other"), False)
    assert restored["made_at"].startswith("20")


def test_what_is_not_kept(site: Path) -> None:
    nothing = {"things": [], "job_folders": 0, "problems": []}
    assert told("retention", "--site", site, "--dry-run") == {"dry_run": True, **nothing}
    assert told("retention", "--site", site) == {"dry_run": False, **nothing}


def test_the_pool(site: Path) -> None:
    slot = f"{this_host()}/cpu0"
    limit = told("gpu", "set-limit", "auto", "--site", site)["limit"]
    assert told("gpu", "off", slot, "--reason", "fan", "--site", site)["slot"] == slot
    assert told("gpu", "on", slot, "--site", site) == {"slot": slot, "limit": limit}
    assert told("gpu", "set-limit", "1", "--site", site) == {"limit": 1}


def test_how_urgent_a_case_is(site: Path) -> None:
    assert told("case", "priority", CASE, "7", "--site", site) == {
        "case": CASE,
        "priority": 7,
        "queued_runs": 0,
    }


def test_whether_notices_are_taken(site: Path, tmp_path: Path) -> None:
    content = {"site": {"timezone": "UTC"}, "notifications": {"webhook": {"url": "http://127.0.0.1:1/"}}}
    (tmp_path / "mqi.yaml").write_text(yaml.safe_dump(content))
    assert told("notify", "--site", tmp_path) == [
        {"channel": "webhook", "trouble": None, "failing_since": None}
    ]
    (answer,) = told("notify", "--site", tmp_path, "--test", status=1)
    assert (answer["channel"], answer["taken"]) == ("webhook", False)


def test_services_that_do_not_run(site: Path) -> None:
    assert told("stop", "--site", site) == {"ended": False}


def test_a_simulated_delivery(tmp_path: Path) -> None:
    words = ("--beams", "1", "--layers", "2", "--spots", "4", "--layout", "simple", "--case-name", "one")
    case = told("simulate-delivery", tmp_path, *words)
    assert case["case"] == str(tmp_path / "one")
    (delivery,) = case["deliveries"]
    assert (delivery["beam"], delivery["fraction"], delivery["layers"]) == (2, 1, [1, 2])
    assert Path(delivery["folder"]).is_dir() and delivery["samples"] > 0
    assert "mu-error:beam=,layer=,percent=" in told("simulate-delivery", "--list-defects")
