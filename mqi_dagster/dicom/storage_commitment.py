"""Storage commitment: a PACS's promise to keep what it was given (PS3.4 Annex J)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from mqi_dagster.dicom.reading import read_dicom
from mqi_dagster.errors import HandoverError, UnreachableError, Where
from mqi_dagster.settings.on_request import StorageCommitment

NOT_ASKED = "not asked for"
COMMITTED = "committed"
_WHERE = Where(kind="PACS")
_SUCCESS = 0x0000
_WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"
_PORT_POLL_SECONDS = 0.2


def committed(settings: StorageCommitment | None, files: Sequence[Path]) -> str:
    """Ask a PACS to keep some objects, and wait for its word.

    Args:
        settings: How it is asked; None: it is not.
        files: The objects.

    Returns:
        What came of it, in words.

    Raises:
        UnreachableError: It cannot be asked, or says nothing in time.
        HandoverError: It does not keep one of them.
    """
    if settings is None or not files:
        return NOT_ASKED
    from pynetdicom import AE, evt
    from pynetdicom.events import Event
    from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

    reports: dict[str, Dataset] = {}
    came = threading.Event()
    transaction = generate_uid()

    def report(event: Event) -> tuple[int, None]:
        told = event.event_information
        reports[str(told.get("TransactionUID", ""))] = told
        if transaction in reports:
            came.set()
        return _SUCCESS, None

    entity = AE(ae_title=settings.calling_aet)
    entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    entity.add_requested_context(StorageCommitmentPushModel)
    handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, report)]
    with _listening(entity, settings, handlers):
        association = entity.associate(
            settings.host, settings.port, ae_title=settings.called_aet, evt_handlers=handlers
        )
        if not association.is_established:
            raise UnreachableError("the PACS does not take the request for storage commitment", where=_WHERE)
        try:
            status, _ = association.send_n_action(
                _request(transaction, files), 1, StorageCommitmentPushModel, _WELL_KNOWN_INSTANCE
            )
            if status is None or status.get("Status") != _SUCCESS:
                raise UnreachableError("the PACS refuses the request for storage commitment", where=_WHERE)
            in_time = came.wait(settings.timeout_seconds)
        finally:
            association.release()
    if not in_time:
        raise UnreachableError("the PACS has not said in time whether it keeps the objects", where=_WHERE)
    failed = reports[transaction].get("FailedSOPSequence", ())
    if failed:
        reasons = sorted({f"0x{int(one.FailureReason):04X}" for one in failed})
        raise HandoverError(
            f"the PACS does not keep {len(failed)} of {len(files)} objects: {', '.join(reasons)}",
            where=_WHERE,
        )
    return COMMITTED


@contextmanager
def _listening(entity: Any, settings: StorageCommitment, handlers: list[Any]) -> Iterator[None]:
    """The port of reports, which runs take in turn."""
    address, until = (settings.listen_host, settings.listen_port), time.monotonic() + settings.timeout_seconds
    while True:
        try:
            server = entity.start_server(address, block=False, evt_handlers=handlers)
            break
        except OSError as error:
            if time.monotonic() > until:
                reason = error.strerror or type(error).__name__
                raise UnreachableError(
                    f"no report of the PACS can be waited for at on_request.commitment.listen_port: {reason}",
                    where=_WHERE,
                ) from None
        time.sleep(_PORT_POLL_SECONDS)
    try:
        yield
    finally:
        server.shutdown()


def _request(transaction: str, files: Sequence[Path]) -> Dataset:
    asked = Dataset()
    asked.TransactionUID = transaction
    asked.ReferencedSOPSequence = []
    for path in files:
        header = read_dicom(path, only=("SOPClassUID", "SOPInstanceUID"), of_ours=True)
        one = Dataset()
        one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        asked.ReferencedSOPSequence.append(one)
    return asked
