"""A beam that was not delivered as planned gets its dose, and every surface says what was wrong."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from zoneinfo import ZoneInfo

from rich.console import Console

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.cli.case_show import show_case
from mqi_dagster.operations.case_report import case_report
from mqi_dagster.worklist import Worklist
from tests.chain.chain import Chain, deliver

WRONG = "layer 1: x mirrored"


def said_by_case_show(chain: Chain, case: str) -> str:
    text = io.StringIO()
    show_case(
        Console(file=text, width=200), case_report(chain.instance, chain.site, case), ZoneInfo("Asia/Seoul")
    )
    return text.getvalue()


def reason_on_the_board(chain: Chain, case: str) -> tuple[str, str]:
    work = Worklist(chain.instance, chain.site, PIPELINES, chain.site.ledger).snapshot()
    (row,) = [row for row in work.cases if row.case == case]
    return row.stage.value, row.reason


def test_a_wrong_delivery_fails_its_check_and_is_concluded_all_the_same(tmp_path: Path) -> None:
    folder = deliver(tmp_path / "in", "mirrored-x:beam=3,layer=1").folder
    chain = Chain(tmp_path / "site", given=folder)
    case, _ = chain.run_intake()
    right, wrong = chain.run_beams(case, [2, 3])
    assert right.success and wrong.success
    assert right.checks["interpreted_csvs.delivery"] is True
    assert wrong.checks["interpreted_csvs.delivery"] is False
    assert wrong.checks["interpreted_csvs.counts"] is True
    assert chain.conclude(case).success

    beams = {beam["beam"]: beam for beam in chain.summary(case)["beams"]}
    assert beams[2]["delivery"]["as_planned"] is True
    assert beams[2]["delivery"]["text"] == "as planned"
    assert beams[3]["delivery"]["as_planned"] is False
    assert beams[3]["delivery"]["findings"] == [{"layer": 1, "words": "x mirrored"}]
    assert chain.summary(case)["delivery"] == f"beam 3, {WRONG}"
    assert len(list(chain.handover.rglob("rt_dose.dcm"))) == 2
    assert chain.metadata("interpreted_csvs", f"{case}__b03")["delivery"] == WRONG
    assert f"beam 3, {WRONG}" in said_by_case_show(chain, case)
    assert reason_on_the_board(chain, case) == ("concluded", f"not delivered as planned: beam 3, {WRONG}")


def test_an_interpretation_of_earlier_code_is_concluded_and_can_be_checked(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site", given=deliver(tmp_path / "in").folder)
    case, _ = chain.run_intake()
    assert all(beam.success for beam in chain.run_beams(case, [2, 3]))
    # As earlier code has left it: neither figures nor a table of spots, and a manifest that knows of neither.
    for folder in chain.data.glob(f"cases/{case}/b*/interpreted_csvs/*"):
        if folder.is_symlink():
            continue
        forget_comparison(folder)
    assert chain.conclude(case).success
    assert chain.summary(case)["delivery"] == "not compared: interpreted by earlier code"
    assert reason_on_the_board(chain, case) == ("concluded", "")
    again = chain.run("beam", f"{case}__b02")
    assert again.success
    assert again.checks["interpreted_csvs.delivery"] is True


def forget_comparison(folder: Path) -> None:
    """Take the comparison out of a published interpretation."""
    folder.chmod(0o700)
    summary = folder / "summary.json"
    content = json.loads(summary.read_text())
    for layer in content["layers"]:
        del layer["delivery"]
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(0o600)
    summary.write_text(json.dumps(content))
    (folder / "spots.parquet").unlink()
    manifest = folder / "manifest.json"
    listed = json.loads(manifest.read_text())
    raw = summary.read_bytes()
    del listed["files"]["spots.parquet"]
    listed["files"]["summary.json"] |= {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw)}
    manifest.write_text(json.dumps(listed))
