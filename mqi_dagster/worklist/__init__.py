"""Where every case and beam stands, read in bulk from Dagster's records and the ledger; kept nowhere.

The one place that knows: the command's lists and boards, and pages, show what is derived here.
"""

from mqi_dagster.worklist.rows import Alarm, BeamStand, CaseStand, GpuStand, QueueStand, Work
from mqi_dagster.worklist.stages import CaseState, Stage
from mqi_dagster.worklist.worklist import Worklist

__all__ = [
    "Alarm",
    "BeamStand",
    "CaseStand",
    "CaseState",
    "GpuStand",
    "QueueStand",
    "Stage",
    "Work",
    "Worklist",
]
