"""Which site a command works on: `--site`, else `MQI_SITE`, else `./site`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from mqi_dagster.cli.app import app
from mqi_dagster.errors import ConfigurationError
from mqi_dagster.machine import PACKAGED_MACHINES, Machines
from mqi_dagster.synthetic.delivery import simulate_delivery
from mqi_dagster.synthetic.request import BuiltInPlan, DeliveryRequest, Layout

ZONES = {"site": "Asia/Seoul", "other": "America/Lima", "third": "Europe/Zurich"}


@pytest.fixture
def place(tmp_path: Path, machines: Machines, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: three sites, told apart by their zones, and a case."""
    for name, zone in ZONES.items():
        files = tmp_path / name / "config" / "machines"
        files.mkdir(parents=True)
        (files / "generic.yaml").write_bytes((PACKAGED_MACHINES / "generic.yaml").read_bytes())
        (tmp_path / name / "mqi.yaml").write_text(f"site: {{timezone: {zone}}}\n")
    request = DeliveryRequest(
        plan=BuiltInPlan(beams=1, layers=1, spots=4, layer_seconds=0.1),
        layout=Layout.SIMPLE,
        case_name="case",
    )
    simulate_delivery(request, machines.named("GENERIC"), tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MQI_SITE", raising=False)
    return tmp_path


def zone_of(*arguments: str) -> str:
    zone: str = json.loads(mqi("case", "check", "case", "--json", *arguments).stdout)["timezone"]
    return zone


def mqi(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_the_option_then_the_environment_then_the_folder_site(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert zone_of() == "Asia/Seoul"
    monkeypatch.setenv("MQI_SITE", "other")
    assert zone_of() == "America/Lima"
    assert zone_of("--site", "third") == "Europe/Zurich"


def test_a_check_needs_no_site(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "site").rename(place / "elsewhere")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert zone_of() == "Asia/Tokyo"


@pytest.mark.parametrize(
    "command",
    [
        ("case", "list"),
        ("case", "show", "P000000000.fx0001"),
        ("case", "retry", "P000000000.fx0001"),
        ("case", "priority", "P000000000.fx0001", "5"),
        ("case", "cancel", "P000000000.fx0001"),
        ("course", "cancel", "RAAAAAAAA2.c01"),
        ("logs",),
        ("alarms",),
        ("top", "--once"),
        ("gpu", "list"),
        ("validate",),
        ("stop",),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_every_command_looks_in_all_three_places(
    place: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    (place / "site").rename(place / "elsewhere")
    with pytest.raises(ConfigurationError, match=r"^site is no site: .* name one by --site or MQI_SITE"):
        mqi(*command)
    monkeypatch.setenv("MQI_SITE", "nowhere")
    with pytest.raises(ConfigurationError, match=r"^nowhere is no site"):
        mqi(*command)
    with pytest.raises(ConfigurationError, match=r"^here is no site"):
        mqi(*command, "--site", "here")


WITHOUT_VARIABLE = {"demo", "case run", "course run"}
"""A demonstration and a folder of results are sites of their own: `--site` of these is another one."""
WITHOUT_JSON = {
    "demo": "for people: `mqi case show --json` tells the same",
    "course demo": "for people: `mqi course show --json` tells the same",
    "service": "becomes another process",
    "web": "becomes another process",
    "audit export": "is JSON lines, or CSV, as it is",
    "settings-reference": "is a page of Markdown",
    "model weights": "is a section of a YAML file",
}


def commands() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every command, and its options by name."""
    waiting: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
    while waiting:
        path, command = waiting.pop()
        within = getattr(command, "commands", None)
        if within is not None:
            waiting += [(f"{path} {name}".strip(), one) for name, one in within.items()]
        else:
            yield path, {name: option for option in command.params for name in option.opts}


def test_every_command_with_a_site_takes_it_from_the_same_places() -> None:
    found = {path: options["--site"] for path, options in commands() if "--site" in options}
    assert len(found) > 30
    assert {path for path, option in found.items() if option.envvar != "MQI_SITE"} == WITHOUT_VARIABLE
    defaults = {str(option.default) for path, option in found.items() if path != "demo"}
    assert defaults == {"site", "None"}


def test_every_command_that_tells_something_tells_it_as_json() -> None:
    assert {path for path, options in commands() if "--json" not in options} == set(WITHOUT_JSON)
