"""What becomes of a CT slice that is to be copied for an engine, and of trouble on the way."""

from __future__ import annotations

import errno

import pytest

from mqi_dagster.dicom import reading
from mqi_dagster.engine_contract.ct_copy import blanked_ct
from mqi_dagster.errors import EngineInputError
from tests.delivery.test_ct_silence import slice_with_an_odd_uid


def test_a_system_that_starts_no_process_is_no_fault_of_the_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(content: bytes, *limits: int) -> bool:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(reading, "SMALL_BYTES", 1)
    monkeypatch.setattr(reading, "can_be_read", refused)
    with pytest.raises(BlockingIOError):
        blanked_ct(slice_with_an_odd_uid())


def test_a_slice_that_is_cut_off_is_bad_input() -> None:
    with pytest.raises(EngineInputError, match="a slice is cut off"):
        blanked_ct(slice_with_an_odd_uid()[:-1])
