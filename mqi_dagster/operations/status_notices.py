"""Changes of status become notices: whoever looks again and again writes each down once."""

from __future__ import annotations

from datetime import timedelta

from mqi_dagster.ledger.notices import SeenStatus
from mqi_dagster.operations.board_reader import BoardReader
from mqi_dagster.partitions import COURSE
from mqi_dagster.resources.site import Site
from mqi_dagster.settings.choices import NotifiedEvent
from mqi_dagster.worklist import BeamStatus, CaseState, CaseStatus


def is_wanted(site: Site) -> bool:
    """Whether a channel of the site tells changes of status."""
    notifications = site.settings.notifications
    channels = {"webhook": notifications.webhook, "mail": notifications.mail}
    return any(
        NotifiedEvent.STATUS_CHANGED in notifications.told_by(name)
        for name, channel in channels.items()
        if channel is not None
    )


class StatusNotices:
    """The changes of status of a site.

    Args:
        site: The site.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        # All that was ever concluded: what has ended while nobody looked is told as well.
        self._reader = BoardReader(site, timedelta.max, again=True)

    def look(self) -> int:
        """Write a notice for each partition that stands elsewhere; how many there were.

        Raises:
            ConfigurationError: The ledger is of another revision.
            InfrastructureError: Dagster's records or the ledger are away.
        """
        work = self._reader.snapshot()
        seen = [
            *(_seen("course" if COURSE.has(row.case) else "case", row.case, row) for row in work.cases),
            *(_seen("beam", row.beam, row) for row in work.beams),
        ]
        return self._site.ledger.notices.record_statuses(seen, work.at)


def _seen(kind: str, partition: str, row: CaseStatus | BeamStatus) -> SeenStatus:
    words = row.stage.words
    text = f"{words}: {row.reason}" if row.reason else words
    failed = row.state is CaseState.FAILED
    return SeenStatus(partition, kind, row.state.value, (row.run or "") if failed else "", text)
