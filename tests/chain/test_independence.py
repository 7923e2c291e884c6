"""A beam's result depends on its own content: not on order, names, other fractions, or the site's secret."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pydicom
import pytest

from mqi_dagster.embedded_engine.install import Installation
from mqi_dagster.synthetic.request import BuiltInPlan, Layout
from tests.chain.chain import Chain, Results, deliver, mcsquare_engine

BEAMS = (2, 3)
PATHS_INSIDE = "tps_file/"
"""The TPS file names folders of its site; its digest does not."""


def whole_case(chain: Chain, order: tuple[int, ...] = BEAMS) -> Results:
    case, outcome = chain.run_intake()
    assert outcome.success, outcome.error
    for run in chain.run_beams(case, order):
        assert run.success, run.error
    return chain.results(case, BEAMS)


def without_paths(results: Results) -> Results:
    return {
        number: (digests, {name: sha for name, sha in files.items() if not name.startswith(PATHS_INSIDE)})
        for number, (digests, files) in results.items()
    }


def doses(results: Results) -> dict[tuple[int, str], str]:
    return {
        (number, Path(name).name): sha
        for number, (_, files) in results.items()
        for name, sha in files.items()
        if name.startswith(("raw_dose/", "rt_dose/")) and name.endswith((".raw", ".dcm"))
    }


TIME_AND_DIGEST = {
    *(
        f"{what}{part}"
        for what in ("Series", "Content", "Acquisition", "Treatment")
        for part in ("Date", "Time")
    ),
    *("SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "ContributingEquipmentSequence"),
} - {"SeriesDate", "ContentDate", "AcquisitionDate", "TreatmentDate"}
"""What of an RT Dose changes with the hour of delivery: that hour, and what carries the digest."""


def before_the_rt_dose(results: Results) -> Results:
    """What does not say when the beam was delivered: everything up to the raw dose."""
    return {
        number: (
            {asset: digest for asset, digest in digests.items() if asset != "rt_dose"},
            {name: sha for name, sha in files.items() if name.startswith(("interpreted_csvs/", "raw_dose/"))},
        )
        for number, (digests, files) in results.items()
    }


def differing_attributes(one: Chain, other: Chain) -> set[str]:
    """Keywords in which the RT Doses of two sites differ, file by file."""
    found: set[str] = set()
    files = [
        sorted(chain.handover.rglob("*.dcm"), key=lambda p: (p.parent.name, p.name)) for chain in (one, other)
    ]
    assert len(files[0]) == len(files[1]) == 4
    for left, right in zip(*files, strict=True):
        a, b = pydicom.dcmread(left), pydicom.dcmread(right)
        assert a.keys() == b.keys()
        found |= {element.keyword for element in a if element != b[element.tag]}
    return found


@pytest.fixture(scope="module")
def reference_site(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A site for the case as it comes."""
    folder = tmp_path_factory.mktemp("reference")
    return Chain(folder / "site", given=deliver(folder / "in").folder)


@pytest.fixture(scope="module")
def reference(reference_site: Chain) -> Results:
    """The case as it comes: beam 2, then beam 3."""
    return whole_case(reference_site)


def test_the_reference_holds_a_dose_of_each_beam(reference: Results) -> None:
    found = doses(reference)
    assert sorted(found) == [
        (number, name)
        for number in (2, 3)
        for name in ("box.raw", "plane.raw", "rt_dose.dcm", "rt_dose_plane.dcm")
    ]
    assert len(set(found.values())) == 8


def test_beam_3_delivered_and_run_before_beam_2(
    reference: Results, reference_site: Chain, tmp_path: Path
) -> None:
    case = deliver(tmp_path / "in", "out-of-order")
    assert [delivery.beam for delivery in case.deliveries] == [3, 2]
    chain = Chain(tmp_path / "site", given=case.folder)
    results = whole_case(chain, (3, 2))
    assert before_the_rt_dose(results) == before_the_rt_dose(reference)
    assert differing_attributes(chain, reference_site) == TIME_AND_DIGEST


def test_renamed_folders_of_the_simple_layout(reference: Results, tmp_path: Path) -> None:
    case = deliver(tmp_path / "in")
    for number, delivery in enumerate(case.deliveries):
        delivery.folder.rename(delivery.folder.with_name(f"zz {9 - number} 한국"))
    folder = case.folder.rename(case.folder.with_name("another name"))
    assert without_paths(whole_case(Chain(tmp_path / "site", given=folder))) == without_paths(reference)


def test_the_machine_layout_with_a_free_study_name(reference: Results, tmp_path: Path) -> None:
    case = deliver(tmp_path / "in", layout=Layout.MACHINE)
    folder = case.folder.rename(case.folder.with_name("study of today"))
    assert without_paths(whole_case(Chain(tmp_path / "site", given=folder))) == without_paths(reference)


def test_a_second_fraction_leaves_the_first_as_it_is(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    chain.deliver(layout=Layout.MACHINE)
    chain.tick_sensors()
    (case,) = chain.runs_of("intake")
    first = chain.results(case, BEAMS)
    assert all(digest for digests, _ in first.values() for digest in digests.values())
    starts = chain.engine_starts()

    chain.deliver(layout=Layout.MACHINE, start=datetime(2026, 1, 6, 9, 0))
    chain.tick_sensors(rounds=2)

    second = case.replace("fx0001", "fx0002")
    assert chain.runs_of("intake") == [case, second]
    assert chain.runs_of("beam") == [
        f"{case}__b02",
        f"{case}__b03",
        f"{second}__b02",
        f"{second}__b03",
    ]
    assert chain.runs_of("conclusion") == [case, second]
    assert chain.results(case, BEAMS) == first
    assert chain.engine_starts() == starts + 2


def test_other_secrets_give_other_names_and_the_same_doses(reference: Results, tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", given=deliver(tmp_path / "in").folder, secret="c3" * 32)
    results = whole_case(chain)
    (other,) = chain.cases()
    plain = Chain(tmp_path / "plain", given=chain.given)
    assert other != plain.cases()[0]
    assert doses(results) == doses(reference)
    assert [digests for digests, _ in results.values()] == [digests for digests, _ in reference.values()]


@pytest.mark.slow
def test_mcsquare_repeats_bit_for_bit_under_another_secret_and_order(
    mcsquare: Installation, tmp_path: Path
) -> None:
    plan = BuiltInPlan(beams=2, layers=1, spots=4, layer_seconds=0.02, energies_mev=(100.0, 120.0))
    found = []
    for name, secret, order, defects in (
        ("one", "11" * 32, (2, 3), ()),
        ("two", "22" * 32, (3, 2), ("out-of-order",)),
    ):
        given = deliver(tmp_path / name / "in", *defects, plan=plan).folder
        chain = Chain(
            tmp_path / name / "site", {"engine": mcsquare_engine(10000)}, given=given, secret=secret
        )
        found.append(whole_case(chain, order))
        assert chain.engine_starts() == 2
    assert len(doses(found[0])) == 8
    # The RT Doses tell the hour of delivery, which the order has changed.
    raw = [{name: sha for name, sha in doses(one).items() if name[1].endswith(".raw")} for one in found]
    assert len(raw[0]) == 4
    assert raw[0] == raw[1]
