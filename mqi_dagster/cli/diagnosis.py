"""What `mqi doctor` looks at, one function a subject."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from sqlalchemy.exc import SQLAlchemyError

from mqi_dagster.cli import service_locks
from mqi_dagster.cli.checking import configuration_problems
from mqi_dagster.cli.diagnosis_alarms import examine_alarms
from mqi_dagster.cli.diagnosis_hosts import examine_hosts
from mqi_dagster.cli.diagnosis_modes import examine_modes
from mqi_dagster.cli.diagnosis_production import (
    examine_backup,
    examine_records,
    examine_retention,
    examine_schema,
    examine_units,
    examine_way_in,
)
from mqi_dagster.cli.findings import Finding, Verdict, finding
from mqi_dagster.cli.instance import open_instance, pool_limit, pool_limit_of
from mqi_dagster.cli.services import Services
from mqi_dagster.cli.site_secret import require_own_secret
from mqi_dagster.cli.sites import local_zone, settings_path
from mqi_dagster.engine.embedded.install import installed_engine
from mqi_dagster.errors import MqiError
from mqi_dagster.execution.gpus import local_gpus, pool_gpus, present_gpus
from mqi_dagster.execution.processes import resolve_program
from mqi_dagster.hu_table import read_hu_tables
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.place import ledger_url
from mqi_dagster.ledger.tables import REVISION
from mqi_dagster.machine import read_machines
from mqi_dagster.settings import LOCAL, Settings, read_settings

PACKAGE = "mqi-dagster"
_LITTLE_SPACE = 20 * 1000**3
_NO_SPACE = 1 * 1000**3
_ENGINE_SECONDS = 60


def examine(place: Path) -> Iterator[Finding]:
    """Everything about this installation and a site of it; a fault hides only what cannot be looked at."""
    yield _python()
    yield from _dependencies()
    try:
        file = settings_path(place)
    except MqiError as error:
        yield Finding("site", Verdict.FAULT, error.message, f"mqi init {place}")
        return
    wrong = configuration_problems(file)
    for problem in wrong:
        yield Finding("settings", Verdict.FAULT, problem, "correct the file; mqi settings-reference")
    if wrong:
        return
    settings = read_settings(file)
    yield Finding("settings", Verdict.OK, "settings and machine files fit their types")
    yield _machines(settings)
    yield _hu_tables(settings)
    yield _zone(settings)
    yield _secret(settings)
    yield from _folders(settings)
    yield examine_modes(file, settings)
    yield from _space(settings)
    if settings.execution.simulation == LOCAL:
        yield from _engine(settings)
        yield _gpus(settings)
    records = list(examine_records(settings))
    yield from records
    opened = _opened(settings, records[-1])
    yield from _instance(settings, opened)
    yield from examine_hosts(settings, opened)
    yield from examine_alarms(settings, opened)
    if not service_locks.held(settings):
        # Else the units are what runs; nothing of `mqi dev` is to be started beside them.
        yield _services(file, settings)
    yield from examine_units(settings)
    yield examine_way_in(settings)
    yield examine_retention(settings)


def _python() -> Finding:
    version = platform.python_version()
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("python", Verdict.FAULT, version, "use Python 3.11, 3.12 or 3.13")
    return Finding("python", Verdict.OK, version)


def _dependencies() -> Iterator[Finding]:
    for text in metadata.requires(PACKAGE) or []:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield Finding(wanted.name, Verdict.FAULT, "not installed", "make install")
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            yield Finding(wanted.name, Verdict.FAULT, f"{version}, not {wanted.specifier}", "make install")
            continue
        yield Finding(wanted.name, Verdict.OK, version)


def _machines(settings: Settings) -> Finding:
    def look() -> str:
        machines = read_machines(settings.paths.machines).all
        return ", ".join(
            f"{one.id}{'' if one.beam_model.commissioned else ' (relative dose)'}" for one in machines
        )

    return finding("machines", "correct the machine files", look)


def _hu_tables(settings: Settings) -> Finding:
    def look() -> str:
        tables = read_hu_tables(settings.paths.hu_tables).all
        return ", ".join(f"{one.id}{'' if one.calibrated else ' (typical)'}" for one in tables)

    return finding("HU tables", "correct the HU tables", look)


def _zone(settings: Settings) -> Finding:
    zone, here = settings.site.timezone, local_zone()
    if zone != here:
        found = f"{zone}; this computer is in {here}"
        return Finding("time zone", Verdict.WARNING, found, "right if the machines' clocks show that zone")
    return Finding("time zone", Verdict.OK, zone)


def _secret(settings: Settings) -> Finding:
    def look() -> str:
        require_own_secret(settings)
        return "there, readable by this user alone"

    return finding("secret", "chmod 600 on it, or put it back from the backup", look)


def _folders(settings: Settings) -> Iterator[Finding]:
    paths = settings.paths
    written = {"data": paths.data, "state": paths.state, "dagster_home": paths.dagster_home}
    if settings.handover.target == LOCAL:
        written["handover"] = settings.handover.folder
    yield _folder("inbox", paths.inbox, os.R_OK | os.X_OK, "readable")
    for name, path in written.items():
        yield _folder(name, path, os.R_OK | os.W_OK | os.X_OK, "writable")


def _folder(name: str, path: Path, mode: int, word: str) -> Finding:
    if not path.is_dir():
        return Finding(name, Verdict.FAULT, f"{path} is not there", "mqi init makes it, or mount it")
    if not os.access(path, mode):
        return Finding(name, Verdict.FAULT, f"{path} is not {word}", "change its owner or mode")
    return Finding(name, Verdict.OK, f"{path} is {word}")


def _space(settings: Settings) -> Iterator[Finding]:
    places = {
        "data": settings.paths.data,
        "state": settings.paths.state,
        "Dagster": settings.paths.dagster_home,
    }
    if settings.handover.target == LOCAL:
        places["handover"] = settings.handover.folder
    disks: dict[int, list[str]] = {}
    try:
        for name, path in places.items():
            disks.setdefault(path.stat().st_dev, []).append(name)
        free = {disk: shutil.disk_usage(places[names[0]]).free for disk, names in disks.items()}
    except OSError as error:
        yield Finding("disk", Verdict.FAULT, error.strerror or "unknown", "see the folders")
        return
    for number, (disk, names) in enumerate(disks.items(), start=1):
        subject = "disk" if number == 1 else f"disk {number}"
        found = f"{free[disk] / 1e9:.1f} GB free for {', '.join(names)}"
        if free[disk] < _NO_SPACE:
            yield Finding(subject, Verdict.FAULT, found, "make room: nothing more can be stored")
        elif free[disk] < _LITTLE_SPACE:
            yield Finding(subject, Verdict.WARNING, found, "a beam needs about 0.1 GB")
        else:
            yield Finding(subject, Verdict.OK, found)


def _engine(settings: Settings) -> Iterator[Finding]:
    profile = settings.engine.in_use()
    name = f"engine {settings.engine.profile}"
    if profile.reads_beam_model and profile.command[0] == "mqi-engine":
        cache = settings.engine.embedded.cache
        yield finding(
            "MCsquare", "mqi engine install", lambda: f"{installed_engine(cache).version}, files whole"
        )
    yield finding(
        name,
        "install it, or set the command of the profile",
        lambda: f"{Path(str(resolve_program(profile.command[0]))).name} found",
    )
    if profile.version_command is not None:
        command = profile.version_command
        yield finding(f"{name} version", "run the version_command by hand", lambda: _answer(command))


def _answer(command: tuple[str, ...]) -> str:
    argv = [str(resolve_program(command[0])), *command[1:]]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_ENGINE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise MqiError(f"no answer within {_ENGINE_SECONDS} s") from None
    if done.returncode != 0:
        raise MqiError(f"exit code {done.returncode}")
    return done.stdout.strip()


def _gpus(settings: Settings) -> Finding:
    needed, declared = settings.engine.in_use().needs_gpu, settings.execution.gpus
    try:
        seen = local_gpus()
        gpus, there = pool_gpus(declared, seen), {gpu.uuid for gpu in present_gpus(declared, seen)}
    except MqiError as error:
        return Finding("GPUs", Verdict.FAULT, error.message, "correct execution.gpus; nvidia-smi -L")
    if not gpus:
        if needed:
            return Finding("GPUs", Verdict.FAULT, "none seen by NVML", "install the driver; nvidia-smi")
        return Finding("GPUs", Verdict.OK, "none here, none needed by this engine")
    if away := ", ".join(gpu.uuid for gpu in gpus if gpu.uuid not in there):
        return Finding("GPUs", Verdict.FAULT, f"declared and not seen by NVML: {away}", "nvidia-smi")
    names = ", ".join(f"{gpu.index}: {gpu.name}, {gpu.memory_mb or 0:,} MB" for gpu in gpus)
    return Finding("GPUs", Verdict.OK, names if needed else f"{names} (not needed by this engine)")


def _instance(settings: Settings, ledger: Ledger | None) -> Iterator[Finding]:
    wanted = pool_limit(settings, ledger)
    try:
        with open_instance(settings) as instance:
            limit = pool_limit_of(instance)
            runs = instance.get_runs_count()
            schema = examine_schema(instance)
    except MqiError as error:
        yield Finding("Dagster", Verdict.FAULT, error.message, "mqi init")
        return
    except (SQLAlchemyError, OSError, ValueError) as error:
        yield Finding("Dagster", Verdict.FAULT, type(error).__name__, "see dagster.yaml and its storage")
        return
    yield Finding("Dagster", Verdict.OK, f"instance opens, {runs} runs so far")
    yield schema
    yield examine_backup(settings, runs)
    if limit is None:
        yield Finding("pool gpu", Verdict.FAULT, "no limit is set", "mqi init, or start with mqi dev")
    elif limit != wanted:
        found = f"limit {limit}, settings and pool say {wanted}"
        yield Finding("pool gpu", Verdict.WARNING, found, "mqi init, or start again with mqi dev")
    else:
        yield Finding("pool gpu", Verdict.OK, f"limit {limit}")


def _opened(settings: Settings, looked_at: Finding) -> Ledger | None:
    """The ledger, where opening it changes nothing."""
    if looked_at.subject != "ledger" or looked_at.found != f"revision {REVISION}":
        return None
    return Ledger.open(ledger_url(settings))


def _services(file: Path, settings: Settings) -> Finding:
    services = Services(file, settings)
    try:
        found = services.recorded()
        dead = found.dead() if found is not None else []
    except MqiError as error:
        return Finding("services", Verdict.FAULT, error.message, "mqi stop")
    if found is None:
        return Finding("services", Verdict.OK, "not running; mqi dev starts them")
    if dead:
        advice = f"see {services.logs}; mqi stop, then mqi dev"
        return Finding("services", Verdict.FAULT, f"ended by themselves: {', '.join(dead)}", advice)
    return Finding("services", Verdict.OK, f"running, pages at {found.pages.address}")
