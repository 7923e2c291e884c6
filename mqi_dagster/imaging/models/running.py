"""How a model is asked to run, and what it says of how it ran."""

from __future__ import annotations

from dataclasses import dataclass, field

import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses

from mqi_dagster.imaging.models.card import Device
from mqi_dagster.imaging.models.label_map import Labels


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run a model. What a runtime cannot do is said in its record, never done in silence."""

    device: Device = "cpu"
    threads: int = 1
    in_pieces: bool = False
    """With less memory, where the card says that it can (step down)."""
    gpu: str | None = None
    """UUID or index of the GPU whose lease the caller holds, for ``CUDA_VISIBLE_DEVICES`` of a program."""
    time_limit_s: float | None = None
    """Of a program; None: the card's."""
    require_isolation: bool = False
    """Refuse to run a program where the machine cannot keep it from the network."""
    nr_threads_resample: int | None = None
    nr_threads_save: int | None = None
    num_proc_preprocessing: int | None = None
    num_proc_export: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a runtime gives back: verified labels on the grid of the first image, and how they were made."""

    labels: Labels
    image: sitk.Image
    """The first one, whose grid the labels have."""
    device_used: Device
    provider: str
    """Execution provider, or the program's name."""
    versions: dict[str, str] = field(default_factory=dict)
    network: str = "not used"
    in_pieces: bool = False
    program_peak_bytes: int = 0
    """Resident memory of a program and all it started, sampled; 0 without one."""
    remarks: tuple[str, ...] = ()
    """What was asked for and not done, and why."""
