"""One installation: its settings, and the rooms opened with them."""

from __future__ import annotations

import os
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.files import private_folder
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.location import ledger_url
from mqi_dagster.settings import LOCAL, Settings, read_settings

if TYPE_CHECKING:
    from mqi_dagster.dicom.pacs import Pacs
    from mqi_dagster.execution.job import Executor
    from mqi_dagster.execution.sign_of_life import SignsOfLife
    from mqi_dagster.handover.target import Target
    from mqi_dagster.hpc.connection import Connection
    from mqi_dagster.hpc.executor import SlurmExecutor
    from mqi_dagster.hu_table import HuTables
    from mqi_dagster.machine import Machines
    from mqi_dagster.pseudonyms import Pseudonyms
    from mqi_dagster.store.known_folders import KnownFolder
    from mqi_dagster.store.store import Store

# Each room is imported by whoever opens it: a command that needs one of them does not wait for the others.

SETTINGS_VARIABLE = "MQI_SETTINGS"


class Site:
    """A site's rooms, each opened at its first use.

    Args:
        settings_file: The site's settings; read at first use.
        given: A case folder named by a person, looked at instead of the inbox.
    """

    def __init__(self, settings_file: Path, *, given: Path | None = None) -> None:
        self.settings_file = settings_file
        self.given = given
        self._clusters: dict[str, SlurmExecutor] = {}
        self._connections: dict[str, Connection] = {}

    @classmethod
    def from_environment(cls) -> Site:
        """The site whose settings file the environment variable ``MQI_SETTINGS`` names."""
        return cls(Path(os.environ.get(SETTINGS_VARIABLE, "site/mqi.yaml")))

    @cached_property
    def settings(self) -> Settings:
        """The settings; ConfigurationError where they cannot be read."""
        if not self.settings_file.is_file():
            raise ConfigurationError(
                f"no settings file; run `mqi init` and set {SETTINGS_VARIABLE} to the file it writes"
            )
        return read_settings(self.settings_file)

    @property
    def inbox(self) -> Path:
        """Where cases arrive."""
        return self.settings.paths.inbox

    @cached_property
    def machines(self) -> Machines:
        """The machines of the site."""
        from mqi_dagster.machine import read_machines

        return read_machines(self.settings.paths.machines)

    @cached_property
    def hu_tables(self) -> HuTables:
        """The HU tables of the site's scanners."""
        from mqi_dagster.hu_table import read_hu_tables

        return read_hu_tables(self.settings.paths.hu_tables)

    @cached_property
    def pseudonyms(self) -> Pseudonyms:
        """Keyed hashes under the site's secret, which is the one that its cases were named with.

        Raises:
            ConfigurationError: It is missing, open to others, or another one.
        """
        from mqi_dagster.pseudonyms import Pseudonyms, read_secret

        found = Pseudonyms(read_secret(self.settings.site.secret_file))
        self.ledger.key_check.require(found.check)
        return found

    @cached_property
    def timezone(self) -> ZoneInfo:
        """Zone of the machines' times."""
        return ZoneInfo(self.settings.site.timezone)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, migrated to this code's revision."""
        private_folder(self.settings.paths.state)
        return Ledger.open(ledger_url(self.settings))

    def open_ledger_for_reading(self) -> Ledger:
        """The ledger as it stands, for one who must not change anything; see `Ledger.open_reading`."""
        return Ledger.open_reading(ledger_url(self.settings))

    @cached_property
    def store(self) -> Store:
        """The store."""
        from mqi_dagster.store.store import Store

        return Store(self.settings.paths.data)

    @cached_property
    def executor(self) -> Executor:
        """Runs engines: on this machine, or on the cluster that the settings name."""
        return self.executor_on(self.settings.execution.simulation) or self.local_executor

    @cached_property
    def local_executor(self) -> Executor:
        """Runs jobs on this machine."""
        from mqi_dagster.execution.local import LocalExecutor

        return LocalExecutor(self.settings.paths.state)

    def executor_on(self, host: str) -> SlurmExecutor | None:
        """The executor of a cluster by its name, None for a name that is none.

        Jobs may still be on a cluster that the settings do not simulate on any more.
        """
        from mqi_dagster.engine_contract.job_view import TPS_NAME
        from mqi_dagster.hpc.executor import SlurmExecutor

        known = self.settings.hosts.get(host)
        if known is None or known.slurm is None:
            return None
        if host not in self._clusters:
            self._clusters[host] = SlurmExecutor(host, known, known.slurm, self.ledger, TPS_NAME)
        return self._clusters[host]

    def connection_to(self, host: str) -> Connection:
        """A connection to a host of the settings, kept for as long as this process lives."""
        from mqi_dagster.hpc.connection import Connection

        if host not in self._connections:
            self._connections[host] = Connection(self.settings.hosts[host])
        return self._connections[host]

    @cached_property
    def target(self) -> Target:
        """Where results are handed over: a folder of this machine, or one of a host."""
        from mqi_dagster.handover.access import access_of
        from mqi_dagster.handover.folder import FolderTarget
        from mqi_dagster.handover.sftp import SftpTarget
        from mqi_dagster.hpc.connection import Connection

        handover = self.settings.handover
        if handover.target == LOCAL:
            return FolderTarget(handover.folder, access_of(handover))
        connection = Connection(self.settings.hosts[handover.target])
        return SftpTarget(connection, str(handover.folder), access_of(handover))

    @cached_property
    def pacs(self) -> Pacs:
        """The PACS of segmentation on request.

        Raises:
            ConfigurationError: The settings name none, or its password cannot be read.
        """
        from mqi_dagster.dicom.dicomweb import DicomWebPacs
        from mqi_dagster.dicom.orthanc_pacs import OrthancPacs

        wanted = self.settings.on_request
        if wanted.orthanc is not None:
            return OrthancPacs(wanted.orthanc)
        if wanted.dicomweb is not None:
            return DicomWebPacs(wanted.dicomweb)
        raise ConfigurationError("there is no PACS: on_request.orthanc or on_request.dicomweb names one")

    def known_folder(self, role: str, folder: Path) -> KnownFolder:
        """A folder that may lie on a share, with what is known of it."""
        from mqi_dagster.store.known_folders import KnownFolder

        return KnownFolder(self.settings.paths.state / "folders.json", role, folder)

    @property
    def work(self) -> Path:
        """Folder of running jobs."""
        return self.settings.paths.state / "work"

    @cached_property
    def signs_of_life(self) -> SignsOfLife:
        """Which run workers of this machine live."""
        from mqi_dagster.execution.sign_of_life import SignsOfLife

        return SignsOfLife(self.settings.paths.state / "workers")

    @property
    def engine_logs(self) -> Path:
        """What engines printed, scrubbed, by beam and attempt."""
        return self.settings.paths.state / "logs" / "engine"

    @property
    def stale_after(self) -> timedelta:
        """Age of a heartbeat from which on a lease is stale."""
        return timedelta(seconds=self.settings.execution.stale_seconds)
