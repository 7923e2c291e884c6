"""TotalSegmentator and nnU-Net v2 as commands: local weights, no telemetry.

Both are installed by the site, in an environment of their own. Options keep the names that people know:
``nr_threads_resample`` and ``nr_threads_save`` are TotalSegmentator's, ``num_proc_preprocessing`` and
``num_proc_export`` nnU-Net's; what is set for the other one is said in the record.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from mqi_dagster.imaging.models.card import Model, NnunetRuntime
from mqi_dagster.imaging.models.command_model import Prepared, run_program
from mqi_dagster.imaging.models.label_map import IMAGE_SUFFIX, LABEL_MAP, read_image
from mqi_dagster.imaging.models.model_errors import ModelCardError
from mqi_dagster.imaging.models.running import Outcome, RunOptions

_CASE = "case"
_LARGEST_JSON = 5_000_000
_MODE_SPACING_MM = {"normal": 1.5, "fast": 3.0, "fastest": 6.0}
_FEWEST_PLANES_TO_SPLIT = 60
"""TotalSegmentator's three pieces overlap by 20 planes of its own spacing: fewer make it fail."""


def run_totalsegmentator(model: Model, images: Mapping[str, Path], options: RunOptions) -> Outcome:
    """Segment with TotalSegmentator; errors as of :func:`command_model.run_command`."""
    return run_program(model, images, options, _totalsegmentator)


def _totalsegmentator(
    model: Model, images: Mapping[str, Path], scratch: Path, options: RunOptions
) -> Prepared:
    runtime = model.card.totalsegmentator
    if runtime is None or len(images) != 1:
        raise ModelCardError("TotalSegmentator takes one image", where=model.where)
    (role, image), output = next(iter(images.items())), scratch / LABEL_MAP
    argv = [runtime.program, "-i", str(image), "-o", str(output), "--ml", "--task", runtime.task]
    argv += ["--device", options.device]
    argv += ["--nr_thr_resamp", str(options.nr_threads_resample or options.threads)]
    argv += ["--nr_thr_saving", str(options.nr_threads_save or options.threads)]
    if runtime.mode != "normal":
        argv.append(f"--{runtime.mode}")
    remarks = _not_used(options, "num_proc_preprocessing", "num_proc_export")
    split = runtime.force_split or options.in_pieces
    extent = read_image(image, role)
    length = extent.GetSize()[2] * extent.GetSpacing()[2]
    if split and length < _FEWEST_PLANES_TO_SPLIT * _MODE_SPACING_MM[runtime.mode]:
        split = False
        remarks.append(f"--force_split was asked for, and {length:.0f} mm are too short for its three pieces")
    if split:
        argv.append("--force_split")
    if runtime.roi_subset:
        argv += ["--roi_subset", *runtime.roi_subset]
    home = scratch / "totalsegmentator"
    home.mkdir()
    settings = {"totalseg_id": "none", "send_usage_stats": False, "statistics_disclaimer_shown": True}
    (home / "config.json").write_text(json.dumps({**settings, "prediction_counter": 0}), encoding="utf-8")
    weights = scratch / "weights"
    weights.mkdir()
    # Links to what the card names: TotalSegmentator removes data sets that it thinks are old.
    for number in runtime.datasets:
        for dataset in (model.folder / runtime.weights_folder).glob(f"Dataset{number:03d}_*"):
            (weights / dataset.name).symlink_to(dataset.resolve())
    environment = {"TOTALSEG_HOME_DIR": str(home), "TOTALSEG_WEIGHTS_PATH": str(weights)}
    return Prepared(argv, output, environment, in_pieces=split, remarks=tuple(remarks))


def run_nnunet(model: Model, images: Mapping[str, Path], options: RunOptions) -> Outcome:
    """Segment with a folder that nnU-Net v2 has trained; errors as of :func:`command_model.run_command`."""
    return run_program(model, images, options, _nnunet)


def _require_trained(model: Model, runtime: NnunetRuntime) -> None:
    """Prove that what nnU-Net has trained is for the inputs and regions of the card.

    Raises:
        ModelCardError: A file is missing, or the data set has other inputs or labels than the card.
    """
    folder = model.folder / runtime.trained_folder
    if missing := [name for name in ("dataset.json", "plans.json") if not (folder / name).is_file()]:
        raise ModelCardError(f"its trained folder has no {missing[0]}", where=model.where)
    try:
        with (folder / "dataset.json").open("rb") as stream:
            dataset = json.loads(stream.read(_LARGEST_JSON))
        channels = len(dataset["channel_names"])
        labels = {number for number in dataset["labels"].values() if number != 0}
        ending = dataset["file_ending"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ModelCardError("its dataset.json is not one of nnU-Net v2", where=model.where) from None
    if channels != len(model.card.inputs):
        raise ModelCardError(
            f"nnU-Net was trained with {channels} inputs, the card names {len(model.card.inputs)}",
            where=model.where,
        )
    if not labels or not labels <= model.card.labels:
        raise ModelCardError("nnU-Net was trained with labels that the card does not name", where=model.where)
    if ending != IMAGE_SUFFIX:
        raise ModelCardError(
            f"nnU-Net was trained with another format than {IMAGE_SUFFIX}", where=model.where
        )


def _nnunet(model: Model, images: Mapping[str, Path], scratch: Path, options: RunOptions) -> Prepared:
    runtime = model.card.nnunet
    if runtime is None:
        raise ModelCardError("its runtime is not nnunet", where=model.where)
    _require_trained(model, runtime)
    inputs, outputs = scratch / "channels", scratch / "predicted"
    inputs.mkdir()
    outputs.mkdir()
    for number, image in enumerate(images.values()):
        shutil.copyfile(image, inputs / f"{_CASE}_{number:04d}{IMAGE_SUFFIX}")
    argv = [runtime.program, "-i", str(inputs), "-o", str(outputs)]
    argv += ["-m", str((model.folder / runtime.trained_folder).absolute())]
    argv += ["-f", *(str(fold) for fold in runtime.folds), "-chk", runtime.checkpoint]
    argv += ["-step_size", f"{runtime.step_size:g}", "--disable_progress_bar"]
    argv += ["-device", "cuda" if options.device == "gpu" else options.device]
    argv += ["-npp", str(options.num_proc_preprocessing or 1), "-nps", str(options.num_proc_export or 1)]
    if not runtime.mirroring:
        argv.append("--disable_tta")
    if options.in_pieces:
        argv.append("--not_on_device")
    folders = dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), str(scratch))
    return Prepared(
        argv,
        outputs / f"{_CASE}{IMAGE_SUFFIX}",
        {**folders, "nnUNet_compile": "f"},
        in_pieces=options.in_pieces,
        remarks=tuple(_not_used(options, "nr_threads_resample", "nr_threads_save")),
    )


def _not_used(options: RunOptions, *names: str) -> list[str]:
    return [f"{name} is set, and this program has no such option" for name in names if getattr(options, name)]
