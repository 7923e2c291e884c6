"""What `mqi doctor` asks of other machines and accounts, and of where a clinic runs the site."""

from __future__ import annotations

import json
import secrets
import sqlite3
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path

import dagster as dg
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from mqi_dagster.errors import ConfigurationError, MqiError
from mqi_dagster.execution.work_folder import require_safe
from mqi_dagster.handover.access import access_of
from mqi_dagster.handover.sftp import SftpTarget
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.job_script import setup_lines
from mqi_dagster.hpc.nvidia_smi import gpus_of_host
from mqi_dagster.hpc.session import sftp
from mqi_dagster.hpc.shell import require, run, script
from mqi_dagster.hpc.slurm import gpus_of, options_of, scheduler_facts
from mqi_dagster.ledger.database import revision_of, try_out
from mqi_dagster.ledger.glance import LEDGER_FILE
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.location import ledger_url, server_url
from mqi_dagster.ledger.tables import REVISION
from mqi_dagster.operations import service_locks
from mqi_dagster.operations.backup import LAST_BACKUP
from mqi_dagster.operations.service_locks import Service
from mqi_dagster.pull.queue import lively
from mqi_dagster.settings import LOCAL, HandoverAccess, Host, Pull, Settings, Slurm


class ProbeVerdict(StrEnum):
    """What a finding is worth."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class ProbeFinding:
    """One thing that was looked at."""

    subject: str
    verdict: ProbeVerdict
    found: str
    advice: str = ""
    """What to do; empty where nothing is wrong."""


def ok(subject: str, found: str) -> ProbeFinding:
    """A finding that nothing is wrong."""
    return ProbeFinding(subject, ProbeVerdict.OK, found)


def warning(subject: str, found: str, advice: str) -> ProbeFinding:
    """A finding that something may be wrong."""
    return ProbeFinding(subject, ProbeVerdict.WARNING, found, advice)


def fault(subject: str, found: str, advice: str) -> ProbeFinding:
    """A finding that something is wrong."""
    return ProbeFinding(subject, ProbeVerdict.FAULT, found, advice)


def finding(subject: str, advice: str, probe: Callable[[], str]) -> ProbeFinding:
    """The finding of a probe that raises where something is wrong."""
    try:
        return ok(subject, probe())
    except Exception as error:  # noqa: BLE001 - a probe that fails is what a diagnosis is for
        return fault(subject, words_of(error), advice)


def guarded(subject: str, advice: str, probe: Callable[[], Iterable[ProbeFinding]]) -> Iterator[ProbeFinding]:
    """What a probe finds; where it fails in an unforeseen way, that is a finding, and others go on."""
    try:
        yield from probe()
    except Exception as error:  # noqa: BLE001 - one surprise must not hide what the others find
        yield fault(subject, words_of(error), advice)


def words_of(error: Exception) -> str:
    """What an exception says, in one line."""
    if isinstance(error, MqiError):
        return error.message
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig if isinstance(error.orig, Exception) else error
    if isinstance(error, (DBAPIError, sqlite3.Error)):
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    # The text of any other may hold whatever it stumbled over.
    return f"it cannot be looked at ({type(error).__name__})"


def examine_modes(file: Path, settings: Settings) -> ProbeFinding:
    """Whether a site is its account's alone.

    Args:
        file: The settings.
        settings: Their content.
    """
    paths = settings.paths
    folders = {
        "the site's folder": file.parent,
        "mqi.yaml": file,
        "machines": paths.machines,
        "data": paths.data,
        "state": paths.state,
        "the ledger": paths.state / LEDGER_FILE,
        "dagster_home": paths.dagster_home,
    }
    try:
        handover = access_of(settings.handover)
    except ConfigurationError as error:
        return fault("modes", error.message, "make the group, or name another")
    local = settings.handover.target == LOCAL
    modes = {name: _mode(path) for name, path in folders.items()}
    changed = [name for name, mode in modes.items() if mode & 0o022]
    shown = _mode(settings.handover.folder) if local else 0
    if shown & 0o002:
        changed.append("handover")
    if changed:
        found = f"others may change: {', '.join(changed)}"
        return fault("modes", found, "chmod go-w on each of them")
    read = [name for name in ("data", "state", "the ledger", "dagster_home") if modes[name] & 0o077]
    if read:
        return warning("modes", f"open to others: {', '.join(read)}", "chmod -R go= on them")
    if local and shown & 0o077 & ~handover.folder_mode:
        owner = settings.handover.access is HandoverAccess.OWNER
        found = f"others may enter handover, and read nothing new there ({shown:04o})"
        advice = "set handover.access and handover.group for them, or chmod go= on it"
        return warning("modes", found, advice if owner else "chmod o= on it")
    return ok("modes", "others read and change nothing of this site")


def _mode(path: Path) -> int:
    """Permissions of a place; none where there is no such place."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0


_POLLS_PER_AGE = 2


def examine_hosts(settings: Settings, ledger: Ledger | None) -> Iterator[ProbeFinding]:
    """Every host of the settings.

    Args:
        settings: Of the site.
        ledger: For what is known of clusters from earlier; None where there is none yet.
    """
    for name, host in settings.hosts.items():
        if host.pull is not None:
            yield _workers(name, host.pull, ledger)
            continue
        connection = Connection(host)
        probe = partial(_host, settings, name, host, connection, ledger)
        try:
            yield from guarded(f"host {name}", "see docs/slurm.md", probe)
        finally:
            connection.drop()


def _workers(name: str, pull: Pull, ledger: Ledger | None) -> ProbeFinding:
    subject = f"workers of {name}"
    if pull.folder is not None:
        try:
            require_safe(pull.folder)
        except ConfigurationError as error:
            return fault(subject, error.message, f"hosts.{name}.pull.folder, or INFERENCE_REQUEST_DIR")
    workers = [] if ledger is None else lively(ledger, pull)
    if not workers:
        return warning(subject, "none asks for work now", "start `mqi web`, then `mqi-worker run` there")
    words = (f"{one.worker} ({', '.join(sorted(one.programs)) or 'no program'})" for one in workers)
    return ok(subject, f"ask for work: {', '.join(words)}")


def _host(
    settings: Settings, name: str, host: Host, connection: Connection, ledger: Ledger | None
) -> Iterator[ProbeFinding]:
    reached = finding(
        f"host {name}",
        "see docs/slurm.md: key file, known hosts, account",
        lambda: f"{connection.transport().remote_version.removeprefix('SSH-2.0-')} lets {host.user} in",
    )
    yield reached
    if reached.verdict is not ProbeVerdict.OK:
        return
    if host.slurm is not None and name in (settings.execution.simulation, settings.execution.gpu_monitoring):
        yield from _slurm(settings, name, host.slurm, connection, ledger)
    if host.slurm is None and name == settings.execution.gpu_monitoring:
        yield finding(f"GPUs of {name}", "install the driver there; nvidia-smi", lambda: _seen(connection))
    if settings.handover.target == name:
        yield finding(
            f"hand-over to {name}",
            "make the folder, or let the account write there",
            lambda: _handed_over(connection, str(settings.handover.folder)),
        )


def _slurm(
    settings: Settings, name: str, slurm: Slurm, connection: Connection, ledger: Ledger | None
) -> Iterator[ProbeFinding]:
    facts: dict[str, str] = {}

    def scheduler() -> str:
        facts.update(scheduler_facts(connection))
        return f"Slurm {facts.get('SLURM_VERSION', '?')}, cluster {facts.get('ClusterName', '?')}"

    found = finding(f"Slurm of {name}", "is slurmctld up? scontrol ping", scheduler)
    yield found
    if found.verdict is not ProbeVerdict.OK:
        return
    yield _accounting(name, slurm, facts)
    yield finding(
        f"job options of {name}",
        "correct partition, account, qos, gres or the limits under hosts",
        lambda: _accepted(connection, slurm, settings.engine.timeout_seconds),
    )
    yield finding(
        f"root on {name}",
        "let the account write there, on storage that the nodes share",
        lambda: _writable(connection, slurm.root),
    )
    if settings.execution.simulation == name:
        command = settings.engine_profile().command[0]
        yield finding(
            f"engine on {name}",
            "install it there, or set engine_command under hosts",
            lambda: _there(connection, slurm, command),
        )
        version_command = settings.engine_profile().version_command
        if version_command is not None:
            yield finding(
                f"engine version on {name}",
                "run the version_command there by hand, as this account",
                lambda: _answer(connection, version_command),
            )
    yield finding(f"GPUs of {name}", "see sinfo -o '%N %G'", lambda: _gpus(connection, slurm))
    yield from _known(name, slurm, ledger)


def _accounting(name: str, slurm: Slurm, facts: dict[str, str]) -> ProbeFinding:
    subject = f"accounting of {name}"
    kind = facts.get("AccountingStorageType", "")
    age = int("".join(c for c in facts.get("MinJobAge", "0").split()[0] if c.isdigit()) or 0)
    if kind and not kind.endswith("/none") and kind != "(null)":
        comments = "job_comment" in facts.get("AccountingStoreFlags", "")
        kept = "comments are kept" if comments else "comments are not kept: names and times have to do"
        return ok(subject, f"sacct answers for ended jobs; {kept}")
    longest = slurm.intervals.poll_maximum_seconds
    found = f"none: ended jobs are known for {age} s (MinJobAge), then only by their results"
    if age < _POLLS_PER_AGE * longest:
        advice = f"set poll_maximum_seconds below {age // _POLLS_PER_AGE}, or MinJobAge higher"
        return warning(subject, found, advice)
    return ok(subject, found)


def _accepted(connection: Connection, slurm: Slurm, timeout_seconds: float) -> str:
    options = [
        option for option in options_of(slurm, timeout_seconds) if not option.startswith("--open-mode")
    ]
    require(run(connection, ["sbatch", "--test-only", *options, "--wrap=true"]), "sbatch --test-only")
    return " ".join(option for option in options if option.startswith(("--part", "--g", "--mem", "--time")))


_TOOLS = "tar sha256sum flock mktemp realpath stat find awk xargs head sync du df"
_TRIAL = """
umask 077
for tool in $2; do
  command -v "$tool" >/dev/null || { echo "the command $tool is missing" >&2; exit 1; }
done
mkdir -p -- "$1" && folder=$(mktemp -d -- "$1/.mqi-doctor.XXXXXX") || exit 1
trap 'rm -rf -- "$folder"' EXIT
mkdir -p -- "$folder/case/b01" && echo trial >"$folder/case/b01/.trial" &&
  mv -T -- "$folder/case/b01" "$folder/case/done" || exit 1
exec 9>"$folder/.lock"
flock -w 5 9 || { echo "no file can be locked there (flock)" >&2; exit 1; }
df -P -k -- "$1"
"""


def _writable(connection: Connection, root: str) -> str:
    """Makes, renames and locks below the root what a beam makes, renames and locks there."""
    argv = ["env", "LC_ALL=C", "sh", "-c", _TRIAL, "mqi-doctor", root, _TOOLS]
    answer = require(run(connection, argv), "writing below the root")
    free = int(answer.text.splitlines()[-1].split()[3]) * 1024
    return f"{root} is writable, {free / 1e9:.1f} GB free"


def _there(connection: Connection, slurm: Slurm, command: str) -> str:
    """Looks for the engine in the shell of a job: after the modules and scripts of the settings."""
    lines = [
        *setup_lines(slurm),
        script("modules"),
        'setup || { echo "the modules or scripts of the settings could not be loaded" >&2; exit 95; }',
        'command -v -- "$1" >/dev/null || { echo "it is not there, or cannot be run" >&2; exit 1; }',
    ]
    argv = ["bash", "-c", "\n".join(lines), "mqi-doctor", command]
    require(run(connection, argv), f"looking for {command}")
    return f"{command} found on the login node"


def _answer(connection: Connection, command: Sequence[str]) -> str:
    said = require(run(connection, command), "the command").text.strip()
    if not said:
        raise MqiError("it prints nothing")
    return said


def _gpus(connection: Connection, slurm: Slurm) -> str:
    nodes = gpus_of(connection, slurm)
    total, used = sum(node.total for node in nodes), sum(node.used for node in nodes)
    if not nodes:
        raise MqiError("the partition has no node")
    return f"{total} on {len(nodes)} nodes, {used} in use; {slurm.slots} slots of ours"


def _seen(connection: Connection) -> str:
    return ", ".join(f"{gpu.index}: {gpu.name}" for gpu in gpus_of_host(connection)) or "none"


def _handed_over(connection: Connection, folder: str) -> str:
    """Hands a small file over as a beam does, and removes it with its folder."""
    name = f".mqi-doctor-{secrets.token_hex(4)}"
    target = SftpTarget(connection, folder)
    target.state(name, "trial", b"trial\n")
    target.withdraw(name, "trial")
    with sftp(connection) as client:
        client.rmdir(f"{folder}/{name}")
    return f"{folder} takes what is handed over"


def _known(name: str, slurm: Slurm, ledger: Ledger | None) -> Iterator[ProbeFinding]:
    seen = ledger.clusters.get(name) if ledger is not None else None
    if seen is None:
        return
    limit = timedelta(seconds=slurm.intervals.alarm_seconds)
    if seen.failing_since is not None and datetime.now(UTC) - seen.failing_since > limit:
        since = f"no answer to the beams since {seen.failing_since:%Y-%m-%d %H:%M} UTC: {seen.failure}"
        yield fault(f"looks at {name}", since, "beams wait; mend what the words say")
    if seen.used_bytes is not None:
        quota = slurm.retention.quota_gb
        found = f"{seen.used_bytes / 1e9:.1f} GB of our folders, quota {quota:g} GB"
        found += f" (hosts.{name}.slurm.retention.quota_gb)"
        full = seen.used_bytes > quota * 1e9
        advice = "mqi cluster clean, or keep less (retention)" if full else ""
        yield ProbeFinding(
            f"space on {name}", ProbeVerdict.WARNING if full else ProbeVerdict.OK, found, advice
        )


_SYSTEMD = Path("/run/systemd/system")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_OLDEST_BACKUP = timedelta(days=2)
_PER_PROCESS = 6
"""Connections that a process of Dagster holds at most at once, with the ledger's own."""
_BOARDS, _PER_BOARD = 10, 3
"""Boards that are left open, and what each keeps: one to the runs, one to the events, one to the ledger."""
_CONNECT_SECONDS = 10
_FACTS = """
SELECT current_setting('server_version'), current_user, pg_database_size(current_database()),
       current_setting('max_connections')::int, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
       (SELECT count(*) FROM pg_stat_activity)
"""


def examine_records(settings: Settings) -> Iterator[ProbeFinding]:
    """The database server, where there is one, and the ledger on it or in its file."""
    reachable = True
    if settings.database.host is not None:
        findings = list(_server(settings))
        reachable = findings[0].verdict is not ProbeVerdict.FAULT
        yield from findings
    if reachable:
        yield _ledger(settings)


def _server(settings: Settings) -> Iterator[ProbeFinding]:
    try:
        url = server_url(settings)
        assert url is not None
    except MqiError as error:
        yield fault("database", error.message, "see database.password_file")
        return
    engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": _CONNECT_SECONDS})
    try:
        with engine.connect() as connection:
            version, role, size, most, superuser, now = connection.execute(text(_FACTS)).one()
    except SQLAlchemyError as error:
        words = str(getattr(error, "orig", error)).strip().splitlines() or [type(error).__name__]
        yield fault("database", words[0], "start the server; see the section database")
        return
    finally:
        engine.dispose()
    found = f"PostgreSQL {version}, role {role}, {size / 1e6:.0f} MB"
    if superuser:
        yield warning("database", f"{found}, a superuser", "a role that owns this database only")
    else:
        yield ok("database", found)
    needed = _PER_PROCESS * (settings.execution.max_runs + len(Service)) + _BOARDS * _PER_BOARD
    room = f"{most} allowed, {now} in use, ours need up to {needed}, {_BOARDS} open boards among them"
    verdict = ProbeVerdict.OK if needed <= most else ProbeVerdict.WARNING
    yield ProbeFinding(
        "connections", verdict, room, "" if needed <= most else "raise max_connections of the server"
    )


def _ledger(settings: Settings) -> ProbeFinding:
    # Opening it as the services do would migrate it; a diagnosis changes nothing.
    try:
        found = revision_of(ledger_url(settings))
    except MqiError as error:
        return fault("ledger", f"cannot be read: {error.message}", "restore the backup")
    if found is None:
        return ok("ledger", "none yet; the first start makes it")
    try:
        try_out(ledger_url(settings))
    except MqiError as error:
        advice = "where it is damaged, restore the backup; else see its owner, mode and attributes"
        return fault("ledger", error.message, advice)
    if found == REVISION:
        return ok("ledger", f"revision {found}, whole, and takes what is written")
    words = f"revision {found}, this version writes {REVISION}"
    if found < REVISION:
        return warning("ledger", words, "back it up; the next start migrates it")
    return fault("ledger", words, "update this installation, or restore the backup")


def examine_schema(instance: dg.DagsterInstance) -> ProbeFinding:
    """Whether Dagster's tables are those of this version of Dagster."""
    behind = []
    storages = {
        "runs": instance.run_storage,
        "events": instance.event_log_storage,
        "schedules": instance.schedule_storage,
    }
    for name, storage in storages.items():
        version = storage.alembic_version() if storage is not None else None
        if version is not None and version[0] is not None and version[0] != version[1]:
            behind.append(name)
    if behind:
        found = f"{', '.join(behind)}: of another version of Dagster"
        return warning("Dagster's tables", found, "stop, back up, dagster instance migrate")
    return ok("Dagster's tables", "at the revision of this version")


def examine_units(settings: Settings) -> Iterator[ProbeFinding]:
    """What the service manager of this machine knows of us; nothing where there is none."""
    running = service_locks.managed(settings)
    if running:
        missing = [service for service in Service if service not in running]
        found = f"run by a service manager: {', '.join(running)}"
        if missing:
            advice = f"systemctl start {' '.join(f'mqi-{name}' for name in missing)}"
            yield warning("units", f"{found}; not running: {', '.join(missing)}", advice)
        else:
            yield ok("units", found)
        return
    if not _SYSTEMD.is_dir():
        return
    names = [f"mqi-{service}.service" for service in Service]
    done = subprocess.run(
        ["systemctl", "is-active", *names], capture_output=True, text=True, check=False, timeout=30
    )
    states = dict(zip(Service, done.stdout.split(), strict=False))
    failed = [name for name, state in states.items() if state in ("failed", "activating")]
    if failed:
        advice = f"journalctl -u mqi-{failed[0]}"
        yield fault("units", f"do not start: {', '.join(failed)}", advice)


def examine_way_in(settings: Settings) -> ProbeFinding:
    """Whether Dagster's pages, which have no login, are open to other machines."""
    host = settings.ui.host
    if host in _LOOPBACK:
        return ok("way in", f"Dagster's pages listen on {host} alone")
    advice = "listen on 127.0.0.1, behind a proxy that asks our pages who somebody is (docs/production.md)"
    return warning("way in", f"Dagster's pages listen on {host} and have no login", advice)


def examine_retention(settings: Settings) -> ProbeFinding:
    """What goes by itself, and whether anybody has to ask for it."""
    retention = settings.retention
    kept = [name for name in type(retention).model_fields if name != "daily" and getattr(retention, name)]
    how = "daily" if retention.daily else "by hand, mqi retention"
    return ok("retention", f"{', '.join(kept) or 'nothing goes'}; {how}")


def examine_backup(settings: Settings, runs: int) -> ProbeFinding:
    """How old the last backup is."""
    try:
        content = json.loads((settings.paths.state / LAST_BACKUP).read_text(encoding="utf-8"))
        made = datetime.fromisoformat(content["made_at"])
    except FileNotFoundError:
        if runs == 0:
            return ok("backup", "none yet, and nothing to lose")
        return warning("backup", "none was ever made", "mqi backup, every night")
    except (OSError, ValueError, KeyError, TypeError):
        return warning("backup", f"{LAST_BACKUP} is damaged", "mqi backup")
    age = datetime.now(UTC) - made
    found = f"the last one is of {made:%Y-%m-%d %H:%M} UTC" + (
        "" if content.get("data") else ", without the store"
    )
    if age > _OLDEST_BACKUP:
        return warning("backup", found, "mqi backup, every night")
    return ok("backup", found)
