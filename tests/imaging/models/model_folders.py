"""Model folders and images for the tests of models."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
import yaml
from numpy.typing import NDArray

Content = dict[str, Any]


def region(name: str = "Brain", label: int = 1, **changes: Any) -> Content:
    """One region of a card."""
    content = {"name": name, "code": {"value": "12738006", "meaning": "Brain"}, "label": label}
    return {**content, "volume_cm3": [0, 1000], **changes}


def card(kind: str, section: Content, **changes: Any) -> Content:
    """A card with one input and one region."""
    content = {
        "name": "made",
        "version": "3",
        "summary": "Made for a test.",
        "modality": "CT",
        "inputs": [{"role": "CT"}],
        "regions": [region()],
        "runtime": kind,
        kind: section,
        "licence": "none",
        "memory": {"ram_mb": 10},
        "limits": ["It is for tests."],
    }
    return {**content, **changes}


def command_card(*argv: str, **changes: Any) -> Content:
    """A card whose program is given its input and output by name."""
    words = argv or ("/bin/true", "{input:CT}", "{output}")
    return card("command", {"argv": list(words)}, **changes)


def write_card(folder: Path, content: Content) -> Path:
    """A model folder with this card."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return folder


def weights(folder: Path, name: str, content: bytes) -> Content:
    """A file of weights in a model folder, and what its card says of it."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return {"file": name, "sha256": hashlib.sha256(content).hexdigest()}


def image(
    values: NDArray[Any],
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    origin: tuple[float, ...] = (0.0, 0.0, 0.0),
    direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1),
) -> sitk.Image:
    """An image of values with axes z, y, x."""
    made = sitk.GetImageFromArray(values)
    made.SetSpacing(spacing)
    made.SetOrigin(origin)
    made.SetDirection(direction)
    return made


def write_inputs(folder: Path, **images: sitk.Image) -> Path:
    """A folder with the image of each role."""
    folder.mkdir(parents=True, exist_ok=True)
    for role, one in images.items():
        sitk.WriteImage(one, folder / f"{role}.nii.gz")
    return folder


def labels_in(folder: Path) -> NDArray[Any]:
    """The label map that a segmentation left, axes z, y, x."""
    return sitk.GetArrayFromImage(sitk.ReadImage(folder / "segmentation.nii.gz"))


def block(
    size: tuple[int, int, int], low: tuple[int, int, int], high: tuple[int, int, int]
) -> NDArray[np.int16]:
    """Zeros of a size (z, y, x), and 100 in the voxels from one corner up to another."""
    values = np.zeros(size, np.int16)
    values[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = 100
    return values
