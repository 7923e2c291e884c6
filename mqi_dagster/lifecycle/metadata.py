"""Figures and pictures in the metadata of the assets, which are made once for what stays as it is.

What draws them is loaded by whoever draws: a run that finds everything unchanged does without.
"""

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg
import numpy as np
from numpy.typing import NDArray

from mqi_dagster import __version__
from mqi_dagster.delivery.comparison_figures import LayerComparison
from mqi_dagster.delivery.csv_reading import read_samples
from mqi_dagster.delivery.summary import InterpretedBeam
from mqi_dagster.dose.grid import DoseFrame, DoseGrid, DoseUnits
from mqi_dagster.dose.profiles import distal_depth_mm, integral_depth_dose, lateral_plane, lateral_profiles
from mqi_dagster.errors import DoseError
from mqi_dagster.lifecycle.beam import BeamAtWork
from mqi_dagster.lifecycle.digests import SHOWN_CODE
from mqi_dagster.lifecycle.lineage import latest_record
from mqi_dagster.lifecycle.raw_dose_files import RawDoseRecord, Role
from mqi_dagster.store.digests import digest_of
from mqi_dagster.store.published import Published

Metadata = dict[str, dg.MetadataValue]
Samples = tuple[NDArray[np.float64], NDArray[np.float64]]

PROFILE_DEPTH_MM = 20.0
SHOWN_TAG = "mqi/shown"
"""Of a materialisation: what its figures and pictures are of, see `shown_of`."""


def shown_of(*results: Published, **settings: float) -> str:
    """What figures and pictures depend on, as a tag: contents of results, the code that shows, and settings.

    Args:
        results: What they are of. A result that was made once more may have other contents.
        settings: What is shown beside it, and may change while the results stay.
    """
    return digest_of(
        version=__version__,
        code=SHOWN_CODE,
        results=[[one.digest, one.content_digests()] for one in results],
        settings=settings,
    )[:16]


def shown_before(
    instance: dg.DagsterInstance, asset: str, key: str, shown: str
) -> Mapping[str, dg.MetadataValue] | None:
    """The metadata of the latest materialisation, where they show the same; else None."""
    record = latest_record(instance, asset, key)
    made = None if record is None else record.asset_materialization
    return made.metadata if made is not None and (made.tags or {}).get(SHOWN_TAG) == shown else None


def pictures_in(metadata: Mapping[str, dg.MetadataValue]) -> Metadata:
    """The pictures among the metadata of a materialisation."""
    return {name: value for name, value in metadata.items() if isinstance(value, dg.MarkdownMetadataValue)}


def maximum(value: float, units: DoseUnits, of: str = "") -> dict[str, float]:
    """The greatest dose with its unit, in the digits that are worth reading."""
    return {f"maximum{f' of the {of}' if of else ''} [{units.shown}]": float(f"{value:.4g}")}


def _picture(png: bytes, alt: str) -> dg.MarkdownMetadataValue:
    from mqi_dagster.pictures.style import as_markdown

    return dg.MetadataValue.md(as_markdown(png, alt))


def _delivered(interpreted: InterpretedBeam, published: Published) -> Iterator[Samples]:
    for layer in interpreted.layers:
        for piece in read_samples(published.path(layer.file), interpreted.dialect):
            yield piece.select("x_mm", "y_mm").to_numpy(), piece["count"].to_numpy()


def _of_delivery(layers: Sequence[LayerComparison], limit_mm: float) -> Metadata:
    """Mean difference of the positions of each layer, and its scatter."""
    from mqi_dagster.pictures.spots import layer_positions

    located = [
        (layer.number, layer.mean_mm, layer.sd_mm)
        for layer in layers
        if layer.mean_mm is not None and layer.sd_mm is not None
    ]
    png = layer_positions(
        [number for number, _, _ in located],
        [(mean.x, mean.y) for _, mean, _ in located],
        [(sd.x, sd.y) for _, _, sd in located],
        limit_mm,
    )
    return {"layer positions": _picture(png, "delivered - planned positions of each layer")}


def of_interpretation(
    beam: BeamAtWork, interpreted: InterpretedBeam, published: Published, limit_mm: float
) -> Metadata:
    """Positions and monitor units of each layer, and the planned and delivered spot map.

    Args:
        beam: The beam.
        interpreted: What was published of it.
        published: Where.
        limit_mm: Of the mean difference of a layer's positions.
    """
    from mqi_dagster.pictures.spots import layer_mu_bars, spot_map

    delivered_layers = {layer.number for layer in interpreted.layers}
    planned = [
        (layer.positions_mm, layer.spot_mu)
        for layer in beam.plan_beam.layers
        if layer.number in delivered_layers
    ]
    compared = interpreted.compared
    return {
        **({} if compared is None else _of_delivery(compared, limit_mm)),
        "spot map": _picture(
            spot_map(planned, _delivered(interpreted, published)), "planned and delivered spots"
        ),
        "layer MU": _picture(
            layer_mu_bars(
                [layer.number for layer in interpreted.layers],
                [layer.planned_mu for layer in interpreted.layers],
                [layer.delivered_mu for layer in interpreted.layers],
            ),
            "monitor units of each layer",
        ),
    }


def of_rt_dose(grids: Mapping[Role, DoseGrid], record: RawDoseRecord) -> Metadata:
    """Slices, and in a phantom depth dose and lateral profiles."""
    from mqi_dagster.pictures import dose

    grid = grids.get("box") or grids["plane"]
    pictures: Metadata = {
        "slices": _picture(dose.dose_slices(grid), "slices through the maximum of the dose")
    }
    if grid.frame is not DoseFrame.PHANTOM or record.surface_mm is None:
        return pictures
    surface = -record.surface_mm
    units = grid.units.value
    if not grid.is_plane:
        curve = integral_depth_dose(grid, surface)
        try:
            r80: float | None = distal_depth_mm(curve)
        except DoseError:
            r80 = None
        pictures["depth dose"] = _picture(
            dose.depth_dose(curve.depth_mm, curve.dose, units, r80), "integral depth dose"
        )
    plane = lateral_plane(grids.get("plane") or grid, PROFILE_DEPTH_MM, surface)
    lines = lateral_profiles(plane)
    pictures["lateral profiles"] = _picture(
        dose.lateral_profiles(
            lines.x_mm, lines.along_x, lines.y_mm, lines.along_y, units=units, depth_mm=PROFILE_DEPTH_MM
        ),
        "lateral profiles through the maximum",
    )
    return pictures
