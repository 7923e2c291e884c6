"""Chaos: cases arrive at two sites while something dies every 20 seconds, then an undisturbed drain."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.chaos.chaos_faults import EVERYTHING, KINDS, Faults, Schedule
from tests.chaos.chaos_site import RESTART_SECONDS, ChaosSite
from tests.postgres.postgres_server import Server
from tests.waiting import wait_for

FAULT_SECONDS = 20.0
LONGER_SECONDS = 600.0
"""How much longer than asked the faults may go on, until a beam has been completed after each kind."""
LATE_FAULT_SECONDS = 40.0
"""Between two faults in that time: a machine that has other work may need minutes for one beam."""
BACKLOG = 2
"""Cases that wait at a site before the next one arrives."""
LAST_SECONDS = 45.0
"""Before the end of the faults only as much arrives as keeps a site at work."""
BEAMS = 2
NODES_SECONDS = 10.0
"""From one look at the nodes to the next."""
DOWN_SECONDS = 3.0
"""Between the stop of everything and its start."""


@dataclass
class Fault:
    """One that was done."""

    kind: str
    whom: str
    at: float
    """Seconds since the start."""


@dataclass
class Log:
    """What happened, printed as it happens and kept for the end."""

    seed: int
    began: float = field(default_factory=time.monotonic)
    lines: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    completed: dict[str, float] = field(default_factory=dict)
    """Seconds since the start, by beam."""

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    def say(self, text: str) -> None:
        """One line with its time."""
        self.lines.append(f"{self.now:7.1f} s  {text}")
        print(self.lines[-1], flush=True)

    def fault(self, kind: str, whom: str) -> None:
        """Note one that was done."""
        self.faults.append(Fault(kind, whom, self.now))
        self.say(f"FAULT {kind}: {whom}")

    def after(self, kind: str, until: float) -> int:
        """Beams completed after the first fault of a kind and before a time."""
        first = min((fault.at for fault in self.faults if fault.kind == kind), default=until)
        return sum(first < at <= until for at in self.completed.values())


class Chaos:
    """Two sites, what they stand on, and the harm that is done to them.

    Args:
        sites: A local one and one on the cluster, running.
        postgres: The server of both.
        cluster: Where the second one simulates.
        seed: Of faults and cases.
    """

    def __init__(self, sites: list[ChaosSite], postgres: Server, cluster: Any, seed: int) -> None:
        self.sites = sites
        self.postgres = postgres
        self.cluster = cluster
        self.log = Log(seed)
        self._rng = Random(seed)
        self._faults = Faults(sites, postgres, cluster, self._rng)
        self._schedule = Schedule(self._rng)
        self._next_seed = 1000 * seed
        self._dead: dict[str, float] = {}
        self._whole: str | None = None
        self._since = self._nodes_at = 0.0

    def disturb(self, minutes: float) -> float:
        """Let cases arrive and things die.

        Returns:
            When the faults ended, in seconds since the start.
        """
        self.log.say(f"seed {self.log.seed}, {minutes:g} minutes of faults")
        due, kind = FAULT_SECONDS / 2, ""
        while not (self.log.now > 60 * minutes and self.every_kind()):
            assert self.log.now < 60 * minutes + LONGER_SECONDS, f"no beam after {self.missing()}"
            self._look(backlog=BACKLOG if self.log.now < 60 * minutes - LAST_SECONDS else 1)
            if self.log.now < due or self._whole is not None:
                continue
            kind = kind or self._schedule.next(self.log.now)
            if kind == EVERYTHING:
                if not all(site.up() for site in self.sites):
                    continue
                self._stop_everything()
                whom = "both sites, PostgreSQL, slurmctld, sshd"
            else:
                found = self._faults.do(kind)
                if found is None:
                    continue
                whom = found
            self.log.fault(kind, whom)
            late = self.log.now > 60 * minutes
            kind, due = "", self.log.now + (LATE_FAULT_SECONDS if late else FAULT_SECONDS)
        self.log.say("the faults have ended")
        return self.log.now

    def wait_until_standing(self, seconds: float = 300) -> None:
        """Return when everything is up, after the sites were told to start."""
        wait_for(
            lambda: all(site.finished() for site in self.sites) and self.standing(),
            "the sites come up",
            seconds,
        )
        self.log = Log(self.log.seed)

    def drain(self, minutes: float) -> None:
        """Wait until every case is concluded and nothing is in work."""
        limit = time.monotonic() + 60 * minutes
        while True:
            self._look(backlog=0)
            left = self._left()
            if not left:
                self.log.say("drained")
                return
            if time.monotonic() > limit:
                raise AssertionError(f"not drained in {minutes:g} minutes: {'; '.join(left)}")

    def _left(self) -> list[str]:
        """What is not done yet."""
        if not self.standing():
            return ["something is not up"]
        left = [f"{site.name}: case {case}" for site in self.sites for case in site.waiting()]
        for site in [] if left else self.sites:
            left += [f"{site.name}: run {run}" for run in site.stack.unfinished()]
            left += [f"{site.name}: slot of {lease.partition}" for lease in site.stack.ledger().leases.all()]
        return left

    def standing(self) -> bool:
        """Whether all that can be killed lives."""
        return (
            self.postgres.pid() is not None
            and all(site.up() for site in self.sites)
            and set(self.cluster.states().values()) == {"up"}
        )

    def missing(self) -> list[str]:
        """The kinds after which no beam has been completed yet."""
        return [kind for kind in KINDS if self.log.after(kind, self.log.now) == 0]

    def every_kind(self) -> bool:
        """Whether a beam has been completed after each kind of fault."""
        return not self.missing()

    # One look

    def _look(self, *, backlog: int) -> None:
        time.sleep(0.5)
        self._supervise()
        for site in self.sites:
            for receipt in site.receipts():
                beam = f"{site.name} {receipt.parent.name}"
                if beam not in self.log.completed:
                    self.log.completed[beam] = self.log.now
                    self.log.say(f"completed: {beam}")
            if len(site.waiting()) < backlog:
                self._next_seed += 1
                site.deliver(self._next_seed, BEAMS)
                self.log.say(f"arrived: {site.name} {site.cases[-1]}")

    def _supervise(self) -> None:
        if self._whole is not None:
            self._go_on()
            return
        if self.postgres.pid() is None and self._long_dead("PostgreSQL"):
            self.postgres.start()
            self.log.say("started again: PostgreSQL")
        for name in ("slurmctld", "sshd"):
            if self.cluster.pid(name) is None and self._long_dead(name):
                self.cluster.start_one(name)
                self.log.say(f"started again: {name}")
        if self.cluster.pid("slurmctld") is not None and self.log.now - self._nodes_at > NODES_SECONDS:
            self._nodes_at = self.log.now
            self._resume_nodes()
        for site in self.sites:
            for name in site.supervise():
                self.log.say(f"started again: {site.name} {name}")

    def _resume_nodes(self) -> None:
        """What a cluster's administrator does where Slurm has taken a node out of service.

        A killed controller may have forgotten that it had started a job; it starts it anew, the node refuses
        ("Duplicate jobid"), and is drained until a person resumes it.
        """
        with suppress(subprocess.TimeoutExpired):
            listed = self.cluster.slurm("sinfo", "-h", "-R", "-o", "%n|%t|%E").stdout
            for line in sorted(set(listed.splitlines())):
                name, state, reason = line.split("|", 2)
                if state.startswith("drain"):
                    self.cluster.slurm("scontrol", "update", f"nodename={name}", "state=resume")
                    self.log.say(f"resumed by hand: node {name}, drained by Slurm: {reason}")

    def _long_dead(self, name: str) -> bool:
        since = self._dead.setdefault(name, self.log.now)
        if self.log.now - since < RESTART_SECONDS:
            return False
        del self._dead[name]
        return True

    # Everything

    def _stop_everything(self) -> None:
        self._whole, self._since = "stopping", self.log.now
        for site in self.sites:
            site.begin("stop")

    def _go_on(self) -> None:
        if not all(site.finished() for site in self.sites):
            return
        if self._whole == "stopping":
            for site in self.sites:
                site.end_left_over_workers(self.log.say)
            for name in ("slurmctld", "sshd"):
                self.cluster.stop_one(name)
            self.postgres.stop()
            self._whole, self._since = "down", self.log.now
            self.log.say("everything is stopped")
        elif self._whole == "down" and self.log.now - self._since > DOWN_SECONDS:
            self.postgres.start()
            for name in ("slurmctld", "sshd"):
                self.cluster.start_one(name)
            for site in self.sites:
                site.begin("dev", "--detach", "--port", "0")
            self._whole = "starting"
        elif self._whole == "starting":
            self._whole = None
            self.log.say("everything is started")

    # The end

    def tell_counts(self, until: float) -> None:
        """Beams completed after each kind of fault, while faults went on."""
        self.log.say("beams completed during the faults after")
        for kind in KINDS:
            self.log.say(f"    {kind:32} {self.log.after(kind, until):4}")

    def stuck(self) -> str:
        """What a person would look at who finds the sites not drained."""
        words = []
        for site in self.sites:
            words.append(f"--- {site.name}: waiting {site.waiting()}")
            words += site.unsuccessful()
            words.append(site.stack.report())
        return "\n".join(words)
