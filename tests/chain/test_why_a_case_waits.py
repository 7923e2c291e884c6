"""A case that waits for more says what of it has come and cannot be used."""

from __future__ import annotations

from pathlib import Path

from tests.chain.chain import PLAN, Chain


def reasons(chain: Chain) -> list[str]:
    chain.tick("case_arrivals", launch=False)
    return [row.reason for row in chain.site.ledger.arrivals.waiting()]


def test_a_delivery_that_cannot_be_read_is_named_with_its_fault(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    folder = chain.deliver(plan=PLAN).deliveries[1].folder
    (folder / "PlanInfo.txt").write_text("DICOM_PATIENT_ID,PAT7\n")
    (reason,) = reasons(chain)
    assert reason.startswith("1 of 2 beams have come; delivery 2 cannot be read: PlanInfo: ")
    assert "PAT7" not in reason and str(tmp_path) not in reason


def test_a_delivery_of_no_beam_of_the_plan_is_named(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    file = chain.deliver(plan=PLAN).deliveries[1].folder / "PlanInfo.txt"
    file.write_text(file.read_text().replace("DICOM_BEAM_NUMBER,3", "DICOM_BEAM_NUMBER,9"))
    (reason,) = reasons(chain)
    assert reason == (
        "1 of 2 beams have come; delivery 2 is of beam 9, which the plan does not have (it has 2, 3)"
    )


def test_a_plan_that_cannot_be_read_makes_nobody_wait(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    (plan,) = chain.deliver(plan=PLAN).folder.glob("RP*.dcm")
    plan.write_bytes(plan.read_bytes()[: plan.stat().st_size // 2])
    chain.tick("case_arrivals")
    assert reasons(chain) == []
    ((job, _, outcome),) = chain.runs
    assert job == "intake" and outcome.code == "plan" and "RT plan" in outcome.error
