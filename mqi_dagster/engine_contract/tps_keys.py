"""Every key of moqui's input file, typed (docs/formats.md 6), and the two that the embedded engine adds.

The order of the fields is the order in the file; a change of ``group`` puts an empty line between keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


@dataclass(frozen=True, slots=True)
class TpsKey:
    """How a field is called in the file, and what a digest may know of it."""

    name: str
    group: int
    digest: Literal["value", "gpu", "path", "absent"] = "value"
    """``gpu`` and ``path`` values depend on where a beam runs, so a digest sees a placeholder; whether an
    ``absent`` key stands in the file does as well, so a digest sees nothing of it."""


Count = Annotated[int, Field(ge=1)]
Text = str | None


class TpsFile(BaseModel):
    """The input of one simulation.

    Fields without a default must stand in the file: the engine's own default is wrong or unsafe for them.
    ``None`` means that the key is not written.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    gpu_id: Annotated[int, Field(ge=0), TpsKey("GPUID", 0, "gpu")]
    random_seed: Annotated[int, Field(ge=-(2**31), lt=2**31), TpsKey("RandomSeed", 0)]
    use_absolute_path: Annotated[bool, TpsKey("UseAbsolutePath", 0)]
    total_threads: Annotated[int, TpsKey("TotalThreads", 0)]
    """GPU threads; negative: the engine decides."""
    max_histories_per_batch: Annotated[Count, TpsKey("MaxHistoriesPerBatch", 0)]
    verbosity: Annotated[int, TpsKey("Verbosity", 0)] = 0
    debug_mode: Annotated[bool | None, TpsKey("DebugMode", 0)] = None

    parent_dir: Annotated[str, TpsKey("ParentDir", 1, "path")]
    dicom_path: Annotated[str, TpsKey("DicomPath", 1, "path")]
    dicom_dir: Annotated[str, TpsKey("DicomDir", 1)]
    log_file_path: Annotated[str, TpsKey("logFilePath", 1, "path")]
    """The folder that holds one folder of CSVs per field."""
    beam_prefix: Annotated[Text, TpsKey("BeamPrefix", 1)] = None
    ct_volume_name: Annotated[Text, TpsKey("CTVolumeName", 1)] = None

    gantry_num: Annotated[int | None, Field(ge=1, le=2), TpsKey("GantryNum", 2)] = None
    """Machine model of moqui; absent where the engine reads the beam model instead."""
    machine: Annotated[Text, TpsKey("Machine", 2)] = None
    calibration: Annotated[Text, TpsKey("Calibration", 2)] = None
    beam_model_file: Annotated[Text, TpsKey("BeamModelFile", 2, "path")] = None
    """Our own: the beam model for the embedded engine."""
    embedded_shards: Annotated[int | None, Field(ge=1), TpsKey("EmbeddedShards", 2)] = None
    """Our own: independent single-thread parts of a simulation, part of the result's identity."""

    using_phantom_geo: Annotated[bool, TpsKey("UsingPhantomGeo", 3)]
    two_centimeter_mode: Annotated[bool, TpsKey("TwoCentimeterMode", 3)]
    phantom_dim_x: Annotated[int | None, Field(ge=1), TpsKey("PhantomDimX", 3)] = None
    phantom_dim_y: Annotated[int | None, Field(ge=1), TpsKey("PhantomDimY", 3)] = None
    phantom_dim_z: Annotated[int | None, Field(ge=1), TpsKey("PhantomDimZ", 3)] = None
    phantom_unit_x: Annotated[int | None, Field(ge=1), TpsKey("PhantomUnitX", 3)] = None
    phantom_unit_y: Annotated[int | None, Field(ge=1), TpsKey("PhantomUnitY", 3)] = None
    phantom_unit_z: Annotated[int | None, Field(ge=1), TpsKey("PhantomUnitZ", 3)] = None
    phantom_position_x: Annotated[int | None, TpsKey("PhantomPositionX", 3)] = None
    phantom_position_y: Annotated[int | None, TpsKey("PhantomPositionY", 3)] = None
    phantom_position_z: Annotated[int | None, TpsKey("PhantomPositionZ", 3)] = None

    scorer: Annotated[
        Literal["EnergyDeposition", "Dose", "LETd", "LETt", "Dij", "TrackLength"], TpsKey("Scorer", 4)
    ]
    supress_std: Annotated[bool, TpsKey("SupressStd", 4)]
    """True: the engine's variance path has an uninitialised loop index."""
    read_structure: Annotated[bool, TpsKey("ReadStructure", 4)]
    body_contour_name: Annotated[Text, TpsKey("BodyContourName", 4)] = None
    scoring_mask: Annotated[bool | None, TpsKey("ScoringMask", 4)] = None
    mask: Annotated[Text, TpsKey("Mask", 4)] = None
    save_map: Annotated[bool | None, TpsKey("SaveMap", 4)] = None
    scorer_map_name: Annotated[Text, TpsKey("ScorerMapName", 4)] = None
    scorer_voxel_size: Annotated[Text, TpsKey("ScorerVoxelSize", 4)] = None

    source_type: Annotated[Literal["FluenceMap"], TpsKey("SourceType", 5)]
    simulation_type: Annotated[Literal["perBeam", "perSpot", "perPatient"], TpsKey("SimulationType", 5)]
    beam_numbers: Annotated[tuple[Count, ...], Field(min_length=1), TpsKey("BeamNumbers", 5)]
    particles_per_history: Annotated[float, Field(gt=0), TpsKey("ParticlesPerHistory", 5)]
    """Histories simulated per proton of the beam (the name says the reverse).

    moqui's default of -1 gives negative counts.
    """
    normalize_total_histories: Annotated[float | None, Field(gt=0), TpsKey("NormalizeTotalHistories", 5)] = (
        None
    )
    rbe: Annotated[float | None, Field(gt=0), TpsKey("RBE", 5)] = None
    number_of_fraction: Annotated[int | None, TpsKey("NumberOfFraction", 5)] = None
    rangeshifter_density: Annotated[float | None, Field(gt=0), TpsKey("RangeshifterDensity", 5)] = None
    unit_weights: Annotated[float | None, TpsKey("UnitWeights", 5)] = None
    density_scaling: Annotated[float | None, Field(gt=0), TpsKey("DensityScaling", 5)] = None
    x_shift: Annotated[float | None, TpsKey("XShift", 5)] = None
    y_shift: Annotated[float | None, TpsKey("YShift", 5)] = None
    z_shift: Annotated[float | None, TpsKey("ZShift", 5)] = None
    stopping_statistics: Annotated[bool | None, TpsKey("StoppingStatistics", 5)] = None
    stopping_criteria: Annotated[float | None, TpsKey("StoppingCriteria", 5)] = None
    stat_threshold: Annotated[float | None, TpsKey("StatThreshold", 5)] = None
    stat_roi: Annotated[Text, TpsKey("StatROI", 5)] = None
    save_stopping_statistics: Annotated[bool | None, TpsKey("SaveStoppingStatistics", 5)] = None

    score_to_ct_grid: Annotated[bool, TpsKey("ScoreToCTGrid", 6)]
    output_dir: Annotated[str, TpsKey("OutputDir", 6, "path")]
    output_format: Annotated[Literal["raw", "mhd", "mha", "npz", "dcm"], TpsKey("OutputFormat", 6)]
    overwrite_results: Annotated[bool, TpsKey("OverwriteResults", 6)]

    enable_multi_gpu: Annotated[bool | None, TpsKey("EnableBeamLayerMultiGpu", 7, "absent")] = None
    allowed_gpu_ids: Annotated[Text, TpsKey("BeamLayerMultiGpuAllowedGpuIds", 7, "absent")] = None
    multi_gpu_workers: Annotated[int | None, TpsKey("BeamLayerMultiGpuMaxWorkers", 7, "absent")] = None
    multi_gpu_temp_root: Annotated[Text, TpsKey("BeamLayerMultiGpuTempRoot", 7, "absent")] = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not math.isfinite(self.particles_per_history):
            raise ValueError("ParticlesPerHistory must be finite")
        if self.two_centimeter_mode and not self.using_phantom_geo:
            raise ValueError("TwoCentimeterMode needs UsingPhantomGeo")
        if self.using_phantom_geo:
            box = [pair for part in ("dim", "unit", "position") for pair in self._phantom_fields(part)]
            missing = [key.name for key, value in box if value is None]
            if missing:
                raise ValueError(f"UsingPhantomGeo needs {', '.join(missing)}")
        return self

    def _phantom_fields(self, part: str) -> tuple[tuple[TpsKey, int | None], ...]:
        names = [f"phantom_{part}_{axis}" for axis in "xyz"]
        return tuple((KEYS[name], getattr(self, name)) for name in names)

    def _phantom(self, part: str) -> tuple[int, int, int]:
        values = [value for _, value in self._phantom_fields(part)]
        x, y, z = (0 if value is None else value for value in values)
        return x, y, z

    @property
    def phantom_dimension(self) -> tuple[int, int, int]:
        """Voxels in x, y, z; zeros without a phantom."""
        return self._phantom("dim")

    @property
    def phantom_unit_mm(self) -> tuple[int, int, int]:
        """Voxel size in x, y, z [mm]; zeros without a phantom."""
        return self._phantom("unit")

    @property
    def phantom_position_mm(self) -> tuple[int, int, int]:
        """Lower edge of the grid in x, y, z [mm], engine frame; zeros without a phantom."""
        return self._phantom("position")

    def for_digest(self) -> dict[str, object]:
        """Every written key with the GPU and all paths as placeholders: what defines the result."""
        content: dict[str, object] = {}
        for name, key in KEYS.items():
            value = getattr(self, name)
            if value is None or key.digest == "absent":
                continue
            content[key.name] = value if key.digest == "value" else f"<{key.digest}>"
        return content


KEYS: dict[str, TpsKey] = {
    name: next(part for part in field.metadata if isinstance(part, TpsKey))
    for name, field in TpsFile.model_fields.items()
}
"""The key of every field, in the order of the file."""
