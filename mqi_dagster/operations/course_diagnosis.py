"""What `mqi doctor` looks at for courses and segmentation on request: sources, models, GPU and memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import metadata
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from packaging.requirements import Requirement

from mqi_dagster.compute.course_models import automatic_models, custom_models
from mqi_dagster.dicom.orthanc import Orthanc
from mqi_dagster.errors import MqiError
from mqi_dagster.execution.gpus import local_gpus
from mqi_dagster.execution.processes import resolve_program
from mqi_dagster.imaging.models.card import FoundModel, Model, ModelCard, Program, filled
from mqi_dagster.imaging.models.isolation import isolation
from mqi_dagster.imaging.models.program_version import program_version, version_words
from mqi_dagster.imaging.models.weights import verify_weights
from mqi_dagster.lifecycle.image_set import asked_models
from mqi_dagster.operations.probes import ProbeFinding, fault, finding, ok, warning
from mqi_dagster.processes.worker_counts import available_memory_bytes, courses_at_once
from mqi_dagster.resources.dicom_source import read_record
from mqi_dagster.resources.site import Site
from mqi_dagster.resources.site_folders import tree_trouble
from mqi_dagster.settings import LOCAL, Settings
from mqi_dagster.settings.radiotherapy import ModelDevice

_EXTRA = "imaging"
_LITTLE_MEMORY_BYTES = 2 * 1000**3
"""A CT of 300 slices, its masks and its dose take about this."""


def examine_courses(site: Site) -> Iterator[ProbeFinding]:
    """Everything that the radiotherapy pipeline needs; one line where the settings name no tree."""
    settings = site.settings
    root = settings.radiotherapy.dicom_root
    if root is None:
        yield ok("courses", "not set up: radiotherapy.dicom_root names no tree of DICOM files")
        return
    yield finding("DICOM tree", "mount it, or correct radiotherapy.dicom_root", lambda: _tree(site, root))
    if settings.radiotherapy.orthanc is not None:
        source = settings.radiotherapy.orthanc
        advice = "start it, or correct radiotherapy.orthanc"
        yield finding("Orthanc", advice, lambda: f"version {Orthanc(source).version()} answers")
    yield from _extra()
    models = [*automatic_models(settings), *custom_models(settings)]
    for model in models:
        yield _model(model)
    usable = [one.card for one in models if one.card is not None and not one.reason]
    if settings.radiotherapy.segmentation.host == LOCAL:
        yield from _isolation(settings, usable)
        yield from _device(settings, usable)
        yield _memory(settings, usable)


def examine_on_request(site: Site) -> Iterator[ProbeFinding]:
    """Everything that segmentation on request needs; one line where the settings name no PACS."""
    if not site.settings.on_request.has_pacs:
        yield ok("PACS", "not set up: on_request.orthanc and on_request.dicomweb name none")
        return
    advice = "start it, or correct on_request.orthanc or on_request.dicomweb"
    yield finding("PACS", advice, lambda: f"{site.pacs.version()} answers")
    yield from _extra()
    usable = [one for one in asked_models(site) if not one.reason]
    if not usable:
        yield fault("models on request", "none of on_request.models can be used", "mqi model list")
    for model in usable if site.settings.on_request.host == LOCAL else ():
        yield _model(model)


def _tree(site: Site, root: Path) -> str:
    if not root.is_dir():
        raise MqiError(f"{root} is not there")
    if not os.access(root, os.R_OK | os.X_OK):
        raise MqiError(f"{root} is not readable")
    if why := tree_trouble(site):
        raise MqiError(f"{root}: {why}")
    record = read_record(site.settings.paths.state)
    if record is None:
        return f"{root} is readable, not looked at yet"
    if record.tree is not None:
        raise MqiError(f"since {record.tree.since:%Y-%m-%d %H:%M} UTC: {record.tree.text}")
    if record.ended_at is None:
        return f"{root} is readable and being looked at: {record.words}"
    return f"{root} is readable, {record.files:,} files at {record.ended_at:%Y-%m-%d %H:%M} UTC"


def _extra() -> Iterator[ProbeFinding]:
    """The packages of the extra, each in a version that is good enough; one line where all are."""
    count = 0
    for text in metadata.requires("mqi-dagster") or []:
        wanted = Requirement(text)
        marker = wanted.marker
        if marker is None or marker.evaluate({"extra": ""}) or not marker.evaluate({"extra": _EXTRA}):
            continue
        count += 1
        try:
            version = metadata.version(wanted.name)
        except PackageNotFoundError:
            yield fault(
                wanted.name, f"not installed; courses need the extra {_EXTRA}", "make install-imaging"
            )
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            yield fault(wanted.name, f"{version}, not {wanted.specifier}", "make install-imaging")
    if count == 0:
        yield fault(f"extra {_EXTRA}", "this installation names no such packages", "install it anew")
    else:
        yield ok(f"extra {_EXTRA}", f"{count} packages are asked for")


def _model(found: FoundModel) -> ProbeFinding:
    subject, card = f"model {found.name}", found.card
    if found.reason or card is None:
        return fault(subject, found.reason, "mqi model list; mqi model install")

    def probe() -> str:
        files = verify_weights(Model(found.folder, card))
        weights = f"{len(files)} files of weights as the card says" if files else "no weights"
        there = "" if card.program is None else f", {_program(Model(found.folder, card), card.program)}"
        return f"version {card.version}, {card.runtime}, {weights}{there}"

    return finding(subject, "mqi model install, or install its program where PATH finds it", probe)


def _program(model: Model, program: Program) -> str:
    """The program that a model starts, and what is known of its version."""
    name = resolve_program(filled([program.argv0], {"model": str(model.folder)})[0]).name
    known = program_version(model)
    return f"{name} found, " + (version_words(known) or "its version is not known")


def _isolation(settings: Settings, cards: list[ModelCard]) -> Iterator[ProbeFinding]:
    """Whether the network can be taken from the programs of models, where there are any."""
    if all(card.program is None for card in cards):
        return
    subject, (isolated, words) = "model isolation", isolation()
    if isolated:
        yield ok(subject, f"network: {words}")
        return
    advice = "permit user namespaces to this account, or keep the machine itself from the network"
    lacking = fault if settings.radiotherapy.segmentation.require_isolation else warning
    yield lacking(subject, f"network {words}", advice)


def _device(settings: Settings, cards: list[ModelCard]) -> Iterator[ProbeFinding]:
    """Whether there is what the models are to begin on, as their runtimes see it."""
    wanted = settings.radiotherapy.segmentation
    networks = any(card.runtime == "onnx" for card in cards)
    programs = any(card.program is not None for card in cards)
    if wanted.device is ModelDevice.CPU or not (networks or programs):
        yield ok("model device", "cpu" if wanted.device is ModelDevice.CPU else "no model needs a GPU")
        return
    lacking = warning if wanted.allow_fallback else fault
    advice = "install driver and runtime for it, or radiotherapy.segmentation.device: cpu"
    if networks:
        providers = _onnx_providers()
        if wanted.device is ModelDevice.GPU and "CUDAExecutionProvider" in providers:
            yield ok("CUDA of onnxruntime", ", ".join(providers))
        else:
            yield lacking("CUDA of onnxruntime", f"it offers {', '.join(providers) or 'nothing'}", advice)
    if programs and wanted.device is ModelDevice.GPU:
        gpus = local_gpus()
        if gpus:
            yield ok("GPU of models", ", ".join(f"{gpu.index}: {gpu.name}" for gpu in gpus))
        else:
            yield lacking("GPU of models", "none seen by NVML", advice)


def _onnx_providers() -> list[str]:
    try:
        import onnxruntime
    except ImportError:
        # The finding of the extra says that it is missing.
        return []
    return list(onnxruntime.get_available_providers())


def _memory(settings: Settings, cards: list[ModelCard]) -> ProbeFinding:
    workers, available = courses_at_once(settings.radiotherapy), available_memory_bytes()
    each = available // workers
    words = f"{available / 1e9:.1f} GB for {workers} courses at once"
    needed = {card.name: card.memory.ram_mb * 1_000_000 for card in cards}
    largest = max(needed, key=lambda name: needed[name], default="")
    if largest and needed[largest] > available:
        found = f"{words}; model {largest} needs {needed[largest] / 1e9:.1f} GB"
        return fault("memory", found, "more memory, or leave the model out")
    if each < max(_LITTLE_MEMORY_BYTES, needed.get(largest, 0)):
        return warning("memory", words, "radiotherapy.workers: fewer; what is starved is repeated with fewer")
    return ok("memory", words)
