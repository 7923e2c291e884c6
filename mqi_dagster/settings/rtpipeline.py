"""What users of rtpipeline write (its configuration, variables and options), and what becomes of each here.

Every one of them sets a field of the section ``radiotherapy``, or is refused with what there is instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.settings.radiotherapy import Radiotherapy
from mqi_dagster.settings.section import Section
from mqi_dagster.yaml_file import problems, read_yaml

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

CONFIGURATION_VARIABLE = "RTPIPELINE_CONFIGFILE"
_PREFIX = "RTPIPELINE_"


@dataclass(frozen=True, slots=True)
class Known:
    """Something that users of rtpipeline write."""

    field: str = ""
    """Below ``radiotherapy``; empty: it is refused, or sets no field."""
    keys: tuple[str, ...] = ()
    """In its configuration; ``*`` stands for anything."""
    option: str = ""
    variable: str = ""
    inverted: bool = False
    """Whether the variable says the opposite of the field."""
    note: str = ""
    """What is to be known of it; of what is refused, the reason."""
    without: tuple[object, ...] = ()
    """Values with which what is refused asks for nothing."""

    @property
    def is_refused(self) -> bool:
        """Whether it can do nothing here."""
        return not self.field and self.option not in ("--out", "--config")


def _set(field: str, *keys: str, option: str = "", variable: str = "", note: str = "") -> Known:
    return Known(field, keys or (field,), option, variable, note=note)


def _refused(note: str, *keys: str, option: str = "", without: tuple[object, ...] = ()) -> Known:
    return Known(keys=keys, option=option, note=note, without=without)


_JOBS = "it is a reservation of Snakemake's, which runs nothing here"
_CARD = "the card of a model says it (`mqi model list`)"
_REUSED = "what was made is used again only where its inputs and settings are the same; nothing is forced"
KNOWN: tuple[Known, ...] = (
    _set("dicom_root", option="--dicom-root"),
    Known(keys=("output_dir",), option="--out", note="the folder of the results"),
    Known(option="--config", variable=CONFIGURATION_VARIABLE, note="a configuration of rtpipeline"),
    _refused("logs stand in `state/logs` of the folder of the results", "logs_dir", option="--logs"),
    _set(
        "workers",
        *("workers", "max_workers", "scheduler.parallel_courses"),
        option="--workers",
        variable="RTPIPELINE_MAX_WORKERS",
    ),
    _refused(
        "`auto` leaves one processor to the machine: give `max_workers`, the courses at once",
        "scheduler.reserved_cores",
        without=(1,),
    ),
    _refused(_JOBS, "scheduler.*_threads_per_job"),
    _refused(
        "courses are begun in the order of their keys", "scheduler.prioritize_short_courses", without=(False,)
    ),
    _set("max_days", option="--max-days"),
    _refused(
        "courses follow from what objects refer to, then from their Frame of Reference",
        "merge_criteria",
        option="--merge-criteria",
        without=("frame_of_reference",),
    ),
    _set("segmentation.enabled"),
    _set("segmentation.models"),
    _set("segmentation.workers", "segmentation.workers", "segmentation.max_workers", option="--seg-workers"),
    _set("segmentation.device", option="--totalseg-device"),
    _set("segmentation.allow_fallback", option="--totalseg-allow-fallback"),
    _set(
        "segmentation.proc_threads",
        *("segmentation.proc_threads", "segmentation.threads_per_worker"),
        option="--seg-proc-threads",
    ),
    _set("segmentation.force_split", option="--totalseg-force-split"),
    _set("segmentation.nr_threads_resample", option="--totalseg-nr-thr-resamp"),
    _set("segmentation.nr_threads_save", option="--totalseg-nr-thr-saving"),
    _set("segmentation.num_proc_preprocessing", option="--totalseg-num-proc-pre"),
    _set("segmentation.num_proc_export", option="--totalseg-num-proc-export"),
    _refused(
        f"which mode TotalSegmentator runs in, {_CARD}",
        "segmentation.fast",
        option="--totalseg-fast",
        without=(False,),
    ),
    _refused(_REUSED, "segmentation.force", option="--force-segmentation", without=(False,)),
    _refused(
        f"which regions a model gives, {_CARD}",
        "segmentation.roi_subset",
        option="--totalseg-roi-subset",
        without=("", []),
    ),
    _refused(
        "`segmentation.models` names all models",
        "segmentation.extra_models",
        option="--extra-seg-models",
        without=([], ""),
    ),
    _set("custom_models.enabled"),
    _set("custom_models.root", option="--custom-models-root"),
    _set("custom_models.models"),
    _set("custom_models.workers", option="--custom-model-workers"),
    _refused(_REUSED, "custom_models.force", without=(False,)),
    _refused(f"which program a model runs, {_CARD}", "custom_models.nnunet_predict", without=("",)),
    _refused(f"which environment a model runs in, {_CARD}", "custom_models.conda_activate", without=("",)),
    _refused(
        "weights stay where `mqi model install` has put them", "custom_models.retain_weights", without=(True,)
    ),
    _set(
        "structures.custom_structures",
        *("custom_structures", "structures.custom_structures"),
        option="--custom-structures",
    ),
    _set("ct_cropping.enabled"),
    _set("ct_cropping.region"),
    _set("ct_cropping.superior_margin_cm"),
    _set("ct_cropping.inferior_margin_cm"),
    _set("ct_cropping.use_cropped_for_dvh"),
    _set("ct_cropping.use_cropped_for_radiomics"),
    _refused(
        "what is whole is always kept: the region is applied to figures alone",
        "ct_cropping.keep_original",
        without=(True,),
    ),
    _set("radiomics.enabled"),
    Known(
        "radiomics.sequential",
        ("radiomics.sequential",),
        "--sequential-radiomics",
        "RTPIPELINE_RADIOMICS_SEQUENTIAL",
    ),
    Known("radiomics.sequential", variable="RTPIPELINE_USE_PARALLEL_RADIOMICS", inverted=True),
    _set(
        "radiomics.params_file",
        option="--radiomics-params",
        note="a profile of this platform; one of PyRadiomics is refused when it is read",
    ),
    _set(
        "radiomics.mr_params_file",
        option="--radiomics-params-mr",
        note="a profile of this platform; one of PyRadiomics is refused when it is read",
    ),
    _set(
        "radiomics.workers",
        *("radiomics.workers", "radiomics.max_workers"),
        variable="RTPIPELINE_RADIOMICS_WORKERS",
    ),
    _set(
        "radiomics.thread_limit",
        option="--radiomics-proc-threads",
        variable="RTPIPELINE_RADIOMICS_THREAD_LIMIT",
    ),
    _set("radiomics.task_timeout", variable="RTPIPELINE_RADIOMICS_TASK_TIMEOUT"),
    _set("radiomics.skip_rois"),
    _set("radiomics.min_voxels"),
    _set("radiomics.max_voxels"),
    _refused(
        "features under perturbed images and contours are not computed",
        "radiomics_robustness.enabled",
        without=(False,),
    ),
    _refused("there is one environment, and a program of a model has its own", "environments.*"),
    _refused("tables of all courses are one step and take no workers", "aggregation.*"),
)
"""Every one of them; other keys of the section ``radiotherapy`` of mqi.yaml are understood under their own
names."""

_ROBUSTNESS = "radiomics_robustness"
"""Its other keys say nothing where it is off, and where it is on it is refused."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody has asked for, by field below ``radiotherapy``."""

    values: Mapping[str, object] = field(default_factory=dict)
    out: Path | None = None
    """Where the results go, as a configuration says."""

    def over(self, other: Asked) -> Asked:
        """This, and what it does not say from another one."""
        return Asked({**other.values, **self.values}, self.out or other.out)

    def section(self) -> dict[str, Any]:
        """As the section ``radiotherapy`` of a settings file."""
        found: dict[str, Any] = {}
        for name, value in self.values.items():
            *sections, key = name.split(".")
            inner = found
            for section in sections:
                inner = inner.setdefault(section, {})
            inner[key] = value
        return found


def read_configuration(path: Path) -> Asked:
    """What a configuration file asks for; relative paths are meant from its folder.

    Raises:
        ConfigurationError: It cannot be read, or holds keys that are unknown or refused: all are named.
    """
    content = read_yaml(path, f"configuration {path.name}") or {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"configuration {path.name} holds no keys")
    return from_configuration(content, path.resolve().parent)


def from_configuration(content: Mapping[str, Any], base: Path) -> Asked:
    """What the keys of a configuration ask for.

    Args:
        content: Parsed YAML; a null asks for nothing.
        base: From where relative paths are meant.

    Raises:
        ConfigurationError: Keys are unknown, refused, or say different things of one field: all are named.
    """
    faults: list[str] = []
    said: dict[str, tuple[str, object]] = {}
    out: Path | None = None
    for key, value in _leaves(content):
        known = next((one for one in KNOWN if any(fnmatchcase(key, own) for own in one.keys)), None)
        if known is not None and known.field:
            _say(said, known.field, key, value, faults)
        elif known is not None and known.option == "--out":
            out = base / str(value)
        elif known is not None:
            if not any(value == one and type(value) is type(one) for one in known.without):
                faults.append(f"{key}: refused: {known.note}")
        elif field_at(key) is not None:
            _say(said, key, key, value, faults)
        elif not key.startswith(f"{_ROBUSTNESS}."):
            faults.append(f"{key}: unknown key")
    if faults:
        raise ConfigurationError("configuration: " + "; ".join(faults))
    return Asked({field: _placed(field, value, base) for field, (_, value) in said.items()}, out)


def from_environment(environment: Mapping[str, str]) -> Asked:
    """What variables named ``RTPIPELINE_…`` ask for; an empty one asks for nothing.

    Raises:
        ConfigurationError: Variables are unknown, hold no such value, or contradict each other.
    """
    faults: list[str] = []
    said: dict[str, tuple[str, object]] = {}
    for name in sorted(name for name, text in environment.items() if name.startswith(_PREFIX) and text):
        if name == CONFIGURATION_VARIABLE:
            continue
        known = next((one for one in KNOWN if one.variable == name), None)
        if known is None:
            faults.append(f"{name}: unknown variable")
            continue
        field, value = field_at(known.field), _parsed(environment[name])
        if field is not None and field.annotation is bool:
            truth = _TRUTH.get(environment[name].lower())
            if truth is None:
                faults.append(f"{name}: is 1 or 0")
                continue
            value = truth is not known.inverted
        try:
            Radiotherapy.model_validate(Asked({known.field: value}).section())
        except ValidationError as error:
            faults += [f"{name}: {problem}" for problem in problems(error, Radiotherapy)]
            continue
        _say(said, known.field, name, value, faults)
    if faults:
        raise ConfigurationError("environment: " + "; ".join(faults))
    return Asked({field: value for field, (_, value) in said.items()})


def asked_for(command: Asked, environment: Mapping[str, str], configuration: Path | None) -> Asked:
    """What somebody asks for: by the command, before variables, before a configuration.

    Args:
        command: What its options say.
        environment: Variables.
        configuration: The file; None: the one that the variable names, if any.

    Raises:
        ConfigurationError: As `read_configuration` and `from_environment`.
    """
    named = environment.get(CONFIGURATION_VARIABLE)
    file = configuration or (Path(named) if named else None)
    asked = command.over(from_environment(environment))
    return asked if file is None else asked.over(read_configuration(file))


def refused_option(name: str) -> str | None:
    """Why an option of rtpipeline is refused; None for one that is not known."""
    known = next((one for one in KNOWN if one.option == name and one.is_refused), None)
    return None if known is None else known.note


def field_at(name: str) -> FieldInfo | None:
    """The field of the section ``radiotherapy`` of a dotted name; None where there is none, or a section."""
    kind: type[Section] | None = Radiotherapy
    field = None
    for part in name.split("."):
        field = None if kind is None else kind.model_fields.get(part)
        kind = None if field is None else _section_of(field)
    return field if kind is None else None


def _section_of(field: FieldInfo) -> type[Section] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


_TRUTH = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def _leaves(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, object]]:
    for key, value in content.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{name}.")
        elif value is not None:
            yield name, value


def _say(said: dict[str, tuple[str, object]], field: str, key: str, value: object, faults: list[str]) -> None:
    before = said.setdefault(field, (key, value))
    if before[1] != value:
        faults.append(f"{before[0]} and {key} say different things of radiotherapy.{field}")


def _placed(field: str, value: object, base: Path) -> object:
    found = field_at(field)
    is_path = found is not None and Path in (found.annotation, *get_args(found.annotation))
    return str(base / value) if is_path and isinstance(value, str) else value


def _parsed(text: str) -> object:
    """A number where it is one; the type of the field says the rest."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
