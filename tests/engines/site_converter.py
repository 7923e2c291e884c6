"""A site's own RT Dose converter for the tests; a declared stand-in, with faults by mode.

python site_converter.py <mode> <raw dose folder> <plan> <beam number> <output>
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTDoseStorage, generate_uid


def main() -> int:
    """Write an RT Dose, or fail as the mode says."""
    mode, raw, plan_path, number, output = sys.argv[1:]
    if mode == "hang":
        time.sleep(600)
    if mode == "nothing":
        return 0
    record = json.loads((Path(raw) / "raw_dose.json").read_text())
    box = next(entry for entry in record["files"] if entry["role"] == "box")
    values = np.fromfile(Path(raw) / box["file"], "<f8").reshape(box["layers"], *box["shape"])
    values = values * record["dose_factor"] * (1.05 if mode == "too-much" else 1.0)
    (x, y, z), (dx, dy, dz) = box["origin_mm"], box["spacing_mm"]
    # The engine's beam runs along -z, which is +y in DICOM; the engine's y is DICOM's z.
    frames = values[::-1].transpose(1, 0, 2)
    top = z + dz * (values.shape[0] - 1)
    plan = pydicom.dcmread(plan_path)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTDoseStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dose = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID"):
        setattr(dose, keyword, plan.get(keyword))
    dose.SOPClassUID, dose.SOPInstanceUID = RTDoseStorage, meta.MediaStorageSOPInstanceUID
    dose.Modality = "RTDOSE"
    dose.SeriesInstanceUID, dose.FrameOfReferenceUID = generate_uid(), generate_uid()
    dose.NumberOfFrames, dose.Rows, dose.Columns = frames.shape
    dose.SamplesPerPixel, dose.PhotometricInterpretation = 1, "MONOCHROME2"
    dose.BitsAllocated = dose.BitsStored = 32
    dose.HighBit, dose.PixelRepresentation = 31, 0
    dose.PixelSpacing = [f"{dz:g}", f"{dx:g}"]
    dose.ImagePositionPatient = [f"{x:g}", f"{-top:g}", f"{y:g}"]
    dose.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dose.FrameIncrementPointer = 0x3004000C
    dose.GridFrameOffsetVector = [f"{dy * i:g}" for i in range(frames.shape[0])]
    scaling = float(f"{frames.max() / (2**32 - 1):.10e}")
    dose.DoseGridScaling = scaling
    dose.PixelData = np.minimum(np.rint(frames / scaling), 2**32 - 1).astype("<u4").tobytes()
    dose.DoseUnits, dose.DoseType = ("GY" if record["commissioned"] else "RELATIVE"), "PHYSICAL"
    dose.DoseSummationType = "BEAM"
    beam, group, reference = Dataset(), Dataset(), Dataset()
    beam.ReferencedBeamNumber = int(number) + (1 if mode == "other-beam" else 0)
    group.ReferencedFractionGroupNumber, group.ReferencedBeamSequence = 1, [beam]
    reference.ReferencedSOPClassUID = plan.SOPClassUID
    reference.ReferencedSOPInstanceUID = plan.SOPInstanceUID
    reference.ReferencedFractionGroupSequence = [group]
    dose.ReferencedRTPlanSequence = [reference]
    folder = Path(output).parent / "elsewhere" if mode == "elsewhere" else Path(output)
    folder.mkdir(exist_ok=True)
    dose.save_as(folder / "rt_dose.dcm", enforce_file_format=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
