"""Where every case and beam stands, read in bulk from Dagster's records and the ledger; kept nowhere.

The one place that knows: the command's lists and boards, and pages, show what is derived here.
"""

from mqi_dagster.lifecycle.stages import CaseState, Stage
from mqi_dagster.worklist.board_rows import AlarmStatus, BeamStatus, CaseStatus, GpuStatus, QueueStatus, Work
from mqi_dagster.worklist.worklist import Worklist

__all__ = [
    "AlarmStatus",
    "BeamStatus",
    "CaseState",
    "CaseStatus",
    "GpuStatus",
    "QueueStatus",
    "Stage",
    "Work",
    "Worklist",
]
