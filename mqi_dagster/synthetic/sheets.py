"""PlanInfo.txt and PlanRange.txt of a delivery (docs/formats.md 1)."""

from __future__ import annotations

from dataclasses import dataclass

RANGE_HEADER = (
    "RESULT_ID,LAYER_NO,LAYER_ENERGY,PATIENT_ID,FLD_NO,DOSE1_RANGE,DOSE2_RANGE,"
    "PLAN_DOSE1_RANGE,PLAN_DOSE2_RANGE,SCAN_OUT_FL_NM,PLAN_SCAN_OUT_FL_NM"
)


@dataclass(frozen=True, slots=True)
class Labels:
    """The identifiers of a delivery, as they stand in its files and file names."""

    patient_id: str
    study_uid: str
    beam_number: int
    digits: str
    running_number: int

    def record_name(self, layer: int) -> str:
        """Name of a layer's record."""
        return f"02_{self.running_number:07d}_001_{self.beam_number:03d}_{layer:03d}.ptn"

    def machine_plan_name(self, layer: int) -> str:
        """Name of a layer's machine plan."""
        return f"02_{self.patient_id}_001_{self.beam_number:03d}_{layer:03d}.mgn"


@dataclass(frozen=True, slots=True)
class RangeRow:
    """One layer of PlanRange."""

    layer: int
    energy: str
    code: int
    record_name: str
    machine_plan_name: str


def plan_info(labels: Labels, folder: str, first_layer: int, last_layer: int) -> bytes:
    """The text of PlanInfo.txt."""
    lines = {
        "DICOM_PATIENT_ID": labels.patient_id,
        "DICOM_STUDY_INS_UID": labels.study_uid,
        "DICOM_BEAM_NUMBER": str(labels.beam_number),
        "TCSC_IRRAD_DATETIME": labels.digits,
        "TCSC_PATIENT_ID": f"{labels.running_number:07d}",
        "TCSC_PLAN_NUMBER": "1",
        "TCSC_FIELD_NUMBER": str(labels.beam_number),
        "START_LAYER_NUMBER": str(first_layer),
        "STOP_LAYER_NUMBER": str(last_layer),
        "SHARE_DIR": "ScanActual",
        "ACTUAL_DIR": f"{labels.patient_id}\\{labels.study_uid}\\{folder}",
    }
    return "".join(f"{key},{value}\n" for key, value in lines.items()).encode("ascii")


def plan_range(labels: Labels, rows: list[RangeRow]) -> bytes:
    """The text of PlanRange.txt."""
    text = [RANGE_HEADER]
    for row in rows:
        text.append(
            f"{labels.digits},{row.layer},{row.energy},{labels.patient_id},{labels.beam_number},"
            f"{row.code},{row.code},{row.code},{row.code},{row.record_name},{row.machine_plan_name}"
        )
    return "".join(line + "\n" for line in text).encode("ascii")
