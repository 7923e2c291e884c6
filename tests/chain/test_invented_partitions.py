"""A partition that somebody has added in the pages under a name of his own is refused before any effect."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mqi_dagster.lifecycle.failures import first_cause
from mqi_dagster.lifecycle.retention import concluded_before
from tests.chain.chain import ONE_BEAM, Chain


@pytest.fixture(scope="module")
def concluded(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    chain = Chain(tmp_path_factory.mktemp("invented") / "site")
    chain.deliver(plan=ONE_BEAM)
    chain.tick_sensors(rounds=2)
    assert chain.runs_of("conclusion") == chain.runs_of("intake")
    return chain


@pytest.mark.parametrize("name", ["b02\n", "b002", "b\u0660\u0662", "b99", "b02/../b02"])
def test_a_beam_of_another_name_changes_nothing_and_is_not_tried_again(concluded: Chain, name: str) -> None:
    chain, case = concluded, concluded.runs_of("intake")[0]
    stands, started, count = chain.handed_over_files(), chain.engine_starts(), len(chain.runs)
    invented = f"{case}__{name}"

    outcome = chain.run("beam", invented)
    assert (outcome.success, outcome.code) == (False, "key")
    handed = chain.run_asset("handed_over", invented)
    assert (handed.success, handed.code) == (False, "key")

    assert first_cause(chain.instance, outcome.run_id).again is False
    assert outcome.error.isprintable() and handed.error.isprintable()
    assert chain.handed_over_files() == stands and f"{case}/_COMPLETE" in stands
    assert chain.engine_starts() == started
    chain.tick_sensors(rounds=2)
    assert [key for _, key, _ in chain.runs[count:]] == [invented]


def test_a_case_of_another_name_is_refused_by_every_job(concluded: Chain) -> None:
    (case,) = concluded.runs_of("intake")[:1]
    stands = concluded.handed_over_files()
    for job in ("intake", "conclusion"):
        outcome = concluded.run(job, f"{case}\n")
        assert (outcome.success, outcome.code) == (False, "key")
    assert concluded.handed_over_files() == stands


def test_an_invented_beam_keeps_no_case_from_being_old(concluded: Chain) -> None:
    (case,) = concluded.runs_of("intake")[:1]
    later = datetime.now(UTC) + timedelta(days=1)
    concluded.instance.add_dynamic_partitions("beam", [f"{case}__b02\n", f"{case}__b98"])
    assert concluded_before(concluded.instance, concluded.site, case, later)
