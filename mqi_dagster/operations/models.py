"""The segmentation models of a site: which there are, whether each can be used, and bringing one in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mqi_dagster.errors import ConfigurationError, MqiError, Where
from mqi_dagster.imaging.models.card import PACKAGED_MODELS, FoundModel, Model, ModelCard, filled, find_models
from mqi_dagster.imaging.models.folders import model_folders
from mqi_dagster.imaging.models.program_version import program_version, version_words
from mqi_dagster.imaging.models.running import RunOptions
from mqi_dagster.imaging.models.segment import segment
from mqi_dagster.imaging.models.weights import verify_weights, weights_found
from mqi_dagster.operations.sites import settings_path
from mqi_dagster.processes.worker_counts import available_memory_bytes
from mqi_dagster.settings import read_settings
from mqi_dagster.settings.radiotherapy import Radiotherapy

_MEGABYTE = 1_000_000
BRAIN_MR = "brain_mr"


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model, as people see it."""

    name: str
    version: str
    modality: str
    runtime: str
    regions: int
    used: str
    """Where courses are segmented with it: ``auto``, ``custom``, or nowhere."""
    state: str
    """``ready``, or why it cannot be used."""
    licence: str
    folder: str


@dataclass(frozen=True, slots=True)
class ModelFinding:
    """Something that was looked at in a model."""

    what: str
    passed: bool
    text: str


def site_section(site: Path | None) -> Radiotherapy | None:
    """The section `radiotherapy` of a site's settings; None without a site."""
    return None if site is None else read_settings(settings_path(site)).radiotherapy


def found_models(site: Path | None) -> list[FoundModel]:
    """Every model that a site has, usable or not."""
    section = site_section(site)
    return find_models(model_folders(None if section is None else section.custom_models.root))


def model_rows(site: Path | None) -> list[dict[str, Any]]:
    """One row a model."""
    section = site_section(site) or Radiotherapy.model_validate({})
    return [asdict(_row(one, section)) for one in found_models(site)]


def _row(found: FoundModel, section: Radiotherapy) -> ModelRow:
    card = found.card
    return ModelRow(
        name=found.name,
        version=card.version if card else "",
        modality=card.modality if card else "",
        runtime=card.runtime if card else "",
        regions=len(card.regions) if card else 0,
        used=_use_of(found, section),
        state=_state_of(found),
        licence=card.licence if card else "",
        folder=str(found.folder),
    )


def _state_of(found: FoundModel) -> str:
    how = f": `mqi model install {found.name}`" if found.folder == PACKAGED_MODELS / BRAIN_MR else ""
    return f"{found.reason}{how}" if found.reason else "ready"


def _use_of(found: FoundModel, section: Radiotherapy) -> str:
    if found.name in section.segmentation.models:
        return "auto" if section.segmentation.enabled else ""
    wanted = section.custom_models.models
    if found.folder.parent == PACKAGED_MODELS:
        return ""
    return "custom" if section.custom_models.enabled and (wanted is None or found.name in wanted) else ""


def named(site: Path | None, name: str) -> FoundModel:
    """The model of a name.

    Raises:
        ConfigurationError: There is none.
    """
    models = found_models(site)
    for one in models:
        if one.name == name:
            return one
    known = ", ".join(one.name for one in models) or "none"
    raise ConfigurationError(f"there is no model {name!r}; those that are there: {known}")


def check_model(site: Path | None, name: str) -> list[ModelFinding]:
    """Look at all that a model needs before a course needs it.

    Raises:
        ConfigurationError: There is no such model.
    """
    found = named(site, name)
    if found.card is None:
        return [ModelFinding("card", False, found.reason)]
    return [ModelFinding("card", True, f"version {found.card.version}"), *_findings(found, found.card)]


def _findings(found: FoundModel, card: ModelCard) -> Iterator[ModelFinding]:
    try:
        digests = verify_weights(Model(found.folder, card))
        words = f"{len(digests)} files are those of the card" if digests else "it needs none"
        yield ModelFinding("weights", not found.reason, found.reason or words)
    except MqiError as error:
        yield ModelFinding("weights", False, error.message)
    yield _runtime_of(Model(found.folder, card))
    needed, available = card.memory.ram_mb * _MEGABYTE, available_memory_bytes()
    words = f"{needed / 1e9:.1f} GB needed, {available / 1e9:.1f} GB available now"
    yield ModelFinding("memory", available >= needed, words)


def _runtime_of(model: Model) -> ModelFinding:
    card = model.card
    if card.program is not None:
        what = f"runtime {card.runtime}"
        argv0 = filled([card.program.argv0], {"model": str(model.folder)})[0]
        if shutil.which(argv0) is None:
            words = "is not on PATH: install it, or name its path in the card"
            return ModelFinding(what, False, f"its program {words}")
        try:
            known = version_words(program_version(model)) or "its version is not known"
        except MqiError as error:
            return ModelFinding(what, False, error.message)
        return ModelFinding(what, True, f"its program is there, {known}")
    if card.runtime == "onnx":
        import onnxruntime

        providers = ", ".join(onnxruntime.get_available_providers())
        return ModelFinding("runtime onnx", True, f"onnxruntime {onnxruntime.__version__}: {providers}")
    return ModelFinding(f"runtime {card.runtime}", True, "it is in the product")


def try_model(site: Path | None, name: str, images: Path, out: Path) -> list[dict[str, Any]]:
    """Segment images with a model, as a course would be; the regions that it found.

    Args:
        site: Whose models.
        name: Of the model.
        images: Folder with ``<role>.nii.gz`` for each input of its card.
        out: Folder for the label map and its record; made where it is missing.

    Raises:
        MqiError: The model, its weights or the images are not what they have to be, or it failed.
    """
    found = named(site, name)
    if found.card is None or found.reason:
        raise ConfigurationError(f"cannot be used: {found.reason}", where=Where(kind=f"model {name}"))
    out.mkdir(parents=True, exist_ok=True)
    options = RunOptions(threads=os.cpu_count() or 1)
    record = segment(Model(found.folder, found.card), images, out, options)
    return [asdict(region) for region in record.regions]


def install_model(site: Path | None, name: str, wheel: Path | None, torch: str | None) -> Model:
    """Bring in a model that the product knows how to make: `brain_mr`.

    Args:
        site: Whose models it joins; None: those of the user.
        name: Of the model.
        wheel: Of deepbet, as a file, for a machine without a package index.
        torch: What pip is asked for in place of torch's build for processors.

    Raises:
        ConfigurationError: Nobody knows how to make it.
        MqiError: It cannot be made.
    """
    if name != BRAIN_MR:
        raise ConfigurationError(
            f"only {BRAIN_MR} is installed by this command; any other model joins as a folder with a"
            " card (docs/models.md)"
        )
    # onnxruntime takes half a second to load.
    from mqi_dagster.imaging.models import brain_mr

    section = site_section(site)
    root = model_folders()[-1] if section is None else section.custom_models.root
    return brain_mr.install_brain_mr(root, wheel=wheel, torch=torch or brain_mr.TORCH)


def weights_lines(folder: Path) -> list[dict[str, str]]:
    """What the card of a new model folder has to say of its weights.

    Raises:
        ConfigurationError: The folder cannot be read.
    """
    try:
        return [{"file": one.file, "sha256": one.sha256} for one in weights_found(folder)]
    except OSError as error:
        raise ConfigurationError(f"the folder cannot be read: {error.strerror}") from None
