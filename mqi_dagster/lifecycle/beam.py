"""One beam at work: its place in the case, its plan, machine and HU table, and what digests depend on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import ValidationError

from mqi_dagster.delivery.manifest import BeamEntry, CaseManifest, InputFile, beam_inputs
from mqi_dagster.dicom.scanner import read_scanner
from mqi_dagster.errors import (
    ConfigurationError,
    DicomError,
    InfrastructureError,
    InputError,
    KeyRejectedError,
    StoreError,
    Where,
)
from mqi_dagster.execution.job import Executor
from mqi_dagster.files import sha256_file
from mqi_dagster.hu_table import HuTable
from mqi_dagster.lifecycle.boundary import lost_infrastructure
from mqi_dagster.lifecycle.lineage import checked_key, resolve
from mqi_dagster.lifecycle.pipeline import Inventory
from mqi_dagster.machine import Machine, Machines
from mqi_dagster.partitions import BEAM, beam_key
from mqi_dagster.plan.model import IonPlan, PlanBeam
from mqi_dagster.plan.reading import read_ion_plan
from mqi_dagster.resources.composed import ParsedInputs
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import EngineProfile
from mqi_dagster.store.digests import digest_of
from mqi_dagster.store.published import Published
from mqi_dagster.store.store import Store

MANIFEST_FILE = "case_manifest.json"


def beams_of(manifest: CaseManifest) -> dict[int, str]:
    """Beam keys of a manifest by number."""
    return {number: beam_key(manifest.case, number) for number in sorted(b.number for b in manifest.beams)}


def inputs_digest(manifest: CaseManifest, number: int) -> str:
    """Digest of one beam's inputs alone, so that nothing else about the case runs it again.

    The images count, whether or not the engine of now simulates in them: what was made before is found in the
    store, and costs no simulation.
    """
    images = sorted(entry.sha256 for entry in manifest.ct_series)
    return digest_of(inputs=beam_inputs(manifest, number), **({"ct": images} if images else {}))[:16]


def beam_run_key(manifest: CaseManifest, number: int) -> str:
    """The run key of a beam's present inputs."""
    return f"{beam_key(manifest.case, number)}:{inputs_digest(manifest, number)}"


def inventory_of(manifest: CaseManifest | None) -> Inventory:
    """What a manifest says of a case's results; nothing where it has none, or a damaged one."""
    if manifest is None:
        return Inventory()
    inputs = {key: inputs_digest(manifest, number) for number, key in beams_of(manifest).items()}
    return Inventory(manifest.partial, inputs)


@dataclass(frozen=True, slots=True)
class BeamAtWork:
    """Everything a step needs to know of its beam."""

    key: str
    case: str
    number: int
    manifest: CaseManifest
    entry: BeamEntry
    plan: IonPlan
    plan_beam: PlanBeam
    machine: Machine

    @property
    def where(self) -> Where:
        """The beam as the place of an error."""
        return Where(case=self.case, beam=self.key)

    @property
    def inputs(self) -> dict[str, Any]:
        """Content of this beam's inputs alone; nothing of other beams, order, paths or times."""
        return beam_inputs(self.manifest, self.number)


def read_manifest(
    instance: dg.DagsterInstance, store: Store, case: str, parsed: ParsedInputs | None = None
) -> CaseManifest:
    """The published manifest of a case.

    Args:
        instance: Dagster's records.
        store: Where it was published.
        case: Case key.
        parsed: What the run has parsed already, and is added to.

    Raises:
        StoreError: It was never made, is gone, differs from what was published, or cannot be understood.
    """
    published = resolve(instance, store, "case_manifest", case)
    known = (parsed or ParsedInputs()).manifests
    content = published.content_digests().get(MANIFEST_FILE, "")
    if content not in known:
        known[content] = manifest_in(published, case)
    return known[content]


def find_manifest(instance: dg.DagsterInstance, store: Store, case: str) -> CaseManifest | None:
    """The inventory of a case; None where it has none, or it is damaged."""
    try:
        return read_manifest(instance, store, case)
    except StoreError:
        return None


def manifest_in(published: Published, case: str) -> CaseManifest:
    """The manifest of a case in what was published of it.

    Raises:
        StoreError: It cannot be understood.
    """
    try:
        return CaseManifest.model_validate_json(published.path(MANIFEST_FILE).read_bytes())
    except ValidationError:
        where = Where(case=case, kind="case_manifest")
        raise StoreError(
            "the manifest cannot be understood; materialise case_manifest", where=where
        ) from None


def require_unchanged(entry: InputFile, kind: str) -> Path:
    """The path of an input whose content is still what the manifest says.

    Raises:
        InputError: It is gone or has changed since the case was taken in.
    """
    where = Where(kind=kind, sha256=entry.sha256)
    try:
        same = sha256_file(entry.path) == entry.sha256
    except OSError as error:
        away = lost_infrastructure(error)
        if away is not None:
            raise InfrastructureError(f"the inbox is in trouble: {away}", where=where) from None
        raise InputError(
            f"the file cannot be read any more ({error.strerror}); materialise case_manifest again",
            where=where,
        ) from error
    if not same:
        raise InputError(
            "the file changed after the case was taken in; materialise case_manifest", where=where
        )
    return entry.path


def require_beam(
    instance: dg.DagsterInstance, store: Store, key: str, parsed: ParsedInputs | None = None
) -> tuple[str, int, CaseManifest, BeamEntry]:
    """Case, BeamNumber, manifest and entry of a beam partition: whatever has an effect asks this first.

    In the pages anybody can add a partition of any name.

    Raises:
        KeyRejectedError: It is no beam key, or the manifest of its case has no such beam.
        StoreError: The case was never taken in, or its manifest is gone or damaged.
    """
    beam = checked_key(BEAM, key)
    case, number = beam.root, beam.number
    manifest = read_manifest(instance, store, case, parsed)
    try:
        return case, number, manifest, manifest.beam(number)
    except KeyError as error:
        raise KeyRejectedError(
            "the case holds no delivery of this beam", where=Where(case=case, beam=key)
        ) from error


def _read_plan(entry: InputFile, known: dict[str, IonPlan]) -> IonPlan:
    path = require_unchanged(entry, "RT plan")
    if entry.sha256 not in known:
        known[entry.sha256] = read_ion_plan(path)
    return known[entry.sha256]


def load_beam(
    instance: dg.DagsterInstance,
    store: Store,
    machines: Machines,
    key: str,
    parsed: ParsedInputs | None = None,
) -> BeamAtWork:
    """The beam of a partition key, from the published manifest of its case.

    Args:
        instance: Dagster's records.
        store: Where the manifest was published.
        machines: Of the site.
        key: Of the beam.
        parsed: What the run has parsed already, and is added to.
    """
    case, number, manifest, entry = require_beam(instance, store, key, parsed)
    plan = _read_plan(manifest.plan, (parsed or ParsedInputs()).plans)
    plan_beam = plan.beam(number)
    return BeamAtWork(
        key=key,
        case=case,
        number=number,
        manifest=manifest,
        entry=entry,
        plan=plan,
        plan_beam=plan_beam,
        machine=machines.named(plan_beam.machine_name),
    )


def engine_version(profile: EngineProfile, executor: Executor) -> str:
    """The engine's version, asked where engines run, or as the settings say.

    Raises:
        ConfigurationError: It cannot be asked or prints nothing, or the settings do not say it.
        UnreachableError: The cluster does not answer.
    """
    if profile.version_command is not None:
        version = executor.answer(profile.version_command)
        if not version:
            raise ConfigurationError("the engine's version_command prints nothing; see `mqi doctor`")
        return version
    if profile.version is None:
        raise ConfigurationError("the engine profile has neither version nor version_command")
    return profile.version


_CT = Where(kind="CT")


def hu_table_of(site: Site, manifest: CaseManifest) -> HuTable | None:
    """The site's table for the scanner of the case's CT; None where nothing of ours is simulated in one.

    Raises:
        UnknownScannerError: No table is for it.
        ConfigurationError: The site's tables cannot be read, or two are for it.
        InputError: The CT has changed since the case was taken in.
    """
    profile = site.settings.engine_profile()
    images = manifest.ct_series
    if not (profile.patient_ct and profile.reads_beam_model and images):
        return None
    try:
        scanner = read_scanner(require_unchanged(images[0], "CT image"))
    except DicomError as error:
        raise InputError(error.message, where=_CT, first_cause=error.first_cause) from None
    except OSError as error:
        raise InfrastructureError(f"the CT cannot be read: {error.strerror}", where=_CT) from None
    return site.hu_tables.of(scanner, manifest.machine_id)
