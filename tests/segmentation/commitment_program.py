"""Storage commitment asked of a real Orthanc: what came of each case, as JSON.

A program, since Debian's Orthanc binds every address with its DICOM server: it is run in a network namespace.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pydicom
from pynetdicom import AE

from mqi_dagster.dicom.orthanc_pacs import OrthancPacs
from mqi_dagster.dicom.storage_commitment import committed
from mqi_dagster.errors import MqiError
from mqi_dagster.settings.on_request import StorageCommitment
from tests.dicom.orthanc_server import free_port, running_orthanc
from tests.segmentation.on_request_site import images

KEEPS_NONE_OF_SERIES_12 = """
function ReceivedInstanceFilter(dicom, origin, info)
  return dicom.SeriesDescription ~= 'filtered'
end
"""


def main(folder: Path) -> dict[str, str]:
    """Every case."""
    kept, filtered, unknown = (folder / f"{name}.dcm" for name in ("kept", "filtered", "unknown"))
    kept.write_bytes(images(11)[0])
    filtered.write_bytes(images(12, SeriesDescription="filtered")[0])
    unknown.write_bytes(images(13)[0])
    script = folder / "filter.lua"
    script.write_text(KEEPS_NONE_OF_SERIES_12)
    port, reports = free_port(), free_port()
    asked = StorageCommitment(
        host="127.0.0.1", port=port, called_aet="ORTHANC", listen_port=reports, timeout_seconds=20
    )
    silent = asked.model_copy(update={"calling_aet": "STRANGER", "timeout_seconds": 2.0})
    nobody = asked.model_copy(update={"port": free_port()})
    options = {
        "DicomServerEnabled": True,
        "DicomPort": port,
        "DicomAet": "ORTHANC",
        "DicomModalities": {"mqi": ["MQI", "127.0.0.1", reports]},
        "LuaScripts": [str(script)],
    }
    with running_orthanc(folder / "orthanc", **options) as server:
        OrthancPacs(server.source).store(kept.read_bytes())
        status = _sent(port, filtered.read_bytes())
        with ThreadPoolExecutor(2) as pool:
            both = list(pool.map(lambda _: committed(asked, [kept]), range(2)))
        return {
            "kept": committed(asked, [kept]),
            "two at once": ", ".join(both),
            "status of what is filtered": f"0x{status:04x}",
            "filtered": _told(asked, [kept, filtered]),
            "unknown": _told(asked, [unknown]),
            "whom it does not know": _told(silent, [kept]),
            "nobody": _told(nobody, [kept]),
        }


def _told(settings: StorageCommitment, files: list[Path]) -> str:
    try:
        return committed(settings, files)
    except MqiError as error:
        return f"{error.code}: {error.message}"


def _sent(port: int, content: bytes) -> int:
    """The status with which a C-STORE is answered."""
    dataset = pydicom.dcmread(BytesIO(content))
    entity = AE("MQI")
    entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title="ORTHANC")
    status = association.send_c_store(dataset).Status
    association.release()
    return int(status)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
