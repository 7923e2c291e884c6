"""The model brain_mr: deepbet's two networks, turned into ONNX once, in an environment that is thrown away.

deepbet (Fisch et al., 2024) ships its networks as TorchScript in its wheel. The wheel is a container only:
nothing of it is installed. Torch, which reads TorchScript, is installed into a temporary environment, writes
ONNX there, and goes with it. What it wrote is compared with torch's own answer before it is published.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from mqi_dagster.errors import ConfigurationError, InfrastructureError, Where
from mqi_dagster.files import sha256_file, sync_file, sync_folder, write_whole
from mqi_dagster.imaging.models import torchscript_to_onnx
from mqi_dagster.imaging.models.card import CARD, PACKAGED_MODELS, Model, read_model
from mqi_dagster.imaging.models.model_errors import ModelCardError, UnsafeModelError
from mqi_dagster.imaging.models.weights import verify_weights
from mqi_dagster.wheels import Wheel

NAME = "brain_mr"
WHEEL = Wheel("deepbet", "1.0.2", "1999e2ea00ec48f6233b95b96f3901a962d3f70431c63aeb985e8a49a198473c")
TORCH = "torch==2.13.0+cpu"
"""A build without CUDA (190 MB to fetch). The one without ``+cpu`` brings CUDA (4.9 GB installed)."""
_LARGEST_DIFFERENCE = 0.01
_NETWORKS = {"locate": ("data/models/bbox_model.pt", 128), "segment": ("data/models/model.pt", 256)}
_LARGEST_MEMBER = 50_000_000
_SECONDS = 1800
_WHERE = Where(kind=f"model {NAME}")


def install_brain_mr(target: Path, *, wheel: Path | None = None, torch: str = TORCH) -> Model:
    """Make the model folder ``brain_mr``, unless it is there and whole.

    Args:
        target: The folder of models to make it in; made where it is missing.
        wheel: deepbet's wheel as a local file, for a site without a package index.
        torch: What pip is asked for; must be able to load TorchScript on this machine.

    Raises:
        UnsafeModelError: The wheel is not the one that we know.
        ModelCardError: A network in ONNX does not answer as torch does.
        InfrastructureError: pip cannot fetch a package, or the disk failed.
    """
    folder = target / NAME
    try:
        if _installed(folder) is not None:
            # The weights stay; the card may be one of an earlier version of the platform.
            _write_card(folder)
            return read_model(folder)
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=target) as name:
            scratch = Path(name)
            made = scratch / NAME
            made.mkdir()
            _convert(wheel or WHEEL.download(scratch / "wheel"), made, scratch, torch)
            _write_card(made)
            _publish(made, folder, scratch)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InfrastructureError(f"the model cannot be installed: {reason}", where=_WHERE) from None
    installed = _installed(folder)
    if installed is None:
        raise InfrastructureError("the model's folder changed while it was installed", where=_WHERE)
    return installed


def _installed(folder: Path) -> Model | None:
    try:
        model = read_model(folder)
        verify_weights(model)
    except ConfigurationError:
        return None
    return model


def _convert(wheel: Path, made: Path, scratch: Path, torch: str) -> None:
    """Write each network as ONNX, by a Python with torch whose environment goes with the scratch."""
    if fault := WHEEL.fault(wheel):
        raise UnsafeModelError(fault, where=_WHERE)
    with zipfile.ZipFile(wheel) as archive:
        for name, (member, _) in _NETWORKS.items():
            with archive.open(member) as stream:
                (scratch / f"{name}.pt").write_bytes(stream.read(_LARGEST_MEMBER))
    environment = scratch / "environment"
    _run([sys.executable, "-m", "venv", str(environment)], "the environment for torch cannot be made")
    python = str(environment / "bin" / "python")
    hint = f"{torch}, numpy and onnx; another build of torch may be named, or the folder copied from a site"
    _pip([python, "-m", "pip", "install", "--quiet", torch, "numpy", "onnx"], hint)
    for name, (_, edge) in _NETWORKS.items():
        network, check = made / f"{name}.onnx", scratch / f"{name}.npz"
        script = [python, "-I", torchscript_to_onnx.__file__, str(scratch / f"{name}.pt")]
        _run([*script, str(network), str(check), str(edge)], "torch cannot turn a network into ONNX")
        _require_same_answer(network, check)


def _require_same_answer(network: Path, check: Path) -> None:
    with np.load(check, allow_pickle=False) as content:
        image, wanted = content["image"], content["channels"]
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    given = session.run(None, {session.get_inputs()[0].name: image})[0]
    off = float(np.abs(given - wanted).max()) if given.shape == wanted.shape else float("inf")
    if not off < _LARGEST_DIFFERENCE:
        raise ModelCardError(f"a network in ONNX differs from torch's by {off:.3g}", where=_WHERE)


def _write_card(made: Path) -> None:
    """The packaged card, with the SHA-256 of the networks that were made here."""
    text = (PACKAGED_MODELS / NAME / CARD).read_text(encoding="utf-8")
    for name in _NETWORKS:
        digest = sha256_file(made / f"{name}.onnx")
        pattern = rf'(file: {name}\.onnx\n\s+sha256: )"[0-9a-f]{{64}}"'
        text, count = re.subn(pattern, rf'\g<1>"{digest}"', text)
        if count != 1:
            raise ModelCardError(f"the packaged card does not name {name}.onnx", where=_WHERE)
    write_whole(made / CARD, text.encode(), 0o644)


def _publish(made: Path, folder: Path, scratch: Path) -> None:
    for path in made.iterdir():
        # Nothing of it is secret, and another account may be the one that segments.
        path.chmod(0o644)
        sync_file(path)
    made.chmod(0o755)
    if folder.exists():
        folder.rename(scratch / "damaged")
    made.rename(folder)
    sync_folder(folder.parent)


def _pip(command: Sequence[str], what: str) -> None:
    arguments = ["--no-input", "--disable-pip-version-check"]
    _run([*command[:4], *arguments, *command[4:]], f"pip cannot fetch {what}")


def _run(command: Sequence[str], otherwise: str) -> None:
    # pip's own words can hold the address and the credentials of an index, so they are not repeated.
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise InfrastructureError(f"{otherwise}: no answer within {_SECONDS} s", where=_WHERE) from None
    if done.returncode != 0:
        raise InfrastructureError(f"{otherwise} (exit code {done.returncode})", where=_WHERE)
