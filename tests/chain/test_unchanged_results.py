"""A run parses its inputs once, and what it finds unchanged it neither draws nor verifies a second time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pydicom
import pytest

from mqi_dagster.assets.proton import rt_dose
from mqi_dagster.lifecycle import beam as lifecycle_beam
from mqi_dagster.lifecycle import metadata, raw_dose_files
from mqi_dagster.partitions import beam_key
from mqi_dagster.pictures import dose as dose_pictures
from mqi_dagster.pictures import spots as spot_pictures
from mqi_dagster.store.published import Published
from tests.chain.chain import ONE_BEAM, Chain, deliver

SPOTS = ["layer positions", "spot map", "layer MU"]
DOSE = ["slices", "depth dose", "lateral profiles"]


def counted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[str]:
    """Have every call of a function noted."""
    calls: list[str] = []
    real = getattr(module, name)

    def function(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, function)
    return calls


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The pictures that are drawn, of spots and of doses."""
    return [counted(monkeypatch, module, "as_png") for module in (spot_pictures, dose_pictures)]


def taken_in(tmp_path: Path) -> tuple[Chain, str]:
    """A site that has taken in a case of one beam, and the key of that beam."""
    chain = Chain(tmp_path / "site", given=deliver(tmp_path / "in", plan=ONE_BEAM).folder)
    case, outcome = chain.run_intake()
    assert outcome.success
    return chain, beam_key(case, 2)


def test_a_run_parses_plan_and_manifest_once_and_shares_them_with_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, key = taken_in(tmp_path)
    plans = counted(monkeypatch, lifecycle_beam, "read_ion_plan")
    manifests = counted(monkeypatch, lifecycle_beam, "manifest_in")
    assert chain.run("beam", key).success
    assert (len(plans), len(manifests)) == (1, 1)
    assert chain.run("beam", key).success
    assert (len(plans), len(manifests)) == (2, 2)


@pytest.mark.usefixtures("as_in_production")
def test_pictures_are_drawn_once_for_what_stays_as_it_is(tmp_path: Path, drawn: list[list[str]]) -> None:
    chain, key = taken_in(tmp_path)
    assert chain.run("beam", key).success
    spots, slices = chain.metadata("interpreted_csvs", key), chain.metadata("rt_dose", key)
    assert [len(calls) for calls in drawn] == [3, 3]
    assert set(SPOTS) < spots.keys() and set(DOSE) < slices.keys()

    assert chain.run("beam", key).success
    assert [len(calls) for calls in drawn] == [3, 3]
    assert chain.metadata("interpreted_csvs", key) == spots
    assert chain.metadata("rt_dose", key) == slices

    # The picture shows the limit, which is no part of the result.
    chain.change({"delivery_check": {"position_mean_mm": 0.7}})
    assert chain.run("beam", key).success
    assert [len(calls) for calls in drawn] == [6, 3]
    assert chain.metadata("interpreted_csvs", key)["layer positions"] != spots["layer positions"]
    assert chain.metadata("interpreted_csvs", key)["spot map"] == spots["spot map"]


@pytest.mark.usefixtures("as_in_production")
def test_pictures_of_other_contents_under_the_same_digest_are_drawn_anew(
    tmp_path: Path, drawn: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, key = taken_in(tmp_path)
    assert chain.run("beam", key).success
    # As if the results of which they are had been damaged, and made once more by what is not reproducible.
    real = Published.content_digests
    others = {"interpreted_csvs", "raw_dose"}
    monkeypatch.setattr(
        Published,
        "content_digests",
        lambda self: real(self) | ({"one more": "00"} if self.manifest.asset in others else {}),
    )
    assert chain.run("beam", key).success
    assert [len(calls) for calls in drawn] == [6, 6]


@pytest.mark.usefixtures("as_in_production")
def test_figures_and_pictures_of_earlier_code_are_made_anew(
    tmp_path: Path, drawn: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, key = taken_in(tmp_path)
    assert chain.run("beam", key).success
    monkeypatch.setattr(metadata, "SHOWN_CODE", "another")
    assert chain.run("beam", key).success
    assert [len(calls) for calls in drawn] == [6, 6]


def test_an_unchanged_dose_is_verified_by_its_check_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, key = taken_in(tmp_path)
    verified = counted(monkeypatch, rt_dose, "verify")
    first = chain.run("beam", key)
    assert first.checks["rt_dose.readback"] and len(verified) == 2, "before it is published, and by its check"
    again = chain.run("beam", key)
    assert again.checks["rt_dose.readback"] and len(verified) == 3


def test_a_raw_dose_is_read_once_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its check, which leaves the grids to the step that makes the RT Dose."""
    chain, key = taken_in(tmp_path)
    read = counted(monkeypatch, raw_dose_files, "from_phantom")
    for runs in (1, 2):
        assert chain.run("beam", key).success
        assert len(read) == runs


def test_a_dose_that_its_manifest_calls_right_is_still_refused(tmp_path: Path) -> None:
    chain, key = taken_in(tmp_path)
    assert chain.run("beam", key).success
    (stored,) = (p for p in chain.data.glob("cases/*/b02/rt_dose/*/rt_dose.dcm") if not p.parent.is_symlink())
    dataset = pydicom.dcmread(stored)
    dataset.DoseGridScaling = str(2 * float(dataset.DoseGridScaling))[:16]
    dataset.save_as(stored)
    manifest = json.loads((stored.parent / "manifest.json").read_text())
    manifest["files"]["rt_dose.dcm"] = {
        "sha256": hashlib.sha256(stored.read_bytes()).hexdigest(),
        "size": stored.stat().st_size,
    }
    (stored.parent / "manifest.json").write_text(json.dumps(manifest))
    again = chain.run("beam", key)
    assert not again.success and again.code == "dose" and "PixelData: differs" in again.error
