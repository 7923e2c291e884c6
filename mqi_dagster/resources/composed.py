"""What assets and sensors are handed beside the site: each opened from it, and each replaceable alone.

Nothing is read or connected before a step or a tick calls ``open``: what fails then is that step's failure.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import dagster as dg
from pydantic import PrivateAttr

from mqi_dagster.delivery.manifest import CaseManifest
from mqi_dagster.dicom.pacs import Pacs
from mqi_dagster.dose.grid import DoseGrid
from mqi_dagster.execution.job import Executor
from mqi_dagster.handover.target import Target
from mqi_dagster.notify.message import Channel, channels_of
from mqi_dagster.plan.model import IonPlan
from mqi_dagster.resources.gpu_pool import GpuPool
from mqi_dagster.resources.site import Site
from mqi_dagster.store.store import Store


class ExecutorResource(dg.ConfigurableResource[Executor]):
    """Where engines run: as processes of this machine, or as jobs of the Slurm cluster that
    `execution.simulation` names."""

    site: dg.ResourceDependency[Site]

    def open(self) -> Executor:
        """The executor of the settings."""
        return self.site.executor


class GpuPoolResource(dg.ConfigurableResource[GpuPool]):
    """The slots of simulations, one for each GPU or, without GPUs, for each share of the cores: which are
    there, which are leased, and what ended runs still hold."""

    site: dg.ResourceDependency[Site]

    def open(self) -> GpuPool:
        """The pool of the site."""
        return GpuPool(self.site)


class StoreResource(dg.ConfigurableResource[Store]):
    """Results on disk below `paths.data`, by case, beam, asset and digest, published by rename and verified
    when they are read."""

    site: dg.ResourceDependency[Site]

    def open(self) -> Store:
        """The store of the settings."""
        return self.site.store


@dataclass(frozen=True, slots=True)
class ParsedInputs:
    """What a run has parsed, by the SHA-256 of the file or the digest of the files that it was in."""

    plans: dict[str, IonPlan] = field(default_factory=dict)
    manifests: dict[str, CaseManifest] = field(default_factory=dict)
    doses: dict[str, dict[str, DoseGrid]] = field(default_factory=dict)
    """Grids of a raw dose by their role. Whoever reads them next takes them out: they are large."""


class ParsedInputsResource(dg.ConfigurableResource[ParsedInputs]):
    """Plans, case manifests and raw doses that the steps of one run have parsed, so that each is parsed once
    a run. Every step still hashes the file before it takes what was parsed of this content."""

    _parsed: ParsedInputs = PrivateAttr(default_factory=ParsedInputs)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Begin a run with nothing."""
        self._parsed = ParsedInputs()

    def open(self) -> ParsedInputs:
        """What this run has parsed so far."""
        return self._parsed


class TargetResource(dg.ConfigurableResource[Target]):
    """Where results are handed over, as `handover.target` says: a folder of this machine or of a mounted
    share, or a folder of a host reached by SFTP."""

    site: dg.ResourceDependency[Site]

    def open(self) -> Target:
        """The target of the settings."""
        return self.site.target


class PacsResource(dg.ConfigurableResource[Pacs]):
    """The PACS of segmentation on request, as the section `on_request` says: an Orthanc by its REST API, or
    any by DICOMweb."""

    site: dg.ResourceDependency[Site]

    def open(self) -> Pacs:
        """The PACS of the settings."""
        return self.site.pacs


class NotifierResource(dg.ConfigurableResource[Iterator[Channel]]):
    """Who is told of alarms and concluded cases: the webhook and the mail server of the section
    `notifications`."""

    site: dg.ResourceDependency[Site]

    def open(self) -> Iterator[Channel]:
        """The channels of the settings; none where nobody is told."""
        return channels_of(self.site.settings.notifications)


def resources_of(site: Site) -> dict[str, object]:
    """The site and what is composed from it, by the names that assets and sensors ask for."""
    # One definition for all, so that Dagster's page shows which resource is composed from it.
    whole = dg.ResourceDefinition.hardcoded_resource(
        site, description="One installation: settings, machines, HU tables, pseudonyms, ledger and folders."
    )
    return {
        "site": whole,
        "executor": ExecutorResource(site=whole),
        "gpu_pool": GpuPoolResource(site=whole),
        "store": StoreResource(site=whole),
        "parsed_inputs": ParsedInputsResource(),
        "target": TargetResource(site=whole),
        "pacs": PacsResource(site=whole),
        "notifier": NotifierResource(site=whole),
    }
