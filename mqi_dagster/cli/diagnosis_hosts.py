"""What `mqi doctor` looks at of other machines: the way there, Slurm behind it, and the hand-over target."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from mqi_dagster.cli.findings import Finding, Verdict, finding, guarded
from mqi_dagster.errors import MqiError
from mqi_dagster.handover.sftp import SftpTarget
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.job_script import setup_lines
from mqi_dagster.hpc.nvidia_smi import gpus_of_host
from mqi_dagster.hpc.session import sftp
from mqi_dagster.hpc.shell import require, run, script
from mqi_dagster.hpc.slurm import gpus_of, options_of, scheduler_facts
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.settings import Host, Settings, Slurm

_POLLS_PER_AGE = 2


def examine_hosts(settings: Settings, ledger: Ledger | None) -> Iterator[Finding]:
    """Every host of the settings.

    Args:
        settings: Of the site.
        ledger: For what is known of clusters from earlier; None where there is none yet.
    """
    for name, host in settings.hosts.items():
        connection = Connection(host)
        look = partial(_host, settings, name, host, connection, ledger)
        try:
            yield from guarded(f"host {name}", "see docs/slurm.md", look)
        finally:
            connection.drop()


def _host(
    settings: Settings, name: str, host: Host, connection: Connection, ledger: Ledger | None
) -> Iterator[Finding]:
    reached = finding(
        f"host {name}",
        "see docs/slurm.md: key file, known hosts, account",
        lambda: f"{connection.transport().remote_version.removeprefix('SSH-2.0-')} lets {host.user} in",
    )
    yield reached
    if reached.verdict is not Verdict.OK:
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
) -> Iterator[Finding]:
    facts: dict[str, str] = {}

    def scheduler() -> str:
        facts.update(scheduler_facts(connection))
        return f"Slurm {facts.get('SLURM_VERSION', '?')}, cluster {facts.get('ClusterName', '?')}"

    found = finding(f"Slurm of {name}", "is slurmctld up? scontrol ping", scheduler)
    yield found
    if found.verdict is not Verdict.OK:
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


def _accounting(name: str, slurm: Slurm, facts: dict[str, str]) -> Finding:
    subject = f"accounting of {name}"
    kind = facts.get("AccountingStorageType", "")
    age = int("".join(c for c in facts.get("MinJobAge", "0").split()[0] if c.isdigit()) or 0)
    if kind and not kind.endswith("/none") and kind != "(null)":
        comments = "job_comment" in facts.get("AccountingStoreFlags", "")
        kept = "comments are kept" if comments else "comments are not kept: names and times have to do"
        return Finding(subject, Verdict.OK, f"sacct answers for ended jobs; {kept}")
    longest = slurm.intervals.poll_maximum_seconds
    found = f"none: ended jobs are known for {age} s (MinJobAge), then only by their results"
    if age < _POLLS_PER_AGE * longest:
        advice = f"set poll_maximum_seconds below {age // _POLLS_PER_AGE}, or MinJobAge higher"
        return Finding(subject, Verdict.WARNING, found, advice)
    return Finding(subject, Verdict.OK, found)


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


def _known(name: str, slurm: Slurm, ledger: Ledger | None) -> Iterator[Finding]:
    look = ledger.cluster_look(name) if ledger is not None else None
    if look is None:
        return
    limit = timedelta(seconds=slurm.intervals.alarm_seconds)
    if look.failing_since is not None and datetime.now(UTC) - look.failing_since > limit:
        since = f"no answer to the beams since {look.failing_since:%Y-%m-%d %H:%M} UTC: {look.failure}"
        yield Finding(f"looks at {name}", Verdict.FAULT, since, "beams wait; mend what the words say")
    if look.used_bytes is not None:
        quota = slurm.retention.quota_gb
        found = f"{look.used_bytes / 1e9:.1f} GB of our folders, quota {quota:g} GB"
        found += f" (hosts.{name}.slurm.retention.quota_gb)"
        full = look.used_bytes > quota * 1e9
        advice = "mqi cluster clean, or keep less (retention)" if full else ""
        yield Finding(f"space on {name}", Verdict.WARNING if full else Verdict.OK, found, advice)
