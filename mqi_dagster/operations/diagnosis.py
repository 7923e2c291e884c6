"""What `mqi doctor` looks at, one function a subject, alarms and their channels among them."""

from __future__ import annotations

import os
import platform
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from sqlalchemy.exc import SQLAlchemyError

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.embedded_engine.install import installed_engine
from mqi_dagster.errors import InfrastructureError, MqiError
from mqi_dagster.execution.gpus import local_gpus, pool_gpus, present_gpus
from mqi_dagster.execution.processes import ask, resolve_program
from mqi_dagster.files import write_whole
from mqi_dagster.hu_table import read_hu_tables
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.location import ledger_url
from mqi_dagster.lifecycle.health import services
from mqi_dagster.lifecycle.uptime import Heartbeat
from mqi_dagster.machine import read_machines
from mqi_dagster.operations.course_diagnosis import examine_courses, examine_on_request
from mqi_dagster.operations.instance import open_instance, pool_limit, pool_limit_of
from mqi_dagster.operations.probes import (
    ProbeFinding,
    ProbeVerdict,
    examine_backup,
    examine_hosts,
    examine_modes,
    examine_records,
    examine_retention,
    examine_schema,
    examine_units,
    examine_way_in,
    fault,
    finding,
    guarded,
    ok,
    warning,
    words_of,
)
from mqi_dagster.operations.service_locks import managed
from mqi_dagster.operations.services import Services
from mqi_dagster.operations.settings_text import configuration_problems
from mqi_dagster.operations.site_folder import is_run_site, require_own_secret
from mqi_dagster.operations.sites import local_zone, settings_path, usable_settings
from mqi_dagster.operations.web_diagnosis import examine_web
from mqi_dagster.resources.site import Site
from mqi_dagster.resources.site_folders import inbox_trouble, target_trouble
from mqi_dagster.settings import LOCAL, Settings, read_settings
from mqi_dagster.settings.passwords import read_password
from mqi_dagster.worklist.reading import plain_errors


def examine_health(site: Site, ledger: Ledger | None, seen: set[AlarmKind]) -> Iterator[ProbeFinding]:
    """Services and sensors that do not do their work, as everybody sees it who looks.

    Args:
        site: The site.
        ledger: What waits stands there; None where it cannot be read.
        seen: Gets the kinds of what is found.
    """
    now = datetime.now(UTC)
    with plain_errors(), open_instance(site.settings) as instance:
        found = services(instance, site, PIPELINES, ledger, now, Heartbeat.of(instance, now))
    for one in found:
        since = "" if one.since is None else f"since {one.since:%Y-%m-%d %H:%M} UTC: "
        seen.add(one.kind)
        yield fault(f"now {one.kind.value}", f"{one.subject}, {since}{one.text}", "mqi alarms")


def examine_alarms(
    settings: Settings, ledger: Ledger | None, seen: Collection[AlarmKind] = ()
) -> Iterator[ProbeFinding]:
    """The alarms that stand, the secrets of the notifications, and receivers that take nothing.

    Args:
        settings: Of the site.
        ledger: Where alarms stand; None where there is none yet.
        seen: Kinds of what was found already.
    """
    notifications = settings.notifications
    secrets: dict[str, Path] = {}
    if notifications.webhook is not None and notifications.webhook.secret_file is not None:
        secrets["webhook"] = notifications.webhook.secret_file
    if notifications.mail is not None and notifications.mail.password_file is not None:
        secrets["mail"] = notifications.mail.password_file
    for name, path in secrets.items():
        yield finding(f"secret of {name}", "write it, mode 0600", partial(_secret, path))
    if ledger is None:
        return
    for alarm in ledger.alarms.open():
        if alarm.kind in seen:
            continue
        found = f"since {alarm.first_at:%Y-%m-%d %H:%M} UTC: {alarm.text}"
        yield warning(f"alarm {alarm.kind.value}", f"{alarm.subject}, {found}", "mqi alarms")
    wanted = {"webhook": notifications.webhook, "mail": notifications.mail}
    for state in ledger.notices.channels():
        if state.trouble and wanted.get(state.channel) is not None:
            yield warning(f"notices by {state.channel}", state.trouble, "mqi notify --test")


def _secret(path: Path) -> str:
    read_password(path, "it")
    return "there, readable by this user alone"


PACKAGE = "mqi-dagster"
_LITTLE_SPACE = 20 * 1000**3
_NO_SPACE = 1 * 1000**3
_START_SECONDS = 10
_NOT_NEEDED = "not needed here: `mqi case run` and `mqi course run` do without services"
_NOT_STARTED = (126, 127)
"""What a shell ends with where a program is there and cannot be run, or is not there."""


def examine(path: Path) -> Iterator[ProbeFinding]:
    """Everything about this installation and a site of it; a fault hides only what cannot be looked at."""
    yield _python()
    yield from _dependencies()
    try:
        file = settings_path(path)
    except MqiError as error:
        yield fault("site", error.message, f"mqi init {path}")
        return
    wrong = configuration_problems(file)
    for problem in wrong:
        yield fault("settings", problem, "correct the file; mqi settings-reference")
    settings = usable_settings(file) if wrong else read_settings(file)
    if settings is None:
        return
    if not wrong:
        yield ok("settings", "settings and machine files fit their types")
    yield from _of_the_site(file, settings)


def _of_the_site(file: Path, settings: Settings) -> Iterator[ProbeFinding]:
    """Every subject on its own, so that a surprise in one of them hides no other."""
    advice = "mend what the message names; the others were examined all the same"
    site = Site(file)
    # What of the file is wrong is told already.
    site.settings = settings
    yield _machines(settings)
    yield _hu_tables(settings)
    yield from guarded("modes", advice, lambda: [examine_modes(file, settings)])
    yield from guarded("time zone", advice, lambda: [_zone(settings)])
    yield _own_secret(settings)
    yield from guarded("account", advice, lambda: _account(settings))
    yield from guarded("folders", advice, lambda: _folders(site, settings))
    yield from guarded("disk", advice, lambda: _space(settings))
    if settings.execution.simulation == LOCAL:
        yield from guarded("engine", advice, lambda: _engine(settings))
        yield from guarded("GPUs", advice, lambda: [_gpus(settings)])
    yield from guarded("courses", advice, lambda: examine_courses(site))
    yield from guarded("PACS", advice, lambda: examine_on_request(site))
    records = list(guarded("ledger", "restore the backup", lambda: examine_records(settings)))
    yield from records
    opened = _opened(settings, records[-1])
    advice = "see dagster.yaml and its storage"
    served = not is_run_site(file) or Services(file, settings).recorded() is not None
    of_dagster = list(guarded("Dagster", advice, lambda: _instance(settings, opened, served)))
    yield from of_dagster
    yield from examine_hosts(settings, opened)
    if not managed(settings):
        # Else the units are what runs; nothing of `mqi dev` is to be started beside them.
        yield from guarded("services", "mqi stop, then mqi dev", lambda: [_services(file, settings, served)])
    yield from guarded("units", advice, lambda: examine_units(settings))
    seen: set[AlarmKind] = set()
    if not any(one.subject == "Dagster" and one.verdict is ProbeVerdict.FAULT for one in of_dagster):
        yield from guarded("health", "see Dagster", lambda: examine_health(site, opened, seen))
    yield from guarded("alarms", "see the ledger", lambda: examine_alarms(settings, opened, seen))
    yield from guarded("pages", "see docs/production.md", lambda: examine_web(settings, opened))
    yield examine_way_in(settings)
    yield examine_retention(settings)


def _python() -> ProbeFinding:
    version = platform.python_version()
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return fault("python", version, "use Python 3.11, 3.12 or 3.13")
    return ok("python", version)


def _dependencies() -> Iterator[ProbeFinding]:
    for text in metadata.requires(PACKAGE) or []:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield fault(wanted.name, "not installed", "make install")
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            yield fault(wanted.name, f"{version}, not {wanted.specifier}", "make install")
            continue
        yield ok(wanted.name, version)


def _machines(settings: Settings) -> ProbeFinding:
    def probe() -> str:
        machines = read_machines(settings.paths.machines).all
        return ", ".join(
            f"{one.id}{'' if one.beam_model.commissioned else ' (relative dose)'}" for one in machines
        )

    return finding("machines", "correct the machine files", probe)


def _hu_tables(settings: Settings) -> ProbeFinding:
    def probe() -> str:
        tables = read_hu_tables(settings.paths.hu_tables).all
        return ", ".join(f"{one.id}{'' if one.calibrated else ' (typical)'}" for one in tables)

    return finding("HU tables", "correct the HU tables", probe)


def _zone(settings: Settings) -> ProbeFinding:
    zone, here = settings.site.timezone, local_zone()
    if zone != here:
        found = f"{zone}; this computer is in {here}"
        return warning("time zone", found, "right if the machines' clocks show that zone")
    return ok("time zone", zone)


def _own_secret(settings: Settings) -> ProbeFinding:
    try:
        require_own_secret(settings)
    except (InfrastructureError, SQLAlchemyError):
        # What the cases were named with stands in the ledger, whose own finding says what is wrong with it.
        found = (
            "readable by this user alone; whether the cases were named with it cannot be checked while the"
            " ledger is damaged or away"
        )
        return warning("secret", found, "see the ledger")
    except Exception as error:  # noqa: BLE001 - a probe that fails is what a diagnosis is for
        advice = "chmod 600 on it, or put it back from the backup"
        return fault("secret", words_of(error), advice)
    return ok("secret", "there, readable by this user alone")


def _account(settings: Settings) -> Iterator[ProbeFinding]:
    """Whether this is the account that the services run as: another one may do what they may not."""
    owner = settings.paths.state.stat().st_uid
    if owner != os.geteuid():
        name = pwd.getpwuid(owner).pw_name if owner in {one.pw_uid for one in pwd.getpwall()} else str(owner)
        found = f"the site belongs to {name}, and this was looked at as another account"
        yield warning("account", found, f"sudo -u {name} mqi doctor")


def _folders(site: Site, settings: Settings) -> Iterator[ProbeFinding]:
    paths = settings.paths
    yield finding("inbox", "mount it, correct paths.inbox, or its mode", lambda: _readable(site, paths.inbox))
    written = {"data": paths.data, "state": paths.state, "dagster_home": paths.dagster_home}
    for name, path in written.items():
        yield finding(name, "mqi init makes it; or its owner, mode, attributes", partial(_writable, path))
    if settings.handover.target == LOCAL:
        yield finding("handover", "mount it, make it, or its owner and mode", lambda: _handover(site))


def _readable(site: Site, inbox: Path) -> str:
    if not inbox.is_dir():
        raise MqiError(f"{inbox} is not there")
    if not os.access(inbox, os.R_OK | os.X_OK):
        raise MqiError(f"{inbox} is not readable")
    if why := inbox_trouble(site):
        raise MqiError(f"{inbox}: {why}")
    return f"{inbox} is readable"


def _handover(site: Site) -> str:
    folder = site.settings.handover.folder
    if why := target_trouble(site):
        raise MqiError(f"{folder}: {why}")
    return _writable(folder)


def _writable(folder: Path) -> str:
    """Makes a folder and a file in it, as a beam does, and removes them."""
    if not folder.is_dir():
        raise MqiError(f"{folder} is not there")
    try:
        with tempfile.TemporaryDirectory(prefix=".mqi-doctor-", dir=folder) as made:
            write_whole(Path(made) / "trial", b"trial")
    except OSError as error:
        raise MqiError(f"nothing can be written in {folder}: {error.strerror}") from None
    return f"{folder} is writable"


def _space(settings: Settings) -> Iterator[ProbeFinding]:
    folders = {
        "data": settings.paths.data,
        "state": settings.paths.state,
        "Dagster": settings.paths.dagster_home,
    }
    courses = settings.radiotherapy
    if courses.dicom_root is not None and courses.orthanc is not None:
        # Otherwise others fill it.
        folders["DICOM tree"] = courses.dicom_root
    if settings.handover.target == LOCAL:
        folders["handover"] = settings.handover.folder
    disks: dict[int, list[str]] = {}
    try:
        for name, path in folders.items():
            disks.setdefault(path.stat().st_dev, []).append(name)
        free = {disk: shutil.disk_usage(folders[names[0]]).free for disk, names in disks.items()}
    except OSError as error:
        yield fault("disk", error.strerror or "unknown", "see the folders")
        return
    for number, (disk, names) in enumerate(disks.items(), start=1):
        subject = "disk" if number == 1 else f"disk {number}"
        found = f"{free[disk] / 1e9:.1f} GB free for {', '.join(names)}"
        if free[disk] < _NO_SPACE:
            yield fault(subject, found, "make room: nothing more can be stored")
        elif free[disk] < _LITTLE_SPACE:
            yield warning(subject, found, "a beam needs about 0.1 GB")
        else:
            yield ok(subject, found)


def _engine(settings: Settings) -> Iterator[ProbeFinding]:
    profile = settings.engine.in_use()
    name = f"engine {settings.engine.profile}"
    if profile.reads_beam_model and profile.command[0] == "mqi-engine":
        cache = settings.engine.embedded.cache
        yield finding(
            "MCsquare", "mqi engine install", lambda: f"{installed_engine(cache).version}, files whole"
        )
    found = finding(
        name,
        "install it, or set the command of the profile",
        lambda: f"{Path(str(resolve_program(profile.command[0]))).name} found",
    )
    yield found
    if profile.version_command is not None:
        command = profile.version_command
        yield finding(f"{name} version", "run the version_command by hand", lambda: _answer(command))
    elif found.verdict is ProbeVerdict.OK:
        yield finding(f"{name} start", "run it by hand as this account", lambda: _starts(profile.command))


def _answer(command: tuple[str, ...]) -> str:
    done = ask(command)
    if done.returncode != 0:
        raise MqiError(f"exit code {done.returncode}")
    if not done.stdout.strip():
        raise MqiError("it prints nothing")
    return done.stdout.strip()


def _starts(command: tuple[str, ...]) -> str:
    """Whether the engine starts at all, without an input: what it makes of that says nothing."""
    with tempfile.TemporaryDirectory(prefix="mqi-doctor-") as folder:
        argv = [part.replace("{tps}", f"{folder}/no-input") for part in command]
        try:
            done = ask(argv, seconds=_START_SECONDS, directory=folder)
        except subprocess.TimeoutExpired:
            return "starts"
    said = done.stderr.strip().splitlines()
    if done.returncode in _NOT_STARTED or any("loading shared libraries" in line for line in said):
        # Its words may hold a path of its own, none of a patient: it was given no input.
        raise MqiError(f"it does not start: {said[-1] if said else f'exit code {done.returncode}'}")
    return "starts"


def _gpus(settings: Settings) -> ProbeFinding:
    needed, declared = settings.engine.in_use().needs_gpu, settings.execution.gpus
    try:
        seen = local_gpus()
        gpus, there = pool_gpus(declared, seen), {gpu.uuid for gpu in present_gpus(declared, seen)}
    except MqiError as error:
        return fault("GPUs", error.message, "correct execution.gpus; nvidia-smi -L")
    if not gpus:
        if needed:
            return fault("GPUs", "none seen by NVML", "install the driver; nvidia-smi")
        return ok("GPUs", "none here, none needed by this engine")
    if away := ", ".join(gpu.uuid for gpu in gpus if gpu.uuid not in there):
        return fault("GPUs", f"declared and not seen by NVML: {away}", "nvidia-smi")
    names = ", ".join(f"{gpu.index}: {gpu.name}, {gpu.memory_mb or 0:,} MB" for gpu in gpus)
    return ok("GPUs", names if needed else f"{names} (not needed by this engine)")


def _instance(settings: Settings, ledger: Ledger | None, served: bool) -> Iterator[ProbeFinding]:
    wanted = pool_limit(settings, ledger)
    try:
        with open_instance(settings) as instance:
            limit = pool_limit_of(instance)
            runs = instance.get_runs_count()
            schema = examine_schema(instance)
    except MqiError as error:
        yield fault("Dagster", error.message, "mqi init")
        return
    except (SQLAlchemyError, OSError, ValueError) as error:
        yield fault("Dagster", type(error).__name__, "see dagster.yaml and its storage")
        return
    yield ok("Dagster", f"instance opens, {runs} runs so far")
    yield schema
    yield examine_backup(settings, runs)
    if limit is None and not served:
        yield ok("pool gpu", f"no limit is set; {_NOT_NEEDED}")
    elif limit is None:
        yield fault("pool gpu", "no limit is set", "mqi init, or start with mqi dev")
    elif limit != wanted:
        found = f"limit {limit}, settings and pool say {wanted}"
        yield warning("pool gpu", found, "mqi init, or start again with mqi dev")
    else:
        yield ok("pool gpu", f"limit {limit}")


def _opened(settings: Settings, looked_at: ProbeFinding) -> Ledger | None:
    """The ledger, where opening it changes nothing."""
    if looked_at.verdict is not ProbeVerdict.OK:
        return None
    try:
        return Ledger.open_reading(ledger_url(settings))
    except MqiError:
        # None yet, or away since it was looked at; what needs it is left out.
        return None


def _services(file: Path, settings: Settings, served: bool) -> ProbeFinding:
    services = Services(file, settings)
    try:
        found = services.recorded()
        dead = found.dead() if found is not None else []
    except MqiError as error:
        return fault("services", error.message, "mqi stop")
    if found is None:
        return ok("services", "not running; mqi dev starts them" if served else f"not running; {_NOT_NEEDED}")
    if dead:
        advice = f"see {services.logs}; mqi dev starts them again"
        return fault("services", f"ended by themselves: {', '.join(dead)}", advice)
    return ok("services", f"running, pages at {found.pages.address}")
