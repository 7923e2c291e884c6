"""A site with workers that ask for work: its real server, real workers, and small programs for them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from mqi_dagster.execution.job import Job, JobHandle, JobStatus
from mqi_dagster.execution.work import Needs, Work
from mqi_dagster.files import sha256_file
from mqi_dagster.operations.people import add_user, make_token
from mqi_dagster.people.rights import Actor, Right, Role
from mqi_dagster.pull.executor import PullExecutor
from mqi_dagster.resources.site import Site
from tests.waiting import wait_for

OWNER = Actor.of_this_account()
COPIES = """
import os, select, sys, time
from pathlib import Path
seconds, trace = float(Path("seconds").read_text()), Path(sys.argv[1])
with trace.open("a") as stream:
    stream.write(f"start {Path('name').read_text()} {os.getpid()}\\n")
print("begins", flush=True)
end = time.monotonic() + seconds
let_go = trace.with_name("let-go." + Path("name").read_text())
while time.monotonic() < end and not let_go.exists():
    select.select([], [], [], 0.02)
code = int(Path("code").read_text())
if code:
    print("it has failed", flush=True)
    sys.exit(code)
Path("out/deep").mkdir(parents=True, exist_ok=True)
Path("out/deep/copy").write_bytes(Path("name").read_bytes() * 300_000)
Path("out/names").write_text(" ".join(sorted(os.environ)))
print("is done", flush=True)
"""
"""A program: what it is told stands in small files, and it leaves two outputs, one of some megabytes."""
OUTPUTS = ("out/deep/copy", "out/names")
LEASE_SECONDS = 30.0
"""Short, and long enough for a machine that has much else to do."""
PATIENCE_SECONDS = 900.0
"""When a failure is certain."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Lab:
    """A site whose host ``lab`` has workers.

    Args:
        folder: Of workers, logs and jobs.
        pull: Of the settings of a new site, beside a short lease.
        settings_file: A site that is there, in place of a new one.
    """

    def __init__(
        self, folder: Path, pull: dict[str, Any] | None = None, settings_file: Path | None = None
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.settings_file = settings_file or folder / "site" / "mqi.yaml"
        if settings_file is None:
            self.settings_file.parent.mkdir()
            section = {"lease_seconds": LEASE_SECONDS, **(pull or {})}
            content = {"site": {"timezone": "Asia/Seoul"}, "hosts": {"lab": {"pull": section}}}
            self.settings_file.write_text(yaml.safe_dump(content))
        self.site = Site(self.settings_file)
        self.port = free_port()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.server: subprocess.Popen[bytes] | None = None
        self.trace = folder / "trace"

    @property
    def executor(self) -> PullExecutor:
        """That gives jobs to the workers."""
        found = self.site.executor_on("lab")
        assert isinstance(found, PullExecutor)
        return found

    def token(self, name: str = "lab-account", role: Role = Role.WORKER, *scopes: Right) -> str:
        """The secret of a new token of a new account."""
        if self.site.ledger.accounts.get(name) is None:
            add_user(self.site, OWNER, name, [role])
        made = make_token(self.site, OWNER, name, "a test", scopes or (Right.WORK,), timedelta(days=1))
        return made.secret

    # Server and workers

    def serve(self, host: str = "127.0.0.1") -> None:
        """Start the server, again on the same port, and wait until it answers."""
        command = [sys.executable, "-m", "mqi_dagster.web.server", "--port", str(self.port)]
        environment = {**os.environ, "MQI_SETTINGS": str(self.settings_file)}
        with (self.folder / "server.log").open("ab") as log:
            self.server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.processes.append(self.server)
        wait_for(lambda: self.answers(host), "the server answers", PATIENCE_SECONDS, report=self.report)

    def answers(self, host: str) -> bool:
        """Whether the server answers."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{host}:{self.port}/healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill_server(self) -> None:
        """End the server as a loss of power does."""
        assert self.server is not None
        self.server.kill()
        self.server.wait()

    def configure(self, name: str, **values: Any) -> Path:
        """Write the configuration of a worker, and its token."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        program = folder / "copies.py"
        program.write_text(COPIES)
        content = {
            "server": f"http://127.0.0.1:{self.port}",
            "token_file": "token",
            "name": name,
            "work": "work",
            "device": "cpu",
            "wait_seconds": 2,
            "call_seconds": 30,
            "programs": {"copy": {"command": [sys.executable, str(program), str(self.trace)]}},
            **values,
        }
        if content["server"] is None:
            del content["server"], content["token_file"]
        else:
            token = folder / "token"
            token.write_text(self.token())
            token.chmod(0o600)
        (folder / "worker.yaml").write_text(yaml.safe_dump(content))
        return folder / "worker.yaml"

    def work(self, name: str, prefix: Sequence[str] = (), **values: Any) -> subprocess.Popen[bytes]:
        """Start a worker."""
        path = self.folder / name / "worker.yaml"
        if values or not path.exists():
            path = self.configure(name, **values)
        command = [*prefix, sys.executable, "-m", "mqi_dagster.worker.command", "run", "--config", str(path)]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def said(self, name: str) -> str:
        """What a worker has logged."""
        return (self.folder / f"{name}.log").read_text()

    def end_workers(self) -> None:
        """End every worker that was started, and cancel what is left for them."""
        for process in [one for one in self.processes if one is not self.server]:
            process.kill()
            process.wait()
            self.processes.remove(process)
        for row in self.site.ledger.work.all(states=("waiting", "running")):
            self.site.ledger.work.change(row, state="cancelled")

    def close(self) -> None:
        """End whatever was started."""
        self.end_workers()
        if self.server is not None:
            self.kill_server()
        self.site.ledger.close()

    def report(self) -> str:
        """What a failed test shows."""
        logs = [f"{path.name}:\n{path.read_text()[-3000:]}" for path in self.folder.glob("*.log")]
        return "\n".join([*logs, *(str(row) for row in self.site.ledger.work.all())])

    # Jobs

    def job(
        self, name: str, *, seconds: float = 0.0, code: int = 0, needs: dict[str, Any] | None = None
    ) -> Job:
        """A job of the program ``copy``; it ends once it is let go (`let_go`), or after some seconds."""
        folder = self.folder / "jobs" / name
        folder.mkdir(parents=True, exist_ok=True)
        inputs = {"name": name, "seconds": str(seconds), "code": str(code)}
        for file, text in inputs.items():
            (folder / file).write_text(text)
        return Job(
            key=f"{name}-1",
            name=f"P1.fx0001__b{name}",
            parents=(),
            directory=folder,
            manifest={file: sha256_file(folder / file) for file in inputs},
            argv=(),
            outputs=OUTPUTS,
            log="job.log",
            timeout_seconds=600.0,
            work=Work(needs=Needs(program="copy", **(needs or {}))),
        )

    def finished(self, job: Job, handle: JobHandle, seconds: float = PATIENCE_SECONDS) -> JobStatus:
        """The end of a job."""
        wait_for(
            lambda: self.executor.poll(job, handle).state.ended, "the job's end", seconds, report=self.report
        )
        return self.executor.poll(job, handle)

    def starts(self, name: str = "") -> list[str]:
        """Names of the jobs whose program was started, as it has written itself."""
        lines = self.trace.read_text().splitlines() if self.trace.exists() else []
        return [line.split()[1] for line in lines if line.split()[1].startswith(name)]

    def pid(self, name: str) -> int:
        """Of the program of a job that was started last."""
        wait_for(lambda: bool(self.starts(name)), f"start of {name}", report=self.report)
        lines = [line.split() for line in self.trace.read_text().splitlines()]
        return [int(line[2]) for line in lines if line[1] == name][-1]

    def let_go(self, name: str) -> None:
        """Let a job end, on whichever worker it is at work and however often it is begun."""
        (self.folder / f"let-go.{name}").touch()


def ended(process: subprocess.Popen[bytes], seconds: float = PATIENCE_SECONDS) -> int:
    """The exit code of a process, once it has ended."""
    return process.wait(seconds)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end."""
    process.send_signal(signal.SIGTERM)
