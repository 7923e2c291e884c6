"""What the pages send when a person asks for partitions to be made again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BEAM_ASSETS = ("interpreted_csvs", "tps_file", "raw_dose", "rt_dose", "handed_over")
LAUNCH_BACKFILL = """
mutation LaunchPartitionBackfill($backfillParams: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $backfillParams) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message stack }
    ... on UnauthorizedError { message }
  }
}
"""
FAILED_PARTITIONS = """
query FailedPartitions($assetKey: AssetKeyInput!) {
  assetNodeOrError(assetKey: $assetKey) {
    ... on AssetNode {
      assetPartitionStatuses {
        ... on DefaultPartitionStatuses { failedPartitions materializedPartitions }
      }
    }
  }
}
"""


def backfill_params(partitions: Sequence[str]) -> dict[str, Any]:
    """Variables of a backfill of a beam's whole chain."""
    return {
        "backfillParams": {
            "assetSelection": [{"path": [asset]} for asset in BEAM_ASSETS],
            "partitionNames": list(partitions),
            "fromFailure": False,
            "tags": [],
        }
    }
