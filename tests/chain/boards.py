"""What a board that is opened now says of a chain."""

from __future__ import annotations

from datetime import timedelta

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.worklist import Worklist
from tests.chain.chain import Chain


def stage(chain: Chain, case: str, history: timedelta | None = None) -> str | None:
    """The stage of a case; None where it is not listed."""
    work = Worklist(chain.instance, chain.site, PIPELINES, chain.site.ledger, history=history).snapshot()
    return next((row.stage.value for row in work.cases if row.case == case), None)
