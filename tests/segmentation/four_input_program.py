"""A program of a model with four inputs: a network over overlapping windows, as a SwinUNETR is run.

Its weights are random: it shows that four series become one segmentation, and finds nothing that is there.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses

ROLES = ("PRE", "FIRST", "SECOND", "THIRD")
WINDOW, OVERLAP = 24, 0.25


def places(size: int) -> list[int]:
    """Where windows begin along an axis."""
    step = int(WINDOW * (1 - OVERLAP))
    return sorted({*range(0, max(1, size - WINDOW + 1), step), max(0, size - WINDOW)})


def main(inputs: Path, network: Path, output: Path, threads: int) -> None:
    """Read the four images, ask the network in each window, and write the label map."""
    images = [sitk.ReadImage(inputs / f"{role}.nii.gz") for role in ROLES]
    values = np.stack([sitk.GetArrayFromImage(one).astype(np.float32) for one in images])
    values = (values - values.mean()) / max(float(values.std()), 1e-6)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    score, seen = np.zeros(values.shape[1:], np.float32), np.zeros(values.shape[1:], np.float32)
    for begin in product(*map(places, values.shape[1:])):
        part = tuple(slice(at, at + WINDOW) for at in begin)
        (answer,) = session.run(None, {"image": values[(np.newaxis, slice(None), *part)]})
        score[part] += np.asarray(answer)[0, 0]
        seen[part] += 1
    labels = sitk.GetImageFromArray((score / seen > 0).astype(np.uint8))
    labels.CopyInformation(images[0])
    sitk.WriteImage(labels, output)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
