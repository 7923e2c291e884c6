"""The model brain_mr: what its installation refuses, and the brain that it finds in a real head."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
from numpy.typing import NDArray

from mqi_dagster.errors import InfrastructureError
from mqi_dagster.imaging.models import brain_mr
from mqi_dagster.imaging.models.brain_mr import install_brain_mr
from mqi_dagster.imaging.models.card import PACKAGED_MODELS, Model
from mqi_dagster.imaging.models.model_errors import ModelCardError, UnsafeModelError
from mqi_dagster.imaging.models.running import RunOptions
from mqi_dagster.imaging.models.segment import segment
from mqi_dagster.imaging.models.weights import verify_weights
from tests.imaging.models.model_folders import labels_in
from tests.imaging.models.test_onnx_model import linear

Mask = NDArray[np.bool_]


def test_wheel_that_is_another_one_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    wheel = tmp_path / "deepbet-1.0.2-py3-none-any.whl"
    wheel.write_bytes(b"another")
    with pytest.raises(UnsafeModelError, match=r"model brain_mr: the wheel has SHA-256 .* deepbet 1\.0\.2"):
        install_brain_mr(tmp_path / "models", wheel=wheel)
    assert list((tmp_path / "models").iterdir()) == []


def test_installed_model_is_kept_and_its_card_brought_up_to_date(tmp_path: Path) -> None:
    folder = tmp_path / "brain_mr"
    folder.mkdir()
    for name in ("locate.onnx", "segment.onnx"):
        (folder / name).write_bytes(b"\x08\x08" + name.encode())
    brain_mr._write_card(folder)
    newest = (folder / "model.yaml").read_text()
    (folder / "model.yaml").write_text(newest.replace("margin: 0.1", "margin: 0.3"))

    model = install_brain_mr(tmp_path, wheel=tmp_path / "none.whl")

    assert (folder / "model.yaml").read_text() == newest
    assert sorted(verify_weights(model)) == ["locate.onnx", "segment.onnx"]
    packaged = (PACKAGED_MODELS / "brain_mr" / "model.yaml").read_text()
    assert len(set(newest.splitlines()) ^ set(packaged.splitlines())) == 4


def test_network_that_answers_another_way_than_torch_is_refused(tmp_path: Path) -> None:
    network, check = tmp_path / "net.onnx", tmp_path / "check.npz"
    network.write_bytes(linear([[0.0], [1.0]], [0.5, 0.0]))
    image = np.random.default_rng(1).random((1, 1, 3, 3, 3), np.float32)
    answer = np.concatenate([np.full_like(image, 0.5), image], axis=1)

    np.savez(check, image=image, channels=answer + np.float32(0.009))
    brain_mr._require_same_answer(network, check)
    np.savez(check, image=image, channels=answer + np.float32(0.011))
    with pytest.raises(ModelCardError, match=r"a network in ONNX differs from torch's by 0\.011"):
        brain_mr._require_same_answer(network, check)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The model, made from the package index."""
    try:
        return install_brain_mr(tmp_path_factory.mktemp("models"))
    except InfrastructureError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a T1-weighted head and its brain, of Debian's package mricron-data."""
    folder = tmp_path_factory.mktemp("head")
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("this machine has no Debian packages")
    subprocess.run(["apt-get", "download", "mricron-data"], cwd=folder, capture_output=True, check=False)
    packages = list(folder.glob("*.deb"))
    if not packages:
        pytest.skip("mricron-data cannot be fetched")
    subprocess.run(["dpkg-deb", "-x", str(packages[0]), str(folder)], check=True)
    return folder / "usr" / "share" / "mricron" / "templates"


def dice(one: Mask, other: Mask) -> float:
    """Overlap of two masks."""
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


TORCH = """
import sys
sys.path.insert(0, sys.argv[1])
from deepbet import run_bet
run_bet([sys.argv[2]], mask_paths=[sys.argv[3]], no_gpu=True, skip_broken=False)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_brain_is_that_of_the_package_and_of_torch(installed: Model, head: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    shutil.copy(head / "ch2.nii.gz", tmp_path / "in" / "T1.nii.gz")

    record = segment(installed, tmp_path / "in", tmp_path / "out", RunOptions(threads=2))

    found = labels_in(tmp_path / "out") == 1
    wanted = sitk.GetArrayFromImage(sitk.ReadImage(head / "ch2bet.nii.gz")) > 0
    assert dice(found, wanted) >= 0.93
    assert record.regions[0].plausible
    assert json.loads((tmp_path / "out" / "segmentation.json").read_text())["device_used"] == "cpu"
    assert dice(found, by_torch(tmp_path)) >= 0.99


def by_torch(tmp_path: Path) -> Mask:
    """The brain that deepbet itself finds, in an environment with torch."""
    python = str(tmp_path / "environment" / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet"]
    others = ["nibabel", "connected-components-3d", "fill-voids", "pandas", "tqdm", "numpy", brain_mr.TORCH]
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "environment")], check=True)
    subprocess.run([*pip, *others], check=True, capture_output=True)
    # Its metadata wants a program with windows.
    subprocess.run([*pip, "--no-deps", "--target", str(tmp_path / "deepbet"), "deepbet==1.0.2"], check=True)
    mask = tmp_path / "torch.nii.gz"
    words = [str(tmp_path / "deepbet"), str(tmp_path / "in" / "T1.nii.gz"), str(mask)]
    subprocess.run([python, "-c", TORCH, *words], check=True, capture_output=True)
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(mask)) > 0)
