"""nnU-Net v2, TotalSegmentator and a SwinUNETR of MONAI, as they are published, with tiny random networks.

That the networks find nothing sensible is no matter here: what is tried is the way there and back.
``MQI_TORCH_PYTHON`` names a Python that has torch and the three; without it an environment is made.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mqi_dagster.imaging.models.card import Model, read_model
from mqi_dagster.imaging.models.running import RunOptions
from mqi_dagster.imaging.models.segment import SegmentationRecord, segment
from mqi_dagster.imaging.models.weights import weights_found
from tests.imaging.models import tiny_networks
from tests.imaging.models.model_folders import card, image, labels_in, region, write_card, write_inputs
from tests.imaging.models.test_rules_model import SPACING, body

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

PACKAGES = ["torch==2.13.0+cpu", "nnunetv2==2.8.1", "TotalSegmentator==2.18.0", "onnx"]
DATASET = "weights/Dataset297_TotalSegmentator_total_3mm_1559subj"
TRAINED = "nnUNetTrainer_4000epochs_NoMirroring__nnUNetPlans__3d_fullres"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of an environment with torch."""
    if given := os.environ.get("MQI_TORCH_PYTHON"):
        return Path(given).parent
    folder = tmp_path_factory.mktemp("torch") / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    for packages in (PACKAGES, ["--no-deps", "monai==1.6.1"]):
        if subprocess.run([*install, *packages], capture_output=True, check=False).returncode:
            pytest.skip("the package index has no CPU build of torch, or no nnU-Net")
    return folder / "bin"


def make(programs: Path, *words: str) -> None:
    """Make a tiny network."""
    command = [str(programs / "python"), tiny_networks.__file__, *words]
    subprocess.run(command, check=True, capture_output=True)


def model_of(folder: Path, kind: str, section: dict[str, Any], classes: int, **changes: Any) -> Model:
    """A model whose card names every weight that lies in its folder."""
    weights = [one.model_dump() for one in weights_found(folder) if one.file.endswith((".pth", ".onnx"))]
    regions = [region(f"Region{number}", number) for number in range(1, classes)]
    return read_model(write_card(folder, card(kind, section, weights=weights, regions=regions, **changes)))


def run(model: Model, tmp_path: Path, **options: Any) -> SegmentationRecord:
    """Segment a body."""
    (tmp_path / "out").mkdir()
    ct = image(body(), SPACING)
    return segment(
        model, write_inputs(tmp_path / "in", CT=ct), tmp_path / "out", RunOptions(threads=2, **options)
    )


def test_nnunet_runs_from_its_trained_folder_without_a_network(programs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    make(programs, "nnunet", str(folder / "weights"), "3")
    program = str(programs / "nnUNetv2_predict_from_modelfolder")
    model = model_of(folder, "nnunet", {"program": program, "mirroring": False}, 3)

    record = run(model, tmp_path)

    assert sum(one.voxels for one in record.regions) > 0
    assert (record.device_used, record.remarks) == ("cpu", ())


def test_totalsegmentator_runs_from_local_weights_and_tells_that_it_found_no_gpu(
    programs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    make(programs, "nnunet", str(folder / DATASET / TRAINED), "118")
    section = {
        "program": str(programs / "TotalSegmentator"),
        "task": "total",
        "mode": "fast",
        "datasets": [297],
    }
    model = model_of(folder, "totalsegmentator", section, 118)

    record = run(model, tmp_path, device="gpu")

    assert sum(one.voxels for one in record.regions) > 0
    assert (record.device_asked, record.device_used) == ("gpu", "cpu")
    assert record.remarks == ("gpu was asked for, and the program has opened no such device",)


def test_swinunetr_of_four_inputs_gives_what_torch_gives(programs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    make(programs, "swin", str(folder))
    roles = ["pre", "post1", "post2", "late"]
    network = {"weights": "net.onnx", "spacing_mm": [1, 1, 1], "patch": [64, 64, 64], "labels": [0, 1, 2]}
    model = model_of(folder, "onnx", {"network": network}, 3, inputs=[{"role": role} for role in roles])
    with np.load(folder / "check.npz") as content:
        given, answer = content["image"], content["channels"]
    # The arrays run to right, front and head, x first, as the network sees them.
    towards = (-1, 0, 0, 0, -1, 0, 0, 0, 1)
    stored = [image(np.ascontiguousarray(one.transpose(2, 1, 0)), direction=towards) for one in given]
    (tmp_path / "out").mkdir()

    segment(model, write_inputs(tmp_path / "in", **dict(zip(roles, stored, strict=True))), tmp_path / "out")

    agreed = labels_in(tmp_path / "out").transpose(2, 1, 0) == answer.argmax(axis=0)
    assert agreed.mean() > 0.9999
