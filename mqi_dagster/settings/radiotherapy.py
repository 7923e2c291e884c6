"""The radiotherapy pipeline: where courses come from, and how each stage of their way is computed.

Keys are those that users of rtpipeline have in their configuration, where it has one for the same thing.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from mqi_dagster.settings.section import Count, Seconds, Section
from mqi_dagster.settings.sections import LOCAL, HostName


def _workers(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    try:
        return validate(value)
    except ValidationError:
        raise ValueError("must be a whole number of at least 1, or auto") from None


Workers = Annotated[Count | Literal["auto"], WrapValidator(_workers)]
Margin = Annotated[float, Field(ge=0, le=50)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class ModelDevice(StrEnum):
    """Where a segmentation model begins; for want of memory it goes on with less."""

    GPU = "gpu"
    CPU = "cpu"
    MPS = "mps"


class CropRegion(StrEnum):
    """A packaged analysis region."""

    PELVIS = "pelvis"
    THORAX = "thorax"
    ABDOMEN = "abdomen"
    HEAD_NECK = "head_neck"
    BRAIN = "brain"


class Missing(StrEnum):
    """What it means for a course that an object is not there."""

    FAIL = "fail"
    WARN = "warn"


_THIS_MACHINE = ("127.0.0.1", "::1", "localhost")


class OrthancSource(Section):
    """An Orthanc, and who asks it."""

    url: str = Field(
        pattern=r"^https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._/-]*)?$", description="Of its REST API."
    )
    user: str | None = Field(None, description="Its user; null: none is asked for.")
    password_file: Path | None = Field(None, description="File with the password, mode 0600.")
    allow_http: bool = Field(
        False, description="Whether patients and the password may go to another machine unencrypted."
    )
    timeout_seconds: Seconds = Field(60.0, description="Longest silence of it.")

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.user is None) is not (self.password_file is None):
            raise ValueError("user and password_file: both or none")
        host = urlsplit(self.url).hostname or ""
        if self.url.startswith("http:") and host not in _THIS_MACHINE and not self.allow_http:
            raise ValueError("url: to another machine https, or allow_http where its network is trusted")
        return self


class Segmentation(Section):
    """Automatic segmentation of every course."""

    enabled: bool = Field(True, description="Whether it is made at all.")
    models: tuple[Name, ...] = Field(
        ("rules_ct",),
        description="Models, packaged or installed (`mqi model list`), each for its modality.",
    )
    workers: Workers = Field(
        1, description="Courses at once, where there are slots for them: a GPU each, or `execution.slots`."
    )
    host: HostName = Field(LOCAL, description="Where models run: `local`, or a host with `slurm`.")
    device: ModelDevice = Field(ModelDevice.CPU, description="`gpu` or `cpu`: where models begin.")
    allow_fallback: bool = Field(
        True,
        description="A model that finds too little GPU memory, in pieces, too, goes on on the processor;"
        " false: it has failed. Where there is no GPU at all, `device` is to be `cpu`.",
    )
    proc_threads: Count | None = Field(
        None, description="Threads of one model; null: its share of the processors, or `slurm.cpus`."
    )
    force_split: bool = Field(False, description="Models that can work in pieces do from the start.")
    nr_threads_resample: Count | None = Field(None, description="nnU-Net's own option.")
    nr_threads_save: Count | None = Field(None, description="nnU-Net's own option.")
    num_proc_preprocessing: Count | None = Field(None, description="nnU-Net's own option.")
    num_proc_export: Count | None = Field(None, description="nnU-Net's own option.")
    timeout_seconds: Seconds = Field(3600.0, description="Longest that one model may take with one series.")
    require_isolation: bool = Field(
        False, description="Refuse a program where the machine cannot keep it from the network."
    )

    @field_validator("device")
    @classmethod
    def _of_this_platform(cls, value: ModelDevice) -> ModelDevice:
        if value is ModelDevice.MPS:
            raise ValueError("mps is the GPU of a Mac, and models run on Linux: gpu or cpu")
        return value


class CustomModels(Section):
    """Models of the site, a folder with a card each; devices and limits are those of `segmentation`."""

    enabled: bool = Field(True, description="Whether they are run.")
    root: Path = Field(
        Path("config/models"), description="Their folder; `mqi model install` puts models there."
    )
    models: tuple[Name, ...] | None = Field(None, description="Which; null: all but those of `segmentation`.")
    workers: Workers = Field(1, description="Courses at once, as of `segmentation`.")


class Structures(Section):
    """Structures and their names."""

    custom_structures: Path | None = Field(None, description="YAML of derived structures.")
    names: Path | None = Field(None, description="YAML of the site's own names, beside the TG-263 table.")


class CtCropping(Section):
    """The analysis region: what lies outside of it is no part of figures, where they are to be cropped."""

    enabled: bool = Field(False, description="Whether a region is found.")
    region: CropRegion | None = Field(None, description="A packaged region.")
    structures: tuple[str, ...] = Field(
        (), description="Instead: from the lowest to the highest of these structures."
    )
    superior_margin_cm: Margin | None = Field(
        None, description="Beyond the upper limit; null: that of the packaged region, 2 around structures."
    )
    inferior_margin_cm: Margin | None = Field(None, description="Beyond the lower limit; null: the same.")
    use_cropped_for_dvh: bool = Field(True, description="DVH of what lies in the region alone.")
    use_cropped_for_radiomics: bool = Field(True, description="Radiomics of what lies in the region alone.")

    @model_validator(mode="after")
    def _one_region(self) -> Self:
        if self.enabled and (self.region is None) is not bool(self.structures):
            raise ValueError("either region or structures says what the analysis region is")
        return self


class DoseVolume(Section):
    """Dose-volume tables."""

    enabled: bool = Field(True, description="Whether they are made.")
    goals: Path | None = Field(None, description="Protocol file of clinical goals.")
    curve_step_gy: Annotated[float, Field(gt=0, le=10)] = Field(0.1, description="Between points of a curve.")
    workers: Workers = Field("auto", description="Courses at once.")


class Radiomics(Section):
    """Radiomics of every structure."""

    enabled: bool = Field(True, description="Whether it is computed.")
    sequential: bool = Field(False, description="One region after another, each in its own process.")
    params_file: Path | None = Field(None, description="Profile for CT; null: the packaged one.")
    mr_params_file: Path | None = Field(None, description="Profile for MR; null: the packaged one.")
    workers: Workers = Field("auto", description="Regions at once.")
    thread_limit: Count = Field(1, description="Threads of the numerical libraries in each process.")
    task_timeout: Seconds = Field(600.0, description="Longest that one region may take [s].")
    attempts: Annotated[int, Field(ge=1, le=10)] = Field(3, description="Tries of one region.")
    skip_rois: tuple[str, ...] = Field((), description="Names of structures that are left out.")
    min_voxels: Count = Field(27, description="Smaller structures are left out, and it is said.")
    max_voxels: Count = Field(15_000_000, description="Larger structures are left out, and it is said.")


class QualityControl(Section):
    """What missing objects mean for a course, and what is plausible."""

    missing_plan: Missing = Field(Missing.WARN, description="A course without a plan.")
    missing_dose: Missing = Field(Missing.WARN, description="A course without a dose.")
    missing_structure_set: Missing = Field(Missing.WARN, description="A course without a structure set.")
    minimum_images: Count = Field(3, description="A series of fewer images fails.")


class Radiotherapy(Section):
    """The radiotherapy pipeline."""

    dicom_root: Path | None = Field(None, description="Tree of DICOM files; null: there is none.")
    orthanc: OrthancSource | None = Field(
        None, description="An Orthanc whose changes are followed; what is new is copied below `dicom_root`."
    )
    scan_minutes: Annotated[float, Field(gt=0)] = Field(5.0, description="How often the tree is scanned.")
    max_days: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Plans of one Frame of Reference farther apart are of different courses."
    )
    workers: Workers = Field(
        "auto",
        description="Courses at once; `auto`: processors - 1. In the services no more than"
        " `execution.max_runs` leaves beside the simulations.",
    )
    segmentation: Segmentation = Field(default_factory=lambda: Segmentation.model_validate({}))
    custom_models: CustomModels = Field(default_factory=lambda: CustomModels.model_validate({}))
    structures: Structures = Field(default_factory=lambda: Structures.model_validate({}))
    ct_cropping: CtCropping = Field(default_factory=lambda: CtCropping.model_validate({}))
    dvh: DoseVolume = Field(default_factory=lambda: DoseVolume.model_validate({}))
    radiomics: Radiomics = Field(default_factory=lambda: Radiomics.model_validate({}))
    qc: QualityControl = Field(default_factory=lambda: QualityControl.model_validate({}))

    @model_validator(mode="after")
    def _tree_of_orthanc(self) -> Self:
        if self.orthanc is not None and self.dicom_root is None:
            raise ValueError("orthanc: dicom_root names the tree that its objects are copied into")
        return self
