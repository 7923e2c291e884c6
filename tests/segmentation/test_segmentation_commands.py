"""`mqi segmentation …`, as it is typed: what it prints for people and for programs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mqi_dagster.cli.app import app
from mqi_dagster.errors import InputError
from mqi_dagster.ledger.audit import Action
from mqi_dagster.operations.instance import write_instance
from mqi_dagster.resources.site import Site
from tests.segmentation.on_request_site import OnRequestSite, images
from tests.segmentation.pacs_stand_in import StandIn

Run = Callable[..., Result]


@pytest.fixture
def mqi(tmp_path: Path, pacs: StandIn, empty_instance: Path) -> Run:
    """Runs a command of a site whose services do not run; an error of ours is raised as it is."""
    (tmp_path / "site").mkdir()
    shutil.copytree(empty_instance, tmp_path / "site" / "dagster")
    write_instance(OnRequestSite(tmp_path / "site", pacs.url).site.settings)

    def run(*words: str, status: int = 0) -> Result:
        arguments = ["segmentation", *words, "--site", str(tmp_path / "site")]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "200"})
        assert done.exit_code == status, done.output
        return done

    return run


@pytest.fixture
def answered(mqi: Run) -> Callable[..., Any]:
    return lambda *words: json.loads(mqi(*words, "--json").stdout)


def test_series_are_listed_with_whose_they_are_and_the_look_is_in_the_audit(
    mqi: Run, answered: Callable[..., Any], pacs: StandIn, tmp_path: Path
) -> None:
    series = pacs.store(*images()[:1])
    pacs.store(*images(30, modality="MR")[:1])
    (ct,) = answered("series", "--modality", "CT")
    assert (ct["identifier"], ct["patient_name"], ct["images"]) == (series, "Doe^Jane", 1)
    assert len(answered("series")) == 2 and len(answered("series", "--limit", "1")) == 1
    assert series in mqi("series", "doe").output
    assert "no series" in mqi("series", "nobody").output
    rows = Site(tmp_path / "site" / "mqi.yaml").ledger.audit.newest(20)
    assert Action.IDENTITY_READ in {row.action for row in rows}


def test_a_request_is_asked_for_listed_and_shown(
    mqi: Run, answered: Callable[..., Any], pacs: StandIn
) -> None:
    assert "no request" in mqi("list").output
    series = pacs.store(*images()[:1])
    asked = answered("ask", series, "--model", "rules_ct")
    assert (asked["state"], asked["series"], asked["model"]) == ("pending", [series], "rules_ct")
    assert answered("ask", series, "--model", "rules_ct")["key"] == asked["key"]
    assert [one["key"] for one in answered("list")] == [asked["key"]]
    assert answered("list", "--state", "completed") == []
    said = mqi("show", asked["key"]).output
    assert f"request {asked['key']}: pending" in said and "asked for:" in said
    assert asked["key"] in mqi("list", "--state", "pending").output


def test_what_cannot_be_is_refused(mqi: Run, pacs: StandIn) -> None:
    series = pacs.store(*images()[:1])
    with pytest.raises(InputError, match="there is no model 'none' to ask for"):
        mqi("ask", series, "--model", "none")
    with pytest.raises(InputError, match="one series is named twice"):
        mqi("ask", series, series, "--model", "rules_ct")
    with pytest.raises(InputError, match="there is no request"):
        mqi("show", "S234567ABC.rules_ct")
    with pytest.raises(InputError):
        mqi("cancel", "S234567ABC.rules_ct")
    with pytest.raises(InputError):
        mqi("retry", "*")
    mqi("list", "--state", "lost", status=2)
