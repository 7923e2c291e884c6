"""Settings: typed, no unknown keys, wrong ones named."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.settings import parse_settings, read_settings

MINIMAL = {"site": {"timezone": "Asia/Seoul"}}


def test_the_time_zone_alone_is_enough() -> None:
    settings = parse_settings(MINIMAL, Path("/srv/site"))
    assert settings.engine.histories == 1e6
    assert settings.engine.phantom.dimension == (200, 200, 200)
    assert settings.handover.template == "<case>/<beam>/"
    assert settings.execution.pool_buffer == 2
    assert settings.ui.host == "127.0.0.1"


def test_relative_paths_stand_below_the_settings_file_wherever_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mqi.yaml"
    file.write_text("site: {timezone: UTC}\npaths: {inbox: in, data: /absolute/data}\n")
    monkeypatch.chdir("/")
    settings = read_settings(file)
    assert settings.paths.inbox == tmp_path / "in"
    assert settings.paths.data == Path("/absolute/data")
    assert settings.site.secret_file == tmp_path / "secret"


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({}, "site"),
        ({"site": {}}, "site.timezone"),
        ({"site": {"timezone": "Mars/Olympus"}}, "site.timezone"),
        ({**MINIMAL, "intake": {"stable_second": 3}}, "intake.stable_second"),
        ({**MINIMAL, "ui": {"port": 0}}, "ui.port"),
        ({**MINIMAL, "execution": {"slots": 0}}, "execution.slots"),
        ({**MINIMAL, "intake": {"stable_seconds": -1}}, "intake.stable_seconds"),
        ({**MINIMAL, "engine": {"profile": "topas"}}, "engine"),
        ({**MINIMAL, "engine": {"profiles": {"x": {"command": ["moqui"]}}}}, "engine.profiles.x"),
        ({**MINIMAL, "interpretation": {"log_csv": False}}, "interpretation"),
        ({**MINIMAL, "handover": {"template": "<case>/"}}, "handover.template"),
        ({**MINIMAL, "handover": {"template": "<patient>/<case>/<beam>"}}, "handover.template"),
        ({**MINIMAL, "handover": {"template": "../<case>/<beam>"}}, "handover.template"),
        ({**MINIMAL, "engine": {"embedded": {"shards": 1}}}, "engine.embedded.shards"),
        ({**MINIMAL, "execution": {"stale_seconds": 5, "heartbeat_seconds": 5}}, "execution"),
    ],
)
def test_a_wrong_key_is_refused_by_name(content: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigurationError, match=key.replace(".", r"\.")):
        parse_settings(content, Path("/srv/site"))


def test_a_file_that_is_no_yaml_mapping_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mqi.yaml"
    file.write_text("- just\n- a list\n")
    with pytest.raises(ConfigurationError):
        read_settings(file)


@pytest.mark.parametrize(
    "text",
    [
        "paths:\n  #inbox: inbox\n",
        "engine:\n  phantom:\n    #unit_mm: [2, 2, 2]\n  embedded:\n  profiles:\n    #mine: {}\n",
        "execution:\n  gpus:\n    #- {index: 0}\n",
        "notifications:\n  tell:\n  webhook:\n",
        "hosts:\n  #cluster:\n",
    ],
    ids=["section", "sections in a section", "list", "list of words", "mapping"],
)
def test_what_holds_nothing_but_comments_means_its_defaults(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mqi.yaml"
    file.write_text("site: {timezone: Asia/Seoul}\n" + text)
    assert read_settings(file) == parse_settings(MINIMAL, tmp_path)


def test_a_key_without_a_value_is_no_default() -> None:
    with pytest.raises(ConfigurationError, match=r"engine\.histories"):
        parse_settings({**MINIMAL, "engine": {"histories": None}}, Path("/srv/site"))


def test_a_line_that_says_what_is_always_so_changes_nothing() -> None:
    said = parse_settings(
        {**MINIMAL, "interpretation": {"log_csv": True, "plan_csv": True}}, Path("/srv/site")
    )
    unsaid = parse_settings({**MINIMAL, "interpretation": {"plan_csv": True}}, Path("/srv/site"))
    assert said == unsaid and said.interpretation.plan_csv
