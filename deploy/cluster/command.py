"""The command: what a person types, and the Makefile for them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.cluster import Cluster
from cluster.errors import ClusterError, NotPreparedError
from cluster.layout import DEFAULT_ROOT, ClusterSettings
from cluster.packages import install

_WHOLE = {
    "install": "install what is missing; as an ordinary user, say what that is",
    "start": "start what does not run yet",
    "stop": "end everything, keep the state",
    "status": "every daemon's state; exits with 1 unless all are up",
    "env": "shell exports for clients",
    "clean": "stop, and delete the folder",
}
_ONE = {
    "start-one": "start a daemon",
    "stop-one": "ask a daemon to end",
    "kill": "SIGKILL",
    "freeze": "SIGSTOP, of sshd with its connections",
    "thaw": "SIGCONT",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cluster", description="A throw-away Slurm and OpenSSH cluster.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, text in {**_WHOLE, **_ONE}.items():
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--root", type=Path, default=DEFAULT_ROOT, help=f"default: {DEFAULT_ROOT}")
        if name in _ONE:
            sub.add_argument("daemon", help="munged mariadbd slurmdbd slurmctld slurmd.gpu1 ... sshd")
        if name == "kill":
            sub.add_argument("--sessions", action="store_true", help="of sshd: also every connection")
        if name == "status":
            sub.add_argument("--json", action="store_true")
        if name in ("install", "start"):
            sub.add_argument("--user", default=argparse.SUPPRESS)
            sub.add_argument("--accounting", choices=("slurmdbd", "none"), default=argparse.SUPPRESS)
        if name == "start":
            _add_settings(sub)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Without a default: what is not given is as it was at the last start."""
    for name in (
        "nodes",
        "gpus",
        "cpus",
        "memory-mb",
        "port-base",
        "min-job-age",
        "kill-wait",
        "max-sessions",
        "message-timeout",
        "slurmd-timeout",
    ):
        parser.add_argument(f"--{name}", type=int, metavar="N", default=argparse.SUPPRESS)
    parser.add_argument("--max-startups", default=argparse.SUPPRESS)
    for name in ("cgroup", "root-login"):
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS)


def _status(cluster: Cluster, as_json: bool) -> int:
    states = cluster.states()
    pids = {name: cluster.pid(name) for name in states}
    if as_json:
        content = {
            "up": set(states.values()) == {"up"},
            "settings": {**asdict(cluster.settings), "root": str(cluster.settings.root)},
            "daemons": {name: {"state": state, "pid": pids[name]} for name, state in states.items()},
        }
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{name:12} {state:7} {pids[name] or ''}\n" for name, state in states.items())
    return 0 if set(states.values()) == {"up"} else 1


def _one(cluster: Cluster, command: str, name: str, sessions: bool) -> None:
    if command == "kill":
        cluster.kill(name, sessions=sessions)
        return
    actions = {
        "start-one": cluster.start_one,
        "stop-one": cluster.stop_one,
        "freeze": cluster.freeze,
        "thaw": cluster.thaw,
    }
    actions[command](name)


def _do(given: dict[str, Any]) -> int:
    command: str = given.pop("command")
    extra = {name: given.pop(name) for name in ("daemon", "sessions", "json") if name in given}
    cluster = Cluster(ClusterSettings.remembered(given.pop("root").absolute(), **given))
    if command == "install":
        done = install(cluster.settings.user, cluster.settings.accounting)
        sys.stdout.write(f"installed: {' '.join(done) or 'everything was there'}\n")
    elif command == "start":
        made = cluster.start()
        sys.stdout.write(f"up: ssh port {made.port}, user {made.user}, SLURM_CONF={made.slurm_conf}\n")
    elif command == "stop":
        cluster.stop()
    elif command == "clean":
        cluster.clean()
    elif command == "status":
        return _status(cluster, extra["json"])
    elif command == "env":
        sys.stdout.write(cluster.connection().exports())
    else:
        _one(cluster, command, extra["daemon"], extra.get("sessions", False))
    return 0


def ended(action: Callable[[], int]) -> int:
    """What a command exits with: its own code, 1 for what failed, 2 for what a person has to do first."""
    try:
        return action()
    except NotPreparedError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except ClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; see `ended`."""
    given = vars(_parser().parse_args(argv))
    return ended(lambda: _do(given))
