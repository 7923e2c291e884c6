"""What the stages of a course cost, beside other programs in the same run.

    python -m benchmarks.courses [--files 20000] [--courses 8]

Organising: headers of a made tree by our index with one and two processes, and again with nothing new, beside
pydicom's plain loop. Dose and volume: a made dose in the structures of the head phantom, beside plastimatch
where it is installed (`plastimatch convert` and `dvh`, all structures together). Whole courses: made ones by
`mqi course run`, stage by stage and then all stages with one and two courses at once, each time into a new
folder, with the memory of the largest process.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import dcmread

from mqi_dagster.courses.dicom_index import DicomIndex
from mqi_dagster.dose.grid import ALONG_X, ALONG_Y, ALONG_Z, DoseFrame, DoseGrid, DoseUnits
from mqi_dagster.imaging.contours import contours_on
from mqi_dagster.imaging.dvh import dose_volume
from mqi_dagster.imaging.image_volume import read_volume
from mqi_dagster.imaging.structure_set import read_structure_set
from mqi_dagster.processes.worker_counts import STAGES
from tests.courses.made_objects import Made, items
from tests.imaging.images import image, written

PHANTOM = Path(__file__).resolve().parents[2] / "shared" / "cases" / "head_phantom" / "head_phantom.tar.xz"
SERIES = 100


def timed(work: Callable[[], object]) -> float:
    """Seconds of a piece of work."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def plain_loop(tree: Path) -> None:
    """Every header, one after the other."""
    for file in tree.rglob("*"):
        if file.is_file():
            dcmread(file, stop_before_pixels=True)


def organise(files: int) -> None:
    """Print files per second."""
    print(f"organising {files:,} files")
    print(f"{'way':32}{'seconds':>9}{'files/s':>10}")
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place) / "tree"
        values = np.zeros((64, 64), int)
        for series in range(files // SERIES):
            uid = f"1.2.{series + 1}"
            images = [image(values, 2.0 * number, series=uid, number=number) for number in range(SERIES)]
            written(tree / str(series), images)
        ways: list[tuple[str, Callable[[], object]]] = [("pydicom, plain loop", lambda: plain_loop(tree))]
        for workers in (1, 2):
            index = DicomIndex(Path(place) / f"index{workers}.sqlite", tree)
            ways.append((f"index, {workers} processes", lambda i=index, w=workers: i.scan(workers=w)))  # type: ignore[misc]
            ways.append((f"index, {workers} processes, again", lambda i=index, w=workers: i.scan(workers=w)))  # type: ignore[misc]
        for name, work in ways:
            seconds = timed(work)
            print(f"{name:32}{seconds:9.2f}{files / seconds:10.0f}", flush=True)


def made_dose() -> DoseGrid:
    """A blob of 60 Gy in the middle of the head, on a grid of 2.5 mm around the whole phantom."""
    first = (-160.0, -320.0, -145.0)
    x, y, z = (low + 2.5 * np.arange(count) for low, count in zip(first, (130, 130, 116), strict=True))
    away = (z[:, None, None] - 20) ** 2 + (y[None, :, None] + 215) ** 2 + (x[None, None, :] - 10) ** 2
    return DoseGrid(
        60 * np.exp(-((away / 2500) ** 2)), first, ALONG_X, ALONG_Y, ALONG_Z, 2.5, 2.5, 2.5,
        DoseFrame.PATIENT, DoseUnits.GY,
    )  # fmt: skip


def dvh() -> None:
    """Print seconds, volume and mean dose of each structure."""
    with tempfile.TemporaryDirectory() as place:
        with tarfile.open(PHANTOM) as archive:
            archive.extractall(place, filter="data")
        folder, dose = Path(place) / "head_phantom", made_dose()
        seconds = timed(lambda: read_volume(folder.glob("CT*")))
        volume = read_volume(folder.glob("CT*"))
        print(f"\nreading 177 images of 512 x 512: {seconds:.2f} s")
        other = plastimatch_means(folder, dose) if shutil.which("plastimatch") else None
        print(f"{'structure':12}{'seconds':>9}{'cm³':>10}{'mean Gy':>9}   plastimatch, mean Gy")
        (file,) = folder.glob("RS*")
        for roi in read_structure_set(file).rois:
            began = time.perf_counter()
            contours = contours_on(volume.grid, roi.contours_mm)
            found = dose_volume(contours.layers(), volume.grid, dose)
            took = time.perf_counter() - began
            beside = "is not installed" if other is None else f"{other.get(roi.name, float('nan')):.3f}"
            print(f"{roi.name:12}{took:9.2f}{found.volume_cm3:10.3f}{found.mean:9.3f}   {beside}", flush=True)


def plastimatch_means(folder: Path, dose: DoseGrid) -> dict[str, float]:
    """Mean dose of each structure by plastimatch, from its differential histogram."""
    import SimpleITK

    made = folder.parent
    picture = SimpleITK.GetImageFromArray(dose.values.astype(np.float32))
    picture.SetOrigin(dose.origin_mm)
    picture.SetSpacing((dose.column_spacing_mm, dose.row_spacing_mm, dose.frame_spacing_mm))
    SimpleITK.WriteImage(picture, str(made / "dose.mha"))
    convert = ["--input", str(folder), "--output-ss-img", str(made / "ss.mha")]
    convert += ["--output-ss-list", str(made / "ss.txt")]
    judge = ["--input-ss-img", str(made / "ss.mha"), "--input-ss-list", str(made / "ss.txt")]
    judge += ["--input-dose", str(made / "dose.mha"), "--output-csv", str(made / "dvh.csv"), "--differential"]
    judge += ["--bin-width", "0.02", "--num-bins", "3100", "--normalization", "vox"]
    seconds = timed(lambda: _run("convert", *convert)) + timed(lambda: _run("dvh", *judge))
    print(f"plastimatch, convert and dvh of all structures: {seconds:.2f} s")
    names, *rows = [line.split(",") for line in (made / "dvh.csv").read_text().splitlines() if line]
    table = np.array([[float(cell) for cell in row[: len(names)]] for row in rows])
    means = {}
    for column, name in enumerate(names[1:], start=1):
        counts = table[:, column]
        if counts.sum():
            means[name.split("|")[-1].strip()] = float(table[:, 0] @ counts / counts.sum())
    return means


def _run(command: str, *arguments: str) -> None:
    subprocess.run(["plastimatch", command, *arguments], check=True, capture_output=True)


PLANES, PIXELS, PIXEL_MM, PLANE_MM = 40, 128, 2.5, 3.0
CIRCLES = {"Body": (0, 0, 130), "Lung_L": (60, 0, 40), "Lung_R": (-60, 0, 40), "PTV": (0, 40, 25)}
"""Of the structures of made courses: centre to the left and to the back, and radius [mm]."""


def write_course(made: Made) -> None:
    """A course of a CT, four structures, a plan and a dose of 60 Gy about the target."""
    ends = (PIXELS - 1) * PIXEL_MM / 2
    x = np.linspace(-ends, ends, PIXELS)
    noise = np.random.default_rng(made.number)
    images = []
    for plane in range(PLANES):
        pixels = noise.normal(-1000, 10, (PIXELS, PIXELS))
        for hounsfield, (left, back, radius) in zip((0, -700, -700, 40), CIRCLES.values(), strict=True):
            inside = (x[None] - left) ** 2 + (x[:, None] - back) ** 2 < radius**2
            pixels[inside] = noise.normal(hounsfield, 20, int(inside.sum()))
        shape = {"Rows": PIXELS, "Columns": PIXELS, "PixelSpacing": [PIXEL_MM, PIXEL_MM]}
        scale = {"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "HU", "PatientPosition": "HFS"}
        kind = {
            "PixelRepresentation": 1,
            "PixelPaddingValue": None,
            "PixelData": pixels.astype("<i2").tobytes(),
        }
        place = {"ImagePositionPatient": [-ends, -ends, PLANE_MM * plane]}
        images.append(made.image(plane, **shape, **scale, **kind, **place))
    away = (x[None] ** 2 + (x[:, None] - CIRCLES["PTV"][1]) ** 2) / CIRCLES["PTV"][2] ** 2
    plane_gy = 60 / (1 + np.exp(4 * (np.sqrt(away) - 1.3)))
    dose = made.dose(
        ImagePositionPatient=[-ends, -ends, 0],
        PixelSpacing=[PIXEL_MM, PIXEL_MM],
        Rows=PIXELS,
        Columns=PIXELS,
        NumberOfFrames=PLANES,
        GridFrameOffsetVector=[PLANE_MM * plane for plane in range(PLANES)],
        FrameIncrementPointer=0x3004000C,
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=0,
        DoseGridScaling=0.001,
        PixelData=np.tile(np.round(plane_gy / 0.001).astype("<u2"), (PLANES, 1, 1)).tobytes(),
    )
    for content in (*images, _drawn(made), made.plan(), dose):
        made.write(content)


def _drawn(made: Made) -> bytes:
    turns = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    regions, contours = [], []
    for number, (name, (left, back, radius)) in enumerate(CIRCLES.items(), 1):
        of_planes = []
        for plane in range(2, PLANES - 2):
            points = np.stack([left + radius * np.cos(turns), back + radius * np.sin(turns)], axis=1)
            whole = np.column_stack([points, np.full(len(turns), PLANE_MM * plane)]).round(2)
            of_planes.append(
                {
                    "ContourGeometricType": "CLOSED_PLANAR",
                    "NumberOfContourPoints": len(turns),
                    "ContourData": whole.ravel().tolist(),
                }
            )
        frame = {"ReferencedFrameOfReferenceUID": made.frame}
        regions.append({"ROINumber": number, "ROIName": name, **frame})
        contours.append({"ReferencedROINumber": number, "ContourSequence": items(of_planes)})
    sequences = {"StructureSetROISequence": items(regions), "ROIContourSequence": items(contours)}
    return made.structures(slices=PLANES, **sequences)


def courses(count: int) -> None:
    """Print seconds, and memory of the largest process, of each stage and of whole runs."""
    print(f"\n{count} courses of {PLANES} images of {PIXELS} x {PIXELS}, {len(CIRCLES)} structures each")
    print(f"{'mqi course run':34}{'seconds':>9}{'s/course':>10}{'MB':>7}")
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place) / "tree"
        for number in range(1, count + 1):
            write_course(Made(number).at(tree))
        # The page, which shows everything, is the last that is made.
        for stage in (*(one for one in STAGES if one not in ("visualize", "qc")), "visualize", "qc"):
            course_run(f"--stage {stage}", tree, Path(place) / "by_stage", count, "--stage", stage)
        for workers in (1, 2):
            out = Path(place) / f"workers{workers}"
            course_run(f"--workers {workers}", tree, out, count, "--workers", str(workers))


def course_run(label: str, tree: Path, out: Path, count: int, *options: str) -> None:
    """Print the figures of one run of the command."""
    command = [str(Path(sys.executable).with_name("mqi")), "course", "run"]
    command += ["--dicom-root", str(tree), "--out", str(out), *options]
    began = time.perf_counter()
    with (out.parent / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        # Of the process and whatever it has waited for, the one that has held the most.
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds, peak = time.perf_counter() - began, used.ru_maxrss / 1024
    ended = f"   exit code {process.returncode}" if process.returncode else ""
    print(f"{label:34}{seconds:9.1f}{seconds / count:10.2f}{peak:7.0f}{ended}", flush=True)
    if process.returncode:
        print((out.parent / "log").read_text(errors="replace")[-2000:])


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--courses", type=int, default=8)
    options = parser.parse_args()
    # First: a program begins with the peak memory of the one that starts it.
    courses(options.courses)
    organise(options.files)
    if PHANTOM.is_file():
        dvh()
    else:
        print("the head phantom is not here: dose and volume are left out")
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
