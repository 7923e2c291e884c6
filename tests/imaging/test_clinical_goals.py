"""Goals of a protocol are met, missed, or say why nobody can judge them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.imaging.clinical_goals import Protocol, judge, read_protocol
from mqi_dagster.imaging.dvh import Dvh


def ramp(covered: float = 1.0) -> Dvh:
    """100 cm³ with doses from 0 to 80 Gy, of each the same volume."""
    doses = np.linspace(80.0, 0.0, 80_001)
    return Dvh(doses, np.cumsum(np.full(len(doses), 100.0 * covered / len(doses))), 100.0)


def protocol(tmp_path: Path, goals: str) -> Protocol:
    file = tmp_path / "prostate.yaml"
    file.write_text(f"name: prostate\nversion: '3'\ngoals:\n{goals}", encoding="utf-8")
    return read_protocol(file)


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        ("metric: D95%, at_least: 3.9, unit: Gy", 4.0, "met"),
        ("metric: D95%, at_least: 4.1, unit: Gy", 4.0, "missed"),
        ("metric: D95%, at_least: 8.5, unit: '%'", 8.0, "missed"),
        ("metric: D2%, at_most: 107, unit: '%'", 156.8, "missed"),
        ("metric: D0.1cc, at_most: 79.95, unit: Gy", 79.92, "met"),
        ("metric: Dmean, at_most: 41, unit: Gy", 40.0, "met"),
        ("metric: Dmax, at_most: 160.5, unit: '%'", 160.0, "met"),
        ("metric: Dmin, at_least: 1, unit: Gy", 0.0, "missed"),
        ("metric: V20Gy, at_most: 80, unit: '%'", 75.0, "met"),
        ("metric: V20Gy, at_most: 70, unit: cm³", 75.0, "missed"),
        ("metric: V95%, at_least: 40, unit: '%'", 40.625, "met"),
        ("metric: V95%, at_least: 50, unit: cm³", 40.625, "missed"),
    ],
)
def test_a_goal_is_judged_in_its_own_unit(tmp_path: Path, goal: str, value: float, verdict: str) -> None:
    (found,) = judge(protocol(tmp_path, f"  - {{structure: PTV, {goal}}}\n"), {"PTV": ramp()}, 50.0)
    assert found.value == pytest.approx(value, abs=0.005)
    assert found.verdict.value == verdict


@pytest.mark.parametrize(
    ("goal", "dvh", "prescription", "reason"),
    [
        (
            "structure: Rectum, metric: Dmean, at_most: 1, unit: Gy",
            ramp(),
            50.0,
            "there is no such structure",
        ),
        (
            "structure: PTV, metric: Dmean, at_most: 1, unit: Gy",
            ramp(0.9),
            50.0,
            "its dose is not known: partly",
        ),
        ("structure: PTV, metric: D95%, at_least: 1, unit: '%'", ramp(), None, "no prescribed dose"),
        ("structure: PTV, metric: V95%, at_least: 1, unit: cm³", ramp(), None, "no prescribed dose"),
        ("structure: PTV, metric: V95%, at_least: 95, unit: '%'", ramp(), 0.0, "no prescribed dose"),
        ("structure: PTV, metric: D95%, at_least: 95, unit: '%'", ramp(), -1.0, "no prescribed dose"),
        ("structure: PTV, metric: V95%, at_least: 95, unit: '%'", ramp(), float("nan"), "no prescribed dose"),
        ("structure: PTV, metric: D200cc, at_most: 1, unit: Gy", ramp(), 50.0, "the structure has 100 cm³"),
    ],
)
def test_a_goal_that_cannot_be_judged_says_why(
    tmp_path: Path, goal: str, dvh: Dvh, prescription: float | None, reason: str
) -> None:
    (found,) = judge(protocol(tmp_path, f"  - {{{goal}}}\n"), {"PTV": dvh}, prescription)
    assert (found.verdict.value, found.value) == ("not judged", None)
    assert reason in found.reason


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        ("metric: D95, at_least: 1, unit: Gy", "is no metric"),
        ("metric: Dmedian, at_least: 1, unit: Gy", "is no metric"),
        ("metric: V20, at_least: 1, unit: Gy", "is no metric"),
        ("metric: D95%, at_least: 1, unit: cm³", "D95% is a dose, which has no cm³"),
        ("metric: V20Gy, at_least: 1, unit: Gy", "V20Gy is a volume, which has no Gy"),
        ("metric: D95%, unit: Gy", "either at_least or at_most"),
        ("metric: D95%, at_least: 1, at_most: 2, unit: Gy", "either at_least or at_most"),
        ("metric: D95%, at_least: 1, unit: cGy", "unit"),
        ("metric: D150%, at_least: 1, unit: Gy", "D150% is the dose to no part of a volume"),
        ("metric: D0%, at_most: 1, unit: Gy", "D0% is the dose to no part of a volume"),
        ("metric: D95%, at_least: -1, unit: Gy", "at_least"),
        ("metric: D95%, at_most: .inf, unit: Gy", "at_most"),
        ("metric: D95%, at_most: .nan, unit: Gy", "at_most"),
        ("metric: D95%, at_least: yes, unit: Gy", "at_least"),
        ("metric: D95%, at_least: 1, unit: Gy, prio: 1", "prio"),
    ],
)
def test_a_protocol_that_says_something_else_is_refused(tmp_path: Path, goal: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        protocol(tmp_path, f"  - {{structure: PTV, {goal}}}\n")
    assert words in str(refused.value)
    assert "prostate.yaml" in str(refused.value)
