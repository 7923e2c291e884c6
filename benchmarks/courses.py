"""What the stages of a course cost, beside other programs in the same run.

    python -m benchmarks.courses [--files 20000]

Organising: headers of a made tree by our index with one and two processes, and again with nothing new, beside
pydicom's plain loop. Dose and volume: a made dose in the structures of the head phantom, beside plastimatch
where it is installed (`plastimatch convert` and `dvh`, all structures together).
"""

from __future__ import annotations

import argparse
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


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000)
    options = parser.parse_args()
    organise(options.files)
    if PHANTOM.is_file():
        dvh()
    else:
        print("the head phantom is not here: dose and volume are left out")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
