"""Segmentation behind one contract: whatever the runtime, the same files go in and come out.

In: one NIfTI image for each role of the card, named by it. Out: ``segmentation.nii.gz``, a label map on the
grid of the first image, and ``segmentation.json``, the record of how it was made.
"""

from __future__ import annotations

import json
import re
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses

from mqi_dagster.errors import InfrastructureError, MqiError
from mqi_dagster.files import write_whole
from mqi_dagster.imaging.models.card import Device, Model, Runtime
from mqi_dagster.imaging.models.command_model import run_command
from mqi_dagster.imaging.models.label_map import (
    LABEL_MAP,
    RegionVolume,
    input_files,
    region_volumes,
    voxel_mm3,
    write_label_map,
)
from mqi_dagster.imaging.models.model_errors import ModelError
from mqi_dagster.imaging.models.prepared_commands import run_nnunet, run_totalsegmentator
from mqi_dagster.imaging.models.program_version import program_version
from mqi_dagster.imaging.models.running import Outcome, RunOptions
from mqi_dagster.imaging.models.weights import verify_weights

RECORD = "segmentation.json"
_UNKNOWN_VERSION = "nobody knows the version of its program: the card's stands for it"
_OUT_OF_MEMORY = re.compile(r"itk::MemoryAllocationError|std::bad_alloc|Failed to allocate memory for image")


@dataclass(frozen=True, slots=True)
class SegmentationRecord:
    """How a segmentation was made; plain values, ready for JSON."""

    model: str
    version: str
    runtime: Runtime
    licence: str
    card_sha256: str
    """Of what the card says that a result depends on."""
    weights_sha256: dict[str, str]
    device_asked: Device
    device_used: Device
    provider: str
    versions: dict[str, str]
    program: dict[str, str]
    """What is known of the version of its program; see `program_version`."""
    threads: int
    network: str
    in_pieces: bool
    seconds: float
    peak_memory_bytes: int
    """Resident, of the program and all it started, or of this process since it began."""
    regions: tuple[RegionVolume, ...]
    remarks: tuple[str, ...]
    """What was asked for and not done, and why."""

    def to_json(self) -> str:
        """The record as JSON."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False)


def segment(
    model: Model, folder_in: Path, folder_out: Path, options: RunOptions | None = None
) -> SegmentationRecord:
    """Segment one set of images with one model.

    Args:
        model: The card and its folder.
        folder_in: The image of each role, ``<role>.nii.gz``.
        folder_out: Exists; is given the label map and the record, each whole or not at all.
        options: Device, threads, limits; by default one thread of the processor.

    Raises:
        ModelInputError: The images are not what the card asks for.
        ModelCardError: The card, its program or its weights are not what they have to be.
        UnsafeModelError: The weights are others than the card names, or could run code here.
        ModelError: The model failed, or its result is not valid.
        MemoryError: This process has not enough memory for it.
        InfrastructureError: The disk or the machine failed.
    """
    options = options or RunOptions()
    start = time.monotonic()
    try:
        digests = verify_weights(model)
        images = input_files(model.card, folder_in)
        program = program_version(model)
        outcome = _run(model, images, options)
        write_label_map(outcome.labels, outcome.image, folder_out / LABEL_MAP)
        record = _record(model, digests, program, outcome, options, time.monotonic() - start)
        write_whole(folder_out / RECORD, record.to_json().encode(), 0o644)
    except MqiError as error:
        raise error.at(model.where) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        # Its number tells a full disk from others; its text would name a file.
        number = OSError(error.errno, reason)
        raise InfrastructureError(f"files of a model cannot be used: {reason}", where=model.where) from number
    return record


def _run(model: Model, images: dict[str, Path], options: RunOptions) -> Outcome:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(options.threads)
    try:
        return _runtime(model, images, options)
    except RuntimeError as error:
        # SimpleITK has this one type for everything, with the name of the real one in its text.
        if _OUT_OF_MEMORY.search(str(error)):
            raise MemoryError("SimpleITK has not enough memory") from None
        raise ModelError("SimpleITK cannot work on its images", log=str(error)) from None


def _runtime(model: Model, images: dict[str, Path], options: RunOptions) -> Outcome:
    # Of the runtimes only the one that is used: onnxruntime and scipy take half a second each to load.
    match model.card.runtime:
        case "onnx":
            from mqi_dagster.imaging.models.onnx_model import run_onnx

            return run_onnx(model, images, options)
        case "rules":
            from mqi_dagster.imaging.models.rules_model import run_rules

            return run_rules(model, images, options)
        case "command":
            return run_command(model, images, options)
        case "totalsegmentator":
            return run_totalsegmentator(model, images, options)
        case "nnunet":
            return run_nnunet(model, images, options)


def _record(
    model: Model,
    digests: dict[str, str],
    program: dict[str, str],
    outcome: Outcome,
    options: RunOptions,
    seconds: float,
) -> SegmentationRecord:
    unknown = [_UNKNOWN_VERSION] if model.card.program and not program else []
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return SegmentationRecord(
        model=model.card.name,
        version=model.card.version,
        runtime=model.card.runtime,
        licence=model.card.licence,
        card_sha256=model.card.digest(),
        weights_sha256=digests,
        device_asked=options.device,
        device_used=outcome.device_used,
        provider=outcome.provider,
        versions=outcome.versions,
        program=program,
        threads=(model.card.onnx.threads if model.card.onnx else None) or options.threads,
        network=outcome.network,
        in_pieces=outcome.in_pieces,
        seconds=round(seconds, 3),
        peak_memory_bytes=outcome.program_peak_bytes or own,
        regions=region_volumes(model.card, outcome.labels, voxel_mm3(outcome.image)),
        remarks=(*outcome.remarks, *unknown),
    )
