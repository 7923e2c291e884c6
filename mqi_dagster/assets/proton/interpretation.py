"""Station 2: the delivery records of a beam become the CSVs of the engine."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg

from mqi_dagster.assets import proton
from mqi_dagster.delivery.compared_beam import compare_beam, verdict_of
from mqi_dagster.delivery.comparison_figures import Axes, LayerComparison
from mqi_dagster.delivery.csv_verification import verify_interpreted
from mqi_dagster.delivery.interpretation import interpret_beam
from mqi_dagster.delivery.summary import InterpretedBeam, read_summary
from mqi_dagster.delivery.verdict import judge, limits_of, relative_mu
from mqi_dagster.errors import ConfigurationError, Where
from mqi_dagster.execution.scrub import Scrubber
from mqi_dagster.execution.site_command import run_site_command
from mqi_dagster.lifecycle import metadata
from mqi_dagster.lifecycle.arrived import inputs_away
from mqi_dagster.lifecycle.beam import BeamAtWork, inputs_digest, load_beam, require_unchanged
from mqi_dagster.lifecycle.boundary import tried_again
from mqi_dagster.lifecycle.digests import INTERPRETED_CSVS_CODE, interpreted_csvs_digest
from mqi_dagster.lifecycle.lineage import DIGEST, reusable, store_folder
from mqi_dagster.lifecycle.materialisations import INPUTS
from mqi_dagster.partitions import BEAM, LINEAGE_ONLY
from mqi_dagster.resources.composed import ParsedInputsResource, StoreResource
from mqi_dagster.resources.site import Site
from mqi_dagster.store.published import Published
from mqi_dagster.store.store import Store


def run_site_interpreter(site: Site, beam: BeamAtWork, output: Path) -> None:
    """Run the command of `interpretation.command` on a copy of one beam's inputs.

    Its placeholders are ``{input}`` (a case folder with the plan and this beam's deliveries), ``{plan}``,
    ``{beam_number}`` and ``{output}``.

    Raises:
        CommandError: It failed, hung, or left nothing in ``{output}``.
    """
    command = site.settings.interpretation.command
    if command is None:
        raise ConfigurationError("interpretation.command is not set")
    site.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=site.work, prefix="interpretation.") as folder:
        case_folder = Path(folder) / "case"
        case_folder.mkdir()
        plan = shutil.copyfile(require_unchanged(beam.manifest.plan, "RT plan"), case_folder / "RP.dcm")
        for delivery in beam.manifest.deliveries:
            if delivery.beam_number == beam.number:
                shutil.copytree(delivery.folder, case_folder / delivery.folder.name)
        run_site_command(
            command,
            {"input": case_folder, "plan": plan, "beam_number": str(beam.number), "output": output},
            wanted=output,
            scrubber=Scrubber([*beam.plan.identifiers, str(site.work)]),
        )


def _make(site: Site, store: Store, beam: BeamAtWork, digest: str) -> Published:
    options, profile = site.settings.interpretation, site.settings.engine.in_use()
    for layer in beam.entry.layers:
        for part in layer.parts:
            require_unchanged(part.record, "record")
            if part.machine_plan is not None:
                require_unchanged(part.machine_plan, "machine plan")
    case, folder = store_folder(beam.key)
    with store.stage(case, folder, "interpreted_csvs") as staging:
        if options.command is None:
            interpreted = interpret_beam(
                beam.entry, beam.plan_beam, beam.machine, options, profile.csv_dialect, staging
            )
        else:
            run_site_interpreter(site, beam, staging)
            interpreted = verify_interpreted(
                staging,
                beam.entry,
                beam.machine,
                options,
                plan_beam=beam.plan_beam,
                dialect=profile.csv_dialect,
            )
        meta = {"mu_ratio": interpreted.ratio, "layers": len(interpreted.layers)}
        return store.publish(staging, case, folder, "interpreted_csvs", digest, meta=meta)


COUNTS = proton.beam_check(
    "interpreted_csvs",
    "counts",
    "Counts in the CSVs equal those of the records; logged/planned MU inside the site's limits.",
)
DELIVERY = proton.beam_check(
    "interpreted_csvs",
    "delivery",
    "Every layer and spot was delivered as planned, by the limits of the settings;"
    " stops nothing: the dose of a wrong delivery is wanted.",
    blocking=False,
)


@dg.asset(
    partitions_def=BEAM.definition,
    deps=[dg.AssetDep("case_manifest", partition_mapping=LINEAGE_ONLY)],
    check_specs=[COUNTS, DELIVERY],
    code_version=INTERPRETED_CSVS_CODE,
    group_name=proton.BEAM,
    kinds={"csv", "polars"},
    owners=proton.OWNERS,
)
def interpreted_csvs(
    context: dg.AssetExecutionContext,
    site: dg.ResourceParam[Site],
    store: StoreResource,
    parsed_inputs: ParsedInputsResource,
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """One CSV per layer of the delivered beam (time, x, y, count), with counts, monitor units and ratios."""
    key = context.partition_key
    with tried_again(context, Where(beam=key), inputs_away(context.instance, site, store.open, key)):
        beam = load_beam(context.instance, store.open(), site.machines, key, parsed_inputs.open())
        digest = interpreted_csvs_digest(beam, site.settings.interpretation, site.settings.engine.in_use())
        published = reusable(store.open(), "interpreted_csvs", key, digest)
        if published is None:
            context.log.info("interpreting %d layers", len(beam.entry.layers))
            published = _make(site, store.open(), beam, digest)
        interpreted = read_summary(published.folder)
        limit_mm = limits_of(site.settings.delivery_check, beam.machine).position_mean_mm
        shown = metadata.shown_of(published, limit_mm=limit_mm)
        before = metadata.shown_before(context.instance, "interpreted_csvs", key, shown)
        pictures = (
            metadata.of_interpretation(beam, interpreted, published, limit_mm)
            if before is None
            else metadata.pictures_in(before)
        )
        # Not with the result: Dagster stores that metadata once more, with the output of the step.
        context.add_asset_metadata(
            {
                DIGEST: digest,
                INPUTS: inputs_digest(beam.manifest, beam.number),
                "beam": beam.entry.label,
                "layers": len(interpreted.layers),
                "samples": sum(layer.samples for layer in interpreted.layers),
                "delivered MU": round(interpreted.delivered_mu, 3),
                "planned MU": round(interpreted.planned_mu, 3),
                "MU ratio": round(interpreted.ratio or 0.0, 4),
                "MU per count": interpreted.mu_per_count,
                "layer table": _layer_table(interpreted),
                **_delivery_metadata(interpreted, site),
                **pictures,
            }
        )
        yield dg.MaterializeResult(data_version=dg.DataVersion(digest), tags={metadata.SHOWN_TAG: shown})
        published.verify()
        yield _counts(site, beam, published, interpreted.ratio)
        yield _delivery(site, beam, interpreted)


def _layer_table(interpreted: InterpretedBeam) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    "layer": layer.number,
                    "energy [MeV]": round(layer.energy_mev, 3),
                    "rows": layer.rows,
                    "beam-on": layer.beam_on_samples,
                    "planned MU": round(layer.planned_mu, 4),
                    "delivered MU": round(layer.delivered_mu, 4),
                    "ratio": round(layer.ratio or 0.0, 4),
                    "range code": ", ".join(str(code) for code in layer.range_codes),
                }
            )
            for layer in interpreted.layers
        ]
    )


def _delivery_metadata(interpreted: InterpretedBeam, site: Site) -> dict[str, dg.MetadataValue]:
    """What the comparison with the plan says, and its table; nothing where there was none."""
    verdict = verdict_of(interpreted, site.settings.delivery_check, site.machines)
    if verdict is None or interpreted.compared is None:
        return {}
    return {
        "delivery": dg.MetadataValue.text(verdict.text),
        "delivery table": _delivery_table(interpreted.compared),
    }


def _delivery_table(layers: Sequence[LayerComparison]) -> dg.TableMetadataValue:
    ratios = relative_mu(layers)
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    "layer": layer.number,
                    "mean x, y [mm]": _axes(layer.mean_mm, "+.2f"),
                    "SD x, y [mm]": _axes(layer.sd_mm, ".2f"),
                    "p95 x, y [mm]": _axes(layer.p95_mm, ".2f"),
                    "worst spot x, y [mm]": _axes(layer.maximum_mm, "+.2f"),
                    "MU against other layers [%]": round(100.0 * (ratios.get(layer.number, 1.0) - 1.0), 2),
                    "missing spots": len(layer.missing_spots),
                    "extra spots": len(layer.extra),
                    "beam-off dose [%]": round(layer.beam_off_percent, 3),
                }
            )
            for layer in layers
        ]
        or [dg.TableRecord({"layer": 0})]
    )


def _axes(value: Axes | None, form: str) -> str:
    return "-" if value is None else f"{value.x:{form}}, {value.y:{form}}"


def _delivery(site: Site, beam: BeamAtWork, interpreted: InterpretedBeam) -> dg.AssetCheckResult:
    """Holds the comparison in the published summary against the limits of now."""
    layers = interpreted.compared
    if layers is None:
        # Interpreted by earlier code, which did not compare.
        layers = compare_beam(beam.entry, beam.plan_beam, beam.machine)
    verdict = judge(layers, limits_of(site.settings.delivery_check, beam.machine))
    return dg.AssetCheckResult(
        check_name=DELIVERY.name,
        passed=verdict.as_planned,
        description=verdict.text,
        metadata={"delivery table": _delivery_table(layers)},
    )


def _counts(site: Site, beam: BeamAtWork, published: Published, ratio: float | None) -> dg.AssetCheckResult:
    """Opens the published CSVs again and compares them with the records."""
    options = site.settings.interpretation
    verify_interpreted(
        published.folder,
        beam.entry,
        beam.machine,
        options,
        dialect=site.settings.engine.in_use().csv_dialect,
    )
    passed = ratio is not None and options.mu_ratio_minimum <= ratio <= options.mu_ratio_maximum
    return dg.AssetCheckResult(
        check_name=COUNTS.name,
        passed=passed,
        description=None
        if passed
        else f"logged/planned MU {_digits(ratio)} is outside the limits of the settings"
        " (interpretation.mu_ratio_minimum, mu_ratio_maximum)",
        metadata={"MU ratio": round(ratio, 4) if ratio is not None else 0.0},
    )


def _digits(ratio: float | None) -> str:
    return "none" if ratio is None else f"{ratio:.4f}"
