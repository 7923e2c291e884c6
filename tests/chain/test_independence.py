"""A beam's result depends on its own content: not on order, names, other fractions, or the site's secret."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from mqi_dagster.engine.embedded.install import Installation
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


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The case as it comes: beam 2, then beam 3."""
    folder = tmp_path_factory.mktemp("reference")
    return whole_case(Chain(folder / "site", given=deliver(folder / "in").folder))


def test_the_reference_holds_a_dose_of_each_beam(reference: Results) -> None:
    found = doses(reference)
    assert sorted(found) == [
        (number, name)
        for number in (2, 3)
        for name in ("box.raw", "plane.raw", "rt_dose.dcm", "rt_dose_plane.dcm")
    ]
    assert len(set(found.values())) == 8


def test_beam_3_delivered_and_run_before_beam_2(reference: Results, tmp_path: Path) -> None:
    case = deliver(tmp_path / "in", "out-of-order")
    assert [delivery.beam for delivery in case.deliveries] == [3, 2]
    chain = Chain(tmp_path / "site", given=case.folder)
    assert without_paths(whole_case(chain, (3, 2))) == without_paths(reference)


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
    assert doses(found[0]) == doses(found[1])
