"""The kinds of fault, in a seeded order in which each comes at least once."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tests.chaos.chaos_site import ChaosSite, kill_one
from tests.postgres.postgres_server import Server

WORKER = "kill -9 of a run worker"
WARM = "kill -9 of what run workers are forked from"
ENGINE = "kill -9 of the engine"
DAEMON = "kill -9 of the daemon"
CODE = "kill -9 of the code server"
PAGES = "kill -9 of the webserver"
POSTGRES = "kill -9 of PostgreSQL"
SLURMCTLD = "kill -9 of slurmctld"
SSHD = "kill -9 of sshd"
EVERYTHING = "stop and start of everything"
KINDS = (WORKER, WARM, ENGINE, DAEMON, CODE, PAGES, POSTGRES, SLURMCTLD, SSHD, EVERYTHING)
SECONDS_BETWEEN_STOPS = 300.0


class Schedule:
    """Which fault comes next.

    Args:
        rng: Seeded.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        kinds = [kind for kind in KINDS if kind != EVERYTHING]
        rng.shuffle(kinds)
        # In the first half, so that there is time to come back to work before the faults end.
        kinds.insert(rng.randrange(1, len(kinds) // 2), EVERYTHING)
        self._coming = kinds
        self._stopped: float | None = None

    def next(self, now: float) -> str:
        """The kind that is due at a time in seconds."""
        if self._coming:
            kind = self._coming.pop(0)
        else:
            early = self._stopped is not None and now - self._stopped < SECONDS_BETWEEN_STOPS
            kind = self._rng.choice([one for one in KINDS if one != EVERYTHING or not early])
        if kind == EVERYTHING:
            self._stopped = now
        return kind


class Faults:
    """Ways to hurt two sites and what they stand on; `EVERYTHING` is the harness's own.

    Args:
        sites: A local one and one on the cluster.
        postgres: The server of both.
        cluster: Where the second one simulates.
        rng: Seeded.
    """

    def __init__(self, sites: list[ChaosSite], postgres: Server, cluster: Any, rng: Random) -> None:
        self._sites = sites
        self._postgres = postgres
        self._cluster = cluster
        self._rng = rng
        self._doers: dict[str, Callable[[], str | None]] = {
            WORKER: lambda: self._process(lambda site: site.workers()),
            WARM: lambda: self._process(lambda site: site.stack.warm_processes()),
            ENGINE: lambda: self._process(lambda site: site.engines()),
            DAEMON: lambda: self._process(lambda site: [site.pid("daemon")]),
            CODE: lambda: self._process(lambda site: [site.pid("code")]),
            PAGES: lambda: self._process(lambda site: [site.pid("pages")]),
            POSTGRES: self._kill_postgres,
            SLURMCTLD: lambda: self._kill_daemon("slurmctld"),
            SSHD: lambda: self._kill_daemon("sshd"),
        }

    def do(self, kind: str) -> str | None:
        """Do harm.

        Returns:
            To whom it was done; None where there is nothing of this kind to kill at this moment.
        """
        return self._doers[kind]()

    def _process(self, of: Callable[[ChaosSite], list[int]]) -> str | None:
        sites = list(self._sites)
        self._rng.shuffle(sites)
        for site in sites:
            pid = kill_one(of(site), self._rng) if site.up() else None
            if pid is not None:
                return f"{site.name}, pid {pid}"
        return None

    def _kill_postgres(self) -> str | None:
        if self._postgres.pid() is None:
            return None
        self._postgres.kill()
        return "both sites' records"

    def _kill_daemon(self, name: str) -> str | None:
        if self._cluster.pid(name) is None:
            return None
        self._cluster.kill(name, sessions=name == "sshd")
        return "the cluster"
