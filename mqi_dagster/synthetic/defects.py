"""What can be wrong, or out of the ordinary, in a simulated delivery.

Every defect changes exactly what its description says; all else stays as in the clean case of the same seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mqi_dagster.errors import ConfigurationError


class DefectKind(StrEnum):
    """The names of the defects, as written on the command line."""

    OUT_OF_ORDER = "out-of-order"
    TWO_FRACTIONS = "two-fractions"
    REPLAN = "replan"
    RESUMED = "resumed"
    SPLIT_LAYER = "split-layer"
    OVERLAP = "overlap"
    UNFINISHED = "unfinished"
    LATE_BEAM = "late-beam"
    REPEATED_BEAM = "repeated-beam"
    DUPLICATE_DELIVERY = "duplicate-delivery"
    MISSING_LAYER = "missing-layer"
    MISSING_ROW = "missing-row"
    TRUNCATED = "truncated"
    ENERGY_ROW = "energy-row"
    RANGE_CODE = "range-code"
    WRONG_LAYER_NUMBER = "wrong-layer-number"
    SCAN_NUMBER_ZERO = "scan-number-zero"
    FOREIGN_LAYER = "foreign-layer"
    SHIFTED_SPOTS = "shifted-spots"
    MU_ERROR = "mu-error"
    MIRRORED_X = "mirrored-x"
    SWAPPED_AXES = "swapped-axes"
    MISSING_SPOT = "missing-spot"
    EXTRA_SPOT = "extra-spot"
    SWAPPED_SPOTS = "swapped-spots"
    BEAM_OFF_DOSE = "beam-off-dose"
    WRONG_PATIENT = "wrong-patient"
    WRONG_STUDY = "wrong-study"
    STOP_BEYOND_PLAN = "stop-beyond-plan"
    MISSING_PLAN_INFO = "missing-plan-info"
    TWO_PLANS = "two-plans"
    FRACTION_GROUP = "fraction-group"
    UNKNOWN_MACHINE = "unknown-machine"


@dataclass(frozen=True, slots=True)
class DefectSpec:
    """What a defect is and which parameters it takes."""

    description: str
    beam: bool = False
    layer: bool = False
    amounts: tuple[str, ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:
        """Every parameter by name."""
        return (("beam",) if self.beam else ()) + (("layer",) if self.layer else ()) + self.amounts


DEFECTS: dict[DefectKind, DefectSpec] = {
    DefectKind.OUT_OF_ORDER: DefectSpec("the beams are delivered in the reverse of the order asked for"),
    DefectKind.TWO_FRACTIONS: DefectSpec("the whole plan is delivered again one fraction interval later"),
    DefectKind.REPLAN: DefectSpec(
        "a re-plan of the same patient: other study and plan UIDs, percent more MU, two hours later",
        amounts=("percent",),
    ),
    DefectKind.RESUMED: DefectSpec(
        "interrupted after a layer, the other layers follow in a second delivery", beam=True, layer=True
    ),
    DefectKind.SPLIT_LAYER: DefectSpec(
        "interrupted inside a layer (share of its MU given), the rest of it and the other layers follow",
        beam=True,
        layer=True,
        amounts=("share",),
    ),
    DefectKind.OVERLAP: DefectSpec(
        "interrupted after a layer, and the second delivery repeats the last layers in full (an error)",
        beam=True,
        layer=True,
        amounts=("layers",),
    ),
    DefectKind.UNFINISHED: DefectSpec("stopped after a layer and never resumed", beam=True, layer=True),
    DefectKind.LATE_BEAM: DefectSpec(
        "the beam is withheld; a second call with deliver=(beam,) adds it to the case", beam=True
    ),
    DefectKind.REPEATED_BEAM: DefectSpec("the whole beam is delivered twice in one fraction", beam=True),
    DefectKind.DUPLICATE_DELIVERY: DefectSpec(
        "the beam's delivery folder is there twice, the copy named <folder>_copy", beam=True
    ),
    DefectKind.MISSING_LAYER: DefectSpec(
        "the layer's record is absent, PlanRange still names it", beam=True, layer=True
    ),
    DefectKind.MISSING_ROW: DefectSpec(
        "the layer's record, machine plan and PlanRange row are absent", beam=True, layer=True
    ),
    DefectKind.TRUNCATED: DefectSpec(
        "bytes are cut off the end of the layer's record", beam=True, layer=True, amounts=("bytes",)
    ),
    DefectKind.ENERGY_ROW: DefectSpec(
        "the layer's PlanRange energy is higher by mev", beam=True, layer=True, amounts=("mev",)
    ),
    DefectKind.RANGE_CODE: DefectSpec(
        "the layer was measured in another range: its counts are scaled by the inverse factor"
        " (a code the machine does not have keeps the counts)",
        beam=True,
        layer=True,
        amounts=("code",),
    ),
    DefectKind.WRONG_LAYER_NUMBER: DefectSpec(
        "column 6 of the layer's record holds the next layer's number", beam=True, layer=True
    ),
    DefectKind.SCAN_NUMBER_ZERO: DefectSpec(
        "the layer's flags have scan number 0: 0, 32768, 49152, 16384", beam=True, layer=True
    ),
    DefectKind.FOREIGN_LAYER: DefectSpec(
        "the layer's record and machine plan carry another patient's numbers in their names",
        beam=True,
        layer=True,
    ),
    DefectKind.SHIFTED_SPOTS: DefectSpec(
        "the layer's recorded positions are off by x and y mm", beam=True, layer=True, amounts=("x", "y")
    ),
    DefectKind.MU_ERROR: DefectSpec(
        "the layer's counts are higher by percent", beam=True, layer=True, amounts=("percent",)
    ),
    DefectKind.MIRRORED_X: DefectSpec("the layer's recorded x has the other sign", beam=True, layer=True),
    DefectKind.SWAPPED_AXES: DefectSpec("the layer's recorded x and y are exchanged", beam=True, layer=True),
    DefectKind.MISSING_SPOT: DefectSpec(
        "the layer's spot gets no monitor units", beam=True, layer=True, amounts=("spot",)
    ),
    DefectKind.EXTRA_SPOT: DefectSpec(
        "after the layer's spot its monitor units are given once more, x and y mm beside it",
        beam=True,
        layer=True,
        amounts=("spot", "x", "y"),
    ),
    DefectKind.SWAPPED_SPOTS: DefectSpec(
        "the layer's spot and the other one are given in each other's turn",
        beam=True,
        layer=True,
        amounts=("spot", "other"),
    ),
    DefectKind.BEAM_OFF_DOSE: DefectSpec(
        "percent of the layer's counts come in addition after the beam is off",
        beam=True,
        layer=True,
        amounts=("percent",),
    ),
    DefectKind.WRONG_PATIENT: DefectSpec(
        "PlanInfo, PlanRange and .mgn names of the beam hold another patient's ID", beam=True
    ),
    DefectKind.WRONG_STUDY: DefectSpec("PlanInfo of the beam holds another study UID", beam=True),
    DefectKind.STOP_BEYOND_PLAN: DefectSpec(
        "STOP_LAYER_NUMBER of the beam is one more than the plan's layers", beam=True
    ),
    DefectKind.MISSING_PLAN_INFO: DefectSpec("PlanInfo of the beam is absent", beam=True),
    DefectKind.TWO_PLANS: DefectSpec("a second RT plan with another SOP instance UID lies beside the first"),
    DefectKind.FRACTION_GROUP: DefectSpec(
        "the plan's fraction group refers to a beam 99 in place of the beam", beam=True
    ),
    DefectKind.UNKNOWN_MACHINE: DefectSpec(
        "the plan's machine name is replaced (name=, may be empty)", amounts=("name",)
    ),
}


class Defect(BaseModel):
    """One defect with its place and size; parameters that its kind does not take are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: DefectKind
    beam: Annotated[int, Field(ge=0)] | None = None
    """DICOM BeamNumber."""
    layer: Annotated[int, Field(ge=1)] | None = None
    percent: float | None = None
    x: float | None = None
    """[mm], default 2; of an extra spot 20."""
    y: float | None = None
    """[mm], default 0."""
    spot: Annotated[int, Field(ge=1)] | None = None
    """1-based, default 5."""
    other: Annotated[int, Field(ge=1)] | None = None
    """1-based, default the one after ``spot``."""
    code: Annotated[int, Field(ge=0)] | None = None
    mev: float | None = None
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    layers: Annotated[int, Field(ge=1)] | None = None
    bytes: Annotated[int, Field(ge=1, le=15)] | None = None
    name: str | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        spec = DEFECTS[self.kind]
        for field in ("beam", "layer"):
            if field in spec.parameters and getattr(self, field) is None:
                raise ValueError(f"it needs {field}=")
        for field in type(self).model_fields:
            if field != "kind" and field not in spec.parameters and getattr(self, field) is not None:
                takes = ", ".join(spec.parameters) or "no parameters"
                raise ValueError(f"{self.kind.value} does not take {field}= (it takes {takes})")
        return self

    def amount(self, name: str) -> float:
        """A numeric amount, with its documented default where none was given."""
        given = getattr(self, name)
        if given is not None:
            return float(given)
        defaults = {
            "spot": 5,
            "x": 2.0,
            "y": 0.0,
            "code": 3,
            "mev": 3.0,
            "share": 0.4,
            "layers": 2,
            "bytes": 7,
        }
        if name == "percent":
            return {DefectKind.REPLAN: 2.0, DefectKind.BEAM_OFF_DOSE: 1.0}.get(self.kind, 5.0)
        if name == "x" and self.kind is DefectKind.EXTRA_SPOT:
            return 20.0
        if name == "other":
            return self.amount("spot") + 1.0
        return float(defaults[name])


def list_defects() -> dict[str, str]:
    """Every defect as it is written, with its parameters, and a one-line description."""
    return {
        kind.value
        + (":" + ",".join(f"{p}=" for p in spec.parameters) if spec.parameters else ""): spec.description
        for kind, spec in DEFECTS.items()
    }


def parse_defect(text: str) -> Defect:
    """A defect from its written form, for example ``mu-error:beam=3,layer=2,percent=5``.

    Raises:
        ConfigurationError: The kind is unknown, or a parameter is missing, unknown or not a number.
    """
    name, _, rest = text.strip().partition(":")
    if name not in set(DefectKind):
        known = "\n".join(f"  {form}  {what}" for form, what in list_defects().items())
        raise ConfigurationError(f"unknown defect {name or '(empty)'}; the defects are:\n{known}")
    values: dict[str, str] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals or key.strip() in values:
            raise ConfigurationError(f"defect {name}: expected name=value once each, found {pair}")
        values[key.strip()] = value.strip()
    try:
        return Defect.model_validate({"kind": name, **values})
    except ValueError as error:
        takes = ",".join(f"{p}=" for p in DEFECTS[DefectKind(name)].parameters) or "no parameters"
        reason = "; ".join(_reasons(error))
        raise ConfigurationError(f"defect {name}: {reason} (form: {name}:{takes})") from error


def _reasons(error: ValueError) -> list[str]:
    if isinstance(error, ValidationError):
        return [
            (f"{e['loc'][0]}: " if e["loc"] else "") + e["msg"].removeprefix("Value error, ")
            for e in error.errors()
        ]
    return [str(error)]
