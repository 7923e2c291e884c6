"""The reference of the settings is generated, whole and committed."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from mqi_dagster.cli.app import app

COMMITTED = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def test_the_committed_reference_is_the_generated_one() -> None:
    result = CliRunner().invoke(app, ["settings-reference"], catch_exceptions=False)
    assert result.output == COMMITTED.read_text(encoding="utf-8"), "run `make docs`"


def test_keys_stand_with_type_default_and_allowed_values() -> None:
    lines = COMMITTED.read_text(encoding="utf-8").splitlines()
    assert (
        "| `site.timezone` | text | required |  | IANA name of the zone in which the machines write their"
        " times. |" in lines
    )
    assert (
        "| `engine.embedded.shards` | whole number | `4` | at least 2 | Independent single-thread parts of a"
        " simulation; fixed, so that results repeat. |" in lines
    )
    assert any(
        line.startswith("| `rt_dose.dose_type` | choice | `PHYSICAL` | `PHYSICAL`, `EFFECTIVE` |")
        for line in lines
    )
    assert any(
        line.startswith("| `engine.profiles.<name>.needs_gpu` | true or false | `false` |") for line in lines
    )
    assert any(
        line.startswith("| `interpretation.command.argv` | list of text | required |") for line in lines
    )
