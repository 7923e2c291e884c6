"""The model card: what a segmentation model is, what it is given, what it finds, and how it runs.

A folder with a ``model.yaml`` is a model; nothing else about it is code of ours. What a card says is what is
asked of the model: an unknown key is an error, and a region without a label finds no voxels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from mqi_dagster.errors import ConfigurationError, MqiError, Where
from mqi_dagster.imaging.models.model_errors import ModelCardError, UnsafeModelError
from mqi_dagster.settings.section import VARIABLE_NAME, VARIABLE_VALUE, Count, Seconds, Section
from mqi_dagster.store.digests import digest_of
from mqi_dagster.yaml_file import problems, read_yaml

CARD = "model.yaml"
PACKAGED_MODELS = Path(__file__).parents[2] / "config" / "models"
"""The models of the product; their weights, where they need any, are installed elsewhere."""

_FILE = r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,199}"
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
RelativePath = Annotated[str, Field(pattern=rf"^{_FILE}(/{_FILE}){{0,9}}$")]
Label = Annotated[int, Field(ge=1, le=65535)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Millimetres = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Triple = tuple[Count, Count, Count]

Device = Literal["gpu", "cpu", "mps"]
Plane = Literal["axial", "coronal", "sagittal"]
Runtime = Literal["onnx", "command", "totalsegmentator", "nnunet", "rules"]
OUR_ENVIRONMENT: frozenset[Runtime] = frozenset({"onnx", "rules"})
"""The runtimes that share a process with the platform; the others have an environment of their own."""


class Code(Section):
    """A code as DICOM writes it, such as ``12738006, SCT, Brain``."""

    value: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    meaning: str = Field(min_length=1, max_length=64)
    scheme: Literal["SCT", "DCM"] = "SCT"


_ANATOMICAL_STRUCTURE = Code(value="91723000", meaning="Anatomical Structure")


class ModelInput(Section):
    """One image that the model is given; they are told apart by their roles, never by their order."""

    role: Name
    description: str = ""
    series: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Regular expression that the whole Series Description has to match, letter case aside.",
    )
    contrast: bool | None = Field(
        default=None, description="Whether the images have to name a contrast agent, or must name none."
    )
    plane: Plane | None = Field(default=None, description="Of the patient, that the images lie nearest to.")
    spacing_mm: tuple[Millimetres, Millimetres] | None = Field(
        default=None, description="Between which the spacing of voxels has to be, along every axis."
    )

    @field_validator("series")
    @classmethod
    def _expression(cls, text: str | None) -> str | None:
        try:
            re.compile(text or "")
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return text


class Region(Section):
    """One structure that the model finds."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_ .+~^-]{0,63}$")
    tg263: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_+~^!-]{1,16}$",
        description="Its name in TG-263, where it has one.",
    )
    code: Code
    category: Code = Field(default=_ANATOMICAL_STRUCTURE, description="Segmented Property Category.")
    laterality: Literal["left", "right", "both"] | None = None
    label: Label
    includes: tuple[Label, ...] = Field(
        default=(), description="Labels of other regions whose voxels are its voxels, too."
    )
    volume_cm3: tuple[Finite, Finite] = Field(description="Between which volumes it is plausible.")
    pieces: Count | None = Field(
        default=None, description="In how many connected pieces it is plausible, at most."
    )

    @field_validator("volume_cm3")
    @classmethod
    def _rising(cls, limits: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= limits[0] < limits[1]:
            raise ValueError("must be two volumes, the smaller first")
        return limits

    @property
    def labels(self) -> tuple[int, ...]:
        """Every label of the map that belongs to it."""
        return (self.label, *self.includes)


class Weights(Section):
    """One file of weights."""

    file: RelativePath
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Memory(Section):
    """What one run needs."""

    ram_mb: Count
    gpu_mb: int = Field(default=0, ge=0)


class Clip(Section):
    """The values that an image is cut to: fixed ones, or percentiles of the whole image."""

    values: tuple[Finite, Finite] | None = None
    percentiles: tuple[Finite, Finite] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.values is None) == (self.percentiles is None):
            raise ValueError("needs either values or percentiles")
        low, high = self.values or self.percentiles or (0, 0)
        if low >= high or (self.percentiles and not (low >= 0 and high <= 100)):
            raise ValueError("needs two limits, the lower first")
        return self


class Standardise(Section):
    """Mean and standard deviation that an image is brought to zero and one with."""

    mean: Finite
    std: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Intensity(Section):
    """What is done to the values of an image, in this order, before the network sees them."""

    clip: Clip | None = None
    rescale: bool = Field(default=False, description="The limits of the clip become 0 and 1.")
    standardise: Literal["whole", "nonzero"] | Standardise | None = Field(
        default=None,
        description="By the image on the network's grid, by its voxels that are not 0, or fixed.",
    )
    multiply: Finite = 1.0
    add: Finite = 0.0

    @model_validator(mode="after")
    def _limits(self) -> Self:
        if self.rescale and self.clip is None:
            raise ValueError("rescale needs a clip")
        return self


class Network(Section):
    """One network: the grid it sees, the values on it, and what its channels mean. Triples are x, y, z."""

    weights: RelativePath
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] | None = None
    shape: Triple | None = Field(default=None, description="The whole field is stretched to this grid.")
    interpolation: Literal["linear", "nearest"] = "linear"
    intensity: tuple[Intensity, ...] = Field(
        default=(Intensity(),), min_length=1, description="One for each input, or one for all."
    )
    patch: Triple | None = Field(default=None, description="Window that slides; absent: all at once.")
    overlap: Fraction = 0.5
    activation: Literal["none", "softmax", "sigmoid"] = "none"
    labels: tuple[Annotated[int, Field(ge=0, le=65535)], ...] = Field(
        min_length=1, max_length=1000, description="Label of each channel of the output; 0 is background."
    )
    threshold: Finite | None = Field(
        default=None,
        description="The greatest channel above it decides, background aside; absent: the greatest of all.",
    )
    back: Literal["linear", "nearest"] = Field(
        default="linear", description="Probabilities come back to the image linearly, or labels by nearest."
    )

    @model_validator(mode="after")
    def _one_grid(self) -> Self:
        if (self.spacing_mm is None) == (self.shape is None):
            raise ValueError("needs either spacing_mm or shape")
        wanted = [label for label in self.labels if label]
        if not wanted or len(set(wanted)) != len(wanted):
            raise ValueError("labels must name at least one region, and each once")
        if self.threshold is None and 0 not in self.labels:
            raise ValueError("a network without a background channel needs a threshold")
        return self


class Locate(Section):
    """A first network that finds where to look: the box of its largest finding, wider by a margin."""

    network: Network
    margin: float = Field(default=0.1, ge=0, le=2, description="Part of the box added on each side.")


class OnnxRuntime(Section):
    """A network in ONNX, run in our own environment."""

    orientation: str = Field(
        default="RAS", description="Where x, y and z of the network grow to: Right or Left, and so on."
    )
    axes: Literal["xyz", "zyx"] = Field(default="xyz", description="Order of the axes of its tensors.")
    locate: Locate | None = None
    network: Network
    threads: Count | None = Field(default=None, description="On the processor; absent: what the caller says.")
    largest_component: bool = Field(
        default=False, description="Of each region, only the largest piece stays."
    )
    fill_holes: bool = Field(default=False, description="Holes within a region become part of it.")

    @field_validator("orientation")
    @classmethod
    def _three_axes(cls, text: str) -> str:
        if len(text) != 3 or any(len(set(text) & set(pair)) != 1 for pair in ("RL", "AP", "SI")):
            raise ValueError("must be three letters, one each of R or L, A or P, S or I")
        return text

    @property
    def networks(self) -> tuple[Network, ...]:
        """Each network, in the order they run."""
        return (self.locate.network, self.network) if self.locate else (self.network,)


def _own_words() -> dict[Device, str]:
    return {"gpu": "gpu", "cpu": "cpu", "mps": "mps"}


class Program(Section):
    """A program in an environment of its own."""

    time_limit_s: Seconds = 3600.0
    environment: dict[
        Annotated[str, Field(pattern=rf"^{VARIABLE_NAME}$")],
        Annotated[str, Field(pattern=rf"^{VARIABLE_VALUE}$")],
    ] = Field(default_factory=dict, description="Variables besides the few that every model gets.")
    version_command: tuple[Annotated[str, Field(min_length=1, max_length=2000)], ...] | None = Field(
        default=None,
        min_length=1,
        max_length=50,
        description="Prints the program's version as its first line; {model} is the model's folder.",
    )

    @property
    def argv0(self) -> str:
        """The program, as the card names it."""
        raise NotImplementedError


class CommandRuntime(Program):
    """Any program: files in, a NIfTI label map out."""

    argv: tuple[Annotated[str, Field(min_length=1, max_length=2000)], ...] = Field(
        min_length=1,
        max_length=200,
        description="{input:ROLE} and {output} are NIfTI files, {inputs}, {model} and {scratch} folders;"
        " {device} and {threads} are words. No shell reads it.",
    )
    in_pieces: tuple[str, ...] = Field(default=(), description="Arguments that make it need less memory.")
    device_words: dict[Device, Annotated[str, Field(min_length=1, max_length=50)]] = Field(
        default_factory=_own_words,
        description="What its {device} is called; a device without a word is one that it cannot use.",
    )

    @property
    def argv0(self) -> str:
        """The first of its words."""
        return self.argv[0]


class TotalSegmentatorRuntime(Program):
    """The program TotalSegmentator with one of its tasks, weights from a local folder."""

    program: str = Field(default="TotalSegmentator", min_length=1)
    task: Name
    mode: Literal["normal", "fast", "fastest"] = "normal"
    force_split: bool = False
    roi_subset: tuple[Name, ...] = Field(default=(), description="Its own names of the classes wanted.")
    weights_folder: RelativePath = Field(default="weights", description="With the folders Dataset<NNN>_….")
    datasets: tuple[Annotated[int, Field(ge=1, le=999)], ...] = Field(
        min_length=1, description="Numbers of the data sets that the task loads, for cropping, too."
    )

    @property
    def argv0(self) -> str:
        """TotalSegmentator."""
        return self.program


class NnunetRuntime(Program):
    """nnU-Net v2 with a folder that it has trained."""

    program: str = Field(default="nnUNetv2_predict_from_modelfolder", min_length=1)
    trained_folder: RelativePath = Field(
        default="weights", description="With dataset.json, plans.json and the folds."
    )
    folds: tuple[Annotated[int, Field(ge=0, le=99)] | Literal["all"], ...] = Field(default=(0,), min_length=1)
    checkpoint: RelativePath = "checkpoint_final.pth"
    step_size: float = Field(default=0.5, gt=0, le=1)
    mirroring: bool = Field(default=True, description="Test-time augmentation.")

    @property
    def argv0(self) -> str:
        """nnU-Net's command."""
        return self.program

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """The file of each fold, relative to the model's folder."""
        return tuple(f"{self.trained_folder}/fold_{fold}/{self.checkpoint}" for fold in self.folds)


class RulesRuntime(Section):
    """Thresholds and morphology on a CT: rules, and nothing more. Regions are known by their names."""

    external_hu: Finite = Field(default=-300.0, description="The body is above it.")
    bone_hu: Finite = Field(default=200.0, description="Bone is above it, within the body.")
    air_hu: Finite = Field(default=-400.0, description="Lung and air are below it, within the body.")
    lung_hu: Finite = Field(default=-950.0, description="Lung is above it, air in the airways below.")
    cut_lung_hu: Finite = Field(
        default=-900.0, description="What the edge of the image cuts is lung where its median is above it."
    )
    couch_hu: Finite = Field(default=-700.0, description="What is above it outside the body is the couch.")
    opening_mm: Millimetres = Field(default=4.0, description="A bridge thinner than twice this is cut.")
    closing_mm: Millimetres = Field(default=6.0, description="A vessel in a lung up to twice this is lung.")
    smallest_lung_cm3: float = Field(default=80.0, ge=0)
    smallest_bone_cm3: float = Field(default=0.5, ge=0)
    smallest_air_cm3: float = Field(default=0.2, ge=0)
    smallest_couch_cm3: float = Field(default=20.0, ge=0)


class ModelCard(Section):
    """What ``model.yaml`` says."""

    name: Name
    version: str = Field(min_length=1, max_length=64)
    summary: str = Field(min_length=1)
    modality: Literal["CT", "MR", "PT"]
    inputs: tuple[ModelInput, ...] = Field(
        min_length=1, max_length=32, description="The result lies on the grid of the first."
    )
    regions: tuple[Region, ...] = Field(min_length=1, max_length=1000)
    may_find_nothing: bool = Field(default=False, description="An empty result is an answer, not a fault.")
    runtime: Runtime
    onnx: OnnxRuntime | None = None
    command: CommandRuntime | None = None
    totalsegmentator: TotalSegmentatorRuntime | None = None
    nnunet: NnunetRuntime | None = None
    rules: RulesRuntime | None = None
    weights: tuple[Weights, ...] = ()
    licence: str = Field(min_length=1)
    memory: Memory
    limits: tuple[str, ...] = Field(min_length=1, description="What it is not valid for.")
    network: bool = False

    @model_validator(mode="after")
    def _one_runtime(self) -> Self:
        sections = (self.onnx, self.command, self.totalsegmentator, self.nnunet, self.rules)
        if getattr(self, self.runtime) is None or sum(one is not None for one in sections) != 1:
            raise ValueError(
                f"the runtime is {self.runtime}, so the section {self.runtime} alone must be there"
            )
        return self

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for what, values in (
            ("role", [one.role for one in self.inputs]),
            ("region", [one.name for one in self.regions]),
            ("label", [one.label for one in self.regions]),
            ("file of weights", [one.file for one in self.weights]),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"a {what} stands there twice")
        known = self.labels
        if any(label not in known for region in self.regions for label in region.includes):
            raise ValueError("a region includes a label that no region has")
        return self

    @model_validator(mode="after")
    def _onnx_fits(self) -> Self:
        files = {one.file for one in self.weights}
        for network in self.onnx.networks if self.onnx else ():
            if network.weights not in files:
                raise ValueError("onnx: its weights are not among the files of weights")
            if len(network.intensity) not in (1, len(self.inputs)):
                raise ValueError("onnx: intensity must be one for all inputs, or one for each")
        if self.onnx and not set(self.onnx.network.labels) <= {0, *self.labels}:
            raise ValueError("onnx: a channel has a label that no region has")
        return self

    @model_validator(mode="after")
    def _every_checkpoint_named(self) -> Self:
        files = [one.file for one in self.weights]
        wanted = []
        if self.totalsegmentator:
            folder = self.totalsegmentator.weights_folder
            wanted = [f"{folder}/Dataset{number:03d}_" for number in self.totalsegmentator.datasets]
        if self.nnunet:
            wanted = list(self.nnunet.checkpoints)
        if missing := [start for start in wanted if not any(file.startswith(start) for file in files)]:
            raise ValueError(f"weights must name {', '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _rules_known(self) -> Self:
        unknown = {one.name for one in self.regions} - set(RULED_REGIONS)
        if self.rules and (unknown or self.modality != "CT" or len(self.inputs) != 1 or self.weights):
            raise ValueError(
                f"rules: they are for one CT, without weights, and find {', '.join(RULED_REGIONS)} alone"
            )
        return self

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        asking = () if self.program is None else self.program.version_command or ()
        if any(set(word.replace("{model}", "")) & set("{}\0") for word in asking):
            raise ValueError(f"{self.runtime}: version_command knows no placeholder but {{model}}")
        if self.command is None:
            return self
        roles = {f"input:{one.role}" for one in self.inputs}
        known = {"inputs", "output", "model", "scratch", "device", "threads", *roles}
        words = [*self.command.argv, *self.command.in_pieces]
        used = {name for word in words for name in _PLACEHOLDER.findall(word)}
        if unknown := sorted(used - known):
            raise ValueError(f"command: there is no placeholder {{{unknown[0]}}}")
        if any(set(_PLACEHOLDER.sub("", word)) & set("{}\0") for word in words):
            raise ValueError("command: a brace is not part of a placeholder")
        if "output" not in used or not ("inputs" in used or roles <= used):
            raise ValueError("command: argv must name {output}, and {inputs} or each {input:ROLE}")
        return self

    @property
    def labels(self) -> frozenset[int]:
        """Every label that its map may hold besides 0."""
        return frozenset(region.label for region in self.regions)

    @property
    def program(self) -> Program | None:
        """What it starts; None where it runs in our own environment."""
        section = getattr(self, self.runtime)
        return section if isinstance(section, Program) else None

    @property
    def in_pieces(self) -> bool:
        """Whether it can be told to need less memory."""
        return bool(self.totalsegmentator or self.nnunet or (self.command and self.command.in_pieces))

    def digest(self) -> str:
        """SHA-256 (hex) of what a result depends on: not of words for people, nor of places of programs."""
        words = {"summary", "licence", "memory", "limits"}
        # Which series was taken is in the digests of its images.
        asked = set(ModelInput.model_fields) - {"role", "description"}
        parts = {"inputs": {"__all__": asked}, "regions": {"__all__": {"pieces"}}}
        content = self.model_dump(mode="json", exclude={**dict.fromkeys(words, True), **parts})
        section = content[self.runtime]
        section["argv"] = section.get("argv", [])[1:]
        for name in ("program", "time_limit_s", "version_command"):
            section.pop(name, None)
        return digest_of(**content)


RULED_REGIONS = ("External", "Lung", "Air", "Bone", "Couch")
"""What the rules find."""


@dataclass(frozen=True, slots=True)
class Model:
    """A card, and the folder that it describes."""

    folder: Path
    card: ModelCard

    @property
    def where(self) -> Where:
        """The model as the place of an error."""
        return Where(kind=f"model {self.card.name}")


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model folder, usable or not."""

    folder: Path
    name: str
    """That of the card, or of the folder where the card cannot be read."""
    card: ModelCard | None
    reason: str
    """Why it cannot be used; empty where it can."""
    missing: tuple[str, ...] = ()
    """Files of weights that are not here, where nothing else is in the way: they may be where it runs."""


def read_card(folder: Path) -> ModelCard:
    """The card of a model folder.

    Args:
        folder: With a ``model.yaml``.

    Raises:
        ModelCardError: There is none, or it is wrong; each wrong key is named.
        UnsafeModelError: It asks for the network.
    """
    role = "model card"
    try:
        card = ModelCard.model_validate(read_yaml(folder / CARD, role))
    except ConfigurationError as error:
        raise ModelCardError(error.message) from None
    except ValidationError as error:
        raise ModelCardError(f"{role}: " + "; ".join(problems(error, ModelCard, "the whole card"))) from None
    section = getattr(card, card.runtime).model_dump(mode="json")
    if card.network or "://" in json.dumps(section):
        raise UnsafeModelError(
            f"model {card.name} asks for the network: models are given none, weights lie in their folder"
        )
    return card


def read_model(folder: Path) -> Model:
    """A model folder; see :func:`read_card`."""
    return Model(folder, read_card(folder))


def find_models(folders: Sequence[Path]) -> list[FoundModel]:
    """Every model folder within these folders, by name; a bad one is shown with its reason.

    A packaged model whose weights were installed elsewhere is shown once, as the usable one. Of several
    usable ones of the same name none is used: which one is meant is for a person to say.

    Args:
        folders: Each holds model folders; one that is not there holds none, and one named twice counts once.
    """
    found = [_found(one) for folder in dict.fromkeys(map(Path.resolve, folders)) for one in _below(folder)]
    usable: dict[str, int] = {}
    for one in found:
        usable[one.name] = usable.get(one.name, 0) + (not one.reason)
    shown = []
    for one in found:
        if one.reason and usable[one.name] and one.card is not None:
            continue
        if not one.reason and usable[one.name] > 1:
            one = replace(one, reason=f"{usable[one.name]} folders hold a model of this name")
        shown.append(one)
    return sorted(shown, key=lambda one: (one.name, str(one.folder)))


def _below(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    yield from (one for one in entries if one.is_dir() and not one.name.startswith("."))


def _found(folder: Path) -> FoundModel:
    try:
        card = read_card(folder)
    except MqiError as error:
        return FoundModel(folder, folder.name, None, error.message)
    missing = [one.file for one in card.weights if not (folder / one.file).is_file()]
    reason = f"weights are missing: {', '.join(missing)}" if missing else ""
    return FoundModel(folder, card.name, card, reason, tuple(missing))


def filled(words: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """An argv template with its placeholders replaced, each word by itself.

    Args:
        words: The template; see :class:`CommandRuntime`.
        values: Of each placeholder.
    """
    return [_PLACEHOLDER.sub(lambda found: values[found.group(1)], word) for word in words]
