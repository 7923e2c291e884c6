"""Station 3: lease, TPS file, engine, verified raw dose. One step, since the lease spans both assets."""

from collections.abc import Callable, Iterator

import dagster as dg

from mqi_dagster.assets import proton
from mqi_dagster.backoff import Backoff
from mqi_dagster.compute.retrying import Retrying
from mqi_dagster.compute.simulated_beam import SimulatedBeam
from mqi_dagster.compute.slots import engine_failures
from mqi_dagster.dagster_internals import PARENT_RUN_ID_TAG
from mqi_dagster.engine_contract.view import require_simulable
from mqi_dagster.errors import MqiError, StoreError, Where
from mqi_dagster.lifecycle import metadata
from mqi_dagster.lifecycle.arrived import inputs_away
from mqi_dagster.lifecycle.beam import BeamAtWork, engine_version, hu_table_of, load_beam
from mqi_dagster.lifecycle.boundary import Boundary, is_passing
from mqi_dagster.lifecycle.digests import SIMULATION_CODE, raw_dose_digest
from mqi_dagster.lifecycle.jobs import FAILURES_TAG, POOL, RETRY_OF_TAG
from mqi_dagster.lifecycle.lineage import DIGEST, RAW_DOSE, resolve, reusable
from mqi_dagster.lifecycle.raw_dose_files import RawDoseRecord, keep_raw_dose, read_raw_dose, read_record
from mqi_dagster.lifecycle.stages import WorkPhase
from mqi_dagster.partitions import BEAM
from mqi_dagster.resources.composed import (
    ExecutorResource,
    GpuPoolResource,
    ParsedInputs,
    ParsedInputsResource,
    StoreResource,
)
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import Engine
from mqi_dagster.store.published import Published
from mqi_dagster.store.store import Store


def _reused(store: Store, key: str, digest: str) -> tuple[Published, Published] | None:
    raw = reusable(store, "raw_dose", key, digest)
    if raw is None:
        return None
    tps = reusable(store, "tps_file", key, str(raw.meta["tps_file"]))
    return None if tps is None else (tps, raw)


def _tps_result(beam: BeamAtWork, published: Published, gpu: str) -> dg.MaterializeResult[None]:
    text = published.path("moqui_tps.in").read_text(encoding="utf-8")
    return dg.MaterializeResult(
        asset_key="tps_file",
        data_version=dg.DataVersion(published.digest),
        metadata={
            DIGEST: published.digest,
            "beam": beam.entry.label,
            "slot": gpu,
            "particles per history": float(f"{published.meta['particles_per_history']:.6g}"),
            "histories wanted": float(published.meta["expected_histories"]),
            "keys": dg.MetadataValue.int(sum(1 for line in text.splitlines() if line)),
        },
    )


def _raw_result(
    beam: BeamAtWork, published: Published, csvs: str, engine: Engine, parsed: ParsedInputs, *, reused: bool
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """The raw dose, and what its checks find in what was published."""
    record = read_record(published)
    yield dg.MaterializeResult(
        asset_key=RAW_DOSE,
        data_version=dg.DataVersion(published.digest),
        metadata={
            DIGEST: published.digest,
            "beam": beam.entry.label,
            "engine": record.engine,
            "version": record.version,
            "seed": record.seed,
            "histories": record.histories,
            "protons": float(f"{record.protons:.6g}"),
            "uncertainty [%]": (
                round(record.uncertainty_percent, 2)
                if record.uncertainty_percent is not None
                else "not reported"
            ),
            "HU table": record.hu_table_name,
            "computed in this run": not reused,
        },
    )
    yield _engine_output(published, csvs, parsed)
    yield _uncertainty(record, engine.uncertainty_maximum_percent)


def _waits(context: dg.AssetExecutionContext, site: Site, key: str) -> Callable[[str], None]:
    """Tells people that a beam waits for the cluster, before it has a slot."""

    def say(reason: str) -> None:
        if reason:
            site.ledger.progress.record(
                key, context.run.run_id, WorkPhase.WAITING_FOR_CLUSTER, message=reason
            )

    return say


def _budget_left(context: dg.AssetExecutionContext, site: Site, key: str) -> bool:
    """Whether the engine may be started once more, after what it has failed in this run and those before.

    A run that a person has started begins anew; one that goes on after infrastructure was lost does not.
    """
    attempts = site.settings.execution.attempts
    tags = context.run.tags
    goes_on = RETRY_OF_TAG in tags and tags[RETRY_OF_TAG] == tags.get(PARENT_RUN_ID_TAG)
    before = int(tags.get(FAILURES_TAG, "0")) if goes_on else 0
    return context.retry_number < attempts - 1 and (
        before + engine_failures(site, key, context.run.run_id) < attempts
    )


ENGINE_OUTPUT = proton.beam_check(
    RAW_DOSE,
    "engine_output",
    "The dose is finite, not zero, of this beam, and its histories are those of the counts.",
)
UNCERTAINTY = proton.beam_check(
    RAW_DOSE,
    "uncertainty",
    "Mean statistical uncertainty above half of the maximum dose is below the site's limit.",
)


@dg.multi_asset(
    name="simulation",
    specs=[
        dg.AssetSpec(
            "tps_file",
            deps=["interpreted_csvs"],
            description="The engine's input file, written for the slot that the beam has leased.",
            code_version=SIMULATION_CODE,
            group_name=proton.BEAM,
            kinds={"text"},
            owners=proton.OWNERS,
        ),
        dg.AssetSpec(
            RAW_DOSE,
            deps=["tps_file"],
            description="What the Monte Carlo engine wrote, opened and verified.",
            code_version=SIMULATION_CODE,
            group_name=proton.BEAM,
            kinds={"monte_carlo", "numpy"},
            owners=proton.OWNERS,
        ),
    ],
    check_specs=[ENGINE_OUTPUT, UNCERTAINTY],
    partitions_def=BEAM.definition,
    pool=POOL,
)
def simulation(
    context: dg.AssetExecutionContext,
    site: dg.ResourceParam[Site],
    executor: ExecutorResource,
    gpu_pool: GpuPoolResource,
    store: StoreResource,
    parsed_inputs: ParsedInputsResource,
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    key = context.partition_key
    boundary = Boundary(
        Where(beam=key),
        budget_left=lambda: _budget_left(context, site, key),
        inputs_away=inputs_away(context.instance, site, store.open, key),
        retry_in=Backoff(1.0).seconds(context.retry_number + 1),
    )
    with boundary:
        results, engines, pool = store.open(), executor.open(), gpu_pool.open()
        parsed = parsed_inputs.open()
        beam = load_beam(context.instance, results, site.machines, key, parsed)
        csvs = resolve(context.instance, results, "interpreted_csvs", key)
        engine = site.settings.engine
        profile = site.settings.engine_profile()
        in_images = bool(beam.manifest.ct_series) and profile.patient_ct
        # Before anything is reused: earlier code may have computed what must not be handed over.
        require_simulable(beam.plan_beam, beam.machine, profile, in_images=in_images)
        retrying = Retrying(context.log, engines.intervals, _waits(context, site, key))
        version = retrying.call("asking the engine's version", lambda: engine_version(profile, engines))
        hu_table = hu_table_of(site, beam.manifest)
        digest = raw_dose_digest(beam, csvs.digest, engine, version, hu_table)
        found = _reused(results, key, digest)
        if found is None:
            run = SimulatedBeam(context, site, engines, pool, results, beam, csvs, digest, version, hu_table)
            found = run.acquire(lambda: _reused(results, key, digest))
            if found is None:
                with run:
                    tps, view = run.prepare()
                    yield _tps_result(beam, tps, run.slot)
                    raw = run.simulate(view, tps)
                yield from _raw_result(beam, raw, csvs.digest, engine, parsed, reused=False)
                return
        # An earlier run may have died between its result and the end of its lease.
        pool.free_ended(context.instance)
        if site.ledger.leases.get(key) is None:
            site.ledger.attempts.record_success(key, digest, context.run.run_id)
        tps, raw = found
        context.log.info("found in the store; no engine is started")
        site.ledger.progress.record(key, context.run.run_id, WorkPhase.SIMULATED, percent=100.0)
        yield _tps_result(beam, tps, "none")
        yield from _raw_result(beam, raw, csvs.digest, engine, parsed, reused=True)


def _engine_output(raw: Published, csvs: str, parsed: ParsedInputs) -> dg.AssetCheckResult:
    """Opens the published raw dose again."""
    try:
        raw.verify()
        record, grids = read_raw_dose(raw, parsed)
        if record.interpreted_csvs != csvs:
            raise StoreError("the raw dose was made from other CSVs than the present ones")
        for grid in grids.values():
            grid.require_a_dose()
        keep_raw_dose(raw, grids, parsed)
    except MqiError as error:
        if is_passing(error):
            raise
        return dg.AssetCheckResult(
            asset_key=RAW_DOSE, check_name=ENGINE_OUTPUT.name, passed=False, description=error.message
        )
    return dg.AssetCheckResult(
        asset_key=RAW_DOSE,
        check_name=ENGINE_OUTPUT.name,
        passed=True,
        metadata={
            name: value
            for role, grid in grids.items()
            for name, value in metadata.maximum(float(grid.values.max()), grid.units, role).items()
        },
    )


def _uncertainty(record: RawDoseRecord, limit: float) -> dg.AssetCheckResult:
    """Compares what the engine reported with the limit in the settings."""
    if record.uncertainty_percent is None:
        return dg.AssetCheckResult(
            asset_key=RAW_DOSE,
            check_name=UNCERTAINTY.name,
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            description="the engine reports no uncertainty",
        )
    return dg.AssetCheckResult(
        asset_key=RAW_DOSE,
        check_name=UNCERTAINTY.name,
        passed=record.uncertainty_percent <= limit,
        description=f"{record.uncertainty_percent:.2f} %, limit {limit:g} %"
        " (engine.uncertainty_maximum_percent)",
        metadata={"uncertainty [%]": round(record.uncertainty_percent, 2)},
    )
