"""What is wrong with a settings or machine file, in words that tell what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.machine import PACKAGED_MACHINES, read_machine
from mqi_dagster.settings import settings_problems


def problem(text: str) -> str:
    """The one problem of settings that are right but for a text."""
    content: dict[str, Any] = {"site": {"timezone": "UTC"}}
    content |= yaml.safe_load(text)
    (only,) = settings_problems(content)
    return only


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "engine: {histoires: 1e6}",
            "engine.histoires: there is no such key; did you mean engine.histories?",
        ),
        ("histories: 1000000", "histories: there is no such key; did you mean engine.histories?"),
        ("enigne: {}", "enigne: there is no such key; did you mean engine?"),
        ("engine: {zzz: 1}", "engine.zzz: there is no such key"),
        (
            "hosts: {a: {host: a, user: b, keyfile: c, key_file: d, known_hosts: e}}",
            "hosts.a.keyfile: there is no such key; did you mean hosts.a.key_file?",
        ),
        ("engine: {histories: many}", "engine.histories: must be a number"),
        ("engine: {histories: 10}", "engine.histories: must be at least 8000"),
        ("engine: {histories:}", "engine.histories: has no value"),
        ("execution: {slots: 1.5}", "execution.slots: must be a whole number"),
        ("intake: {ready: marked}", "intake.ready: must be 'marker' or 'stable'"),
        ("interpretation: {plan_csv: maybe}", "interpretation.plan_csv: must be true or false"),
        (
            "interpretation: {log_csv: false}",
            "interpretation: remove log_csv: the delivered beam's CSVs are always written",
        ),
        (
            "site: {timezone: UTC, name: 12}",
            "site.name: must be text; put it in quotes where it looks like a number",
        ),
        ("engine: 5", "engine: must be a section with keys of its own"),
        ("execution: {gpus: 3}", "execution.gpus: must be a list"),
        ("ui: {port: 0}", "ui.port: must be at least 1"),
        ("alarms: {stuck_minutes: 0}", "alarms.stuck_minutes: must be above 0"),
        (
            "engine: {profiles: {a: {version: x}}}",
            "engine.profiles.a.command: is missing, and has no default",
        ),
        ("engine: {phantom: {unit_mm: [1, 2]}}", "engine.phantom.unit_mm.2: the list has too few values"),
    ],
)
def test_a_wrong_key_is_told_in_words(text: str, said: str) -> None:
    assert problem(text) == said


def test_a_machine_file_is_told_in_the_same_words(tmp_path: Path) -> None:
    content = yaml.safe_load((PACKAGED_MACHINES / "generic.yaml").read_text())
    content["record"]["x_gain"] = content["record"].pop("x_gain_mm")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigurationError) as caught:
        read_machine(tmp_path / "mine.yaml")
    assert str(caught.value) == (
        "machine file mine.yaml: record.x_gain_mm: is missing, and has no default;"
        " record.x_gain: there is no such key; did you mean record.x_gain_mm?"
    )
