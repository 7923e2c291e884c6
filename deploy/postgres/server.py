"""One server below one folder: started, killed and started again as often as a test wants."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from cluster.errors import ClusterError, NotPreparedError
from cluster.layout import LOOPBACK
from cluster.ports import all_free, free_block
from cluster.processes import end, everything, gone, seen, send, until
from cluster.writing import write

from postgres.packages import programs

DEFAULT_ROOT = Path("/var/tmp/mqi-postgres")
ROLE = "mqi"
_SUPERUSER = "postgres"
_MARK = "mqi-postgres.json"
_LONGEST_ROOT = 80
"""The kernel allows 107 bytes for a socket, and the server's has a long name."""
_SECONDS = 60.0
_ORPHAN_SECONDS = 5.0


class Server:
    """A PostgreSQL server on the loopback and on a socket, whose role ``mqi`` owns a database ``mqi``.

    Called by root, it runs as Debian's user ``postgres``: the server refuses root.

    Args:
        root: Everything of it lies below this folder.
        durable: Whether it waits for the disk at each commit, as a clinic's does. A killed server loses
            nothing either way; only a loss of power does.
    """

    def __init__(self, root: Path = DEFAULT_ROOT, *, durable: bool = True) -> None:
        if not root.is_absolute() or len(root.parts) < 3 or len(str(root)) > _LONGEST_ROOT:
            raise NotPreparedError(
                f"{root}: must be absolute, below a folder, {_LONGEST_ROOT} characters long"
            )
        self.root = root
        self.data = root / "data"
        self.socket_folder = root / "run"
        self.password_file = root / "password"
        self.log = root / "server.log"
        self._durable = durable

    @property
    def port(self) -> int:
        """Chosen at the first start, and kept."""
        return int(json.loads((self.root / _MARK).read_text())["port"])

    @property
    def section(self) -> dict[str, str | int]:
        """The section ``database`` of a site that lives on this server."""
        return {
            "host": LOOPBACK,
            "port": self.port,
            "name": ROLE,
            "user": ROLE,
            "password_file": str(self.password_file),
        }

    def url(self, database: str = ROLE) -> str:
        """The URL of one of its databases for SQLAlchemy, password and all."""
        password = self.password_file.read_text().strip()
        return f"postgresql+psycopg2://{ROLE}:{password}@{LOOPBACK}:{self.port}/{database}"

    def exports(self) -> str:
        """Shell exports for ``psql``, ``pg_dump`` and their like."""
        values = {
            "PGHOST": LOOPBACK,
            "PGPORT": str(self.port),
            "PGUSER": ROLE,
            "PGDATABASE": ROLE,
            "PGPASSFILE": str(self.root / "pgpass"),
        }
        return "".join(f"export {name}={value}\n" for name, value in values.items())

    def pid(self) -> int | None:
        """The postmaster's pid, None where it does not live."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        except (FileNotFoundError, IndexError, ValueError):
            return None
        return pid if pid in self._processes() else None

    def start(self) -> None:
        """Start it unless it runs, making its database first; after a kill, recover what it left.

        Raises:
            NotPreparedError: PostgreSQL is not installed, or the folder holds something else.
            ClusterError: It does not start.
        """
        if self.pid() is not None:
            return
        if not self.data.exists():
            self._make()
        # Backends of a killed postmaster hold the shared memory for which a new one would wait in vain.
        self._end_orphans()
        if not all_free([self.port]):
            raise ClusterError(f"port {self.port} is taken")
        self._pg_ctl("start", "-w", "-t", f"{_SECONDS:.0f}", "-l", str(self.data / "log"))
        if not self._knows_role():
            password = self.password_file.read_text().strip()
            self.sql(f"CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{password}'", as_superuser=True)
        if not self.sql(f"SELECT 1 FROM pg_database WHERE datname = '{ROLE}'", as_superuser=True):
            self.sql(f"CREATE DATABASE {ROLE} OWNER {ROLE}", as_superuser=True)

    def stop(self) -> None:
        """End it at once and in order; whoever is connected is thrown out."""
        if self.pid() is not None:
            self._pg_ctl("stop", "-w", "-m", "fast", "-t", f"{_SECONDS:.0f}")
        self._end_orphans()

    def kill(self, *, backends: bool = False) -> None:
        """SIGKILL of the postmaster, as by a fault of the machine.

        Args:
            backends: Also of every process that serves a connection, at the same moment.

        Raises:
            ClusterError: It does not run.
        """
        pid = self.pid()
        if pid is None:
            raise ClusterError("the server does not run")
        send([pid, *(self._processes() if backends else ())], signal.SIGKILL)
        until(lambda: seen(pid) is None, "death of the server", _ORPHAN_SECONDS)

    def freeze(self) -> None:
        """SIGSTOP of everything: connections stay open and nobody answers."""
        send(self._processes(), signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        send(self._processes(), signal.SIGCONT)

    def clean(self) -> None:
        """Stop it and delete its folder.

        Raises:
            NotPreparedError: The folder is no server's.
        """
        if not self.root.exists():
            return
        if not (self.root / _MARK).is_file():
            raise NotPreparedError(f"{self.root}: no server was started there")
        end(self._processes(), 0)
        shutil.rmtree(self.root)

    def new_database(self, name: str) -> str:
        """Make an empty database in place of one of that name; its URL."""
        self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", as_superuser=True)
        self.sql(f"CREATE DATABASE {name} OWNER {ROLE}", as_superuser=True)
        return self.url(name)

    def sql(self, statement: str, *, database: str = "postgres", as_superuser: bool = False) -> str:
        """What ``psql`` says to a statement, without headings.

        Raises:
            ClusterError: The server refuses it.
        """
        user = _SUPERUSER if as_superuser else ROLE
        argv = [str(programs() / "psql"), "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]
        where = ["-h", LOOPBACK, "-p", str(self.port), "-U", user, "-d", database]
        environment = {"PATH": "/usr/bin:/bin", "PGPASSWORD": self.password_file.read_text().strip()}
        done = subprocess.run(
            # By standard input: a password must not stand in a list of processes.
            [*argv, *where],
            input=statement,
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        if done.returncode != 0:
            raise ClusterError(f"psql: {done.stderr.strip()[-500:]}")
        return done.stdout.strip()

    def _knows_role(self) -> bool:
        return self.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{ROLE}'", as_superuser=True) == "1"

    def _make(self) -> None:
        if not (self.root / _MARK).is_file():
            if self.root.exists() and any(self.root.iterdir()):
                raise NotPreparedError(f"{self.root}: is not empty, and no server's")
            programs()
            self.root.mkdir(parents=True, exist_ok=True)
            self.root.chmod(0o755)
            # First of all: only a folder with this mark is started or deleted.
            write(self.root / _MARK, json.dumps({"port": free_block(1)}) + "\n")
        password = secrets.token_urlsafe(24)
        write(self.password_file, f"{password}\n", 0o600)
        write(self.root / "pgpass", f"{LOOPBACK}:{self.port}:*:{ROLE}:{password}\n", 0o600)
        beside = self.root / "data.new"
        shutil.rmtree(beside, ignore_errors=True)
        for folder in (beside, self.socket_folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            self._give(folder)
        self.socket_folder.chmod(0o755)
        theirs = self.root / "password.initdb"
        write(theirs, f"{password}\n", 0o600)
        self._give(theirs)
        try:
            self._run("initdb", "-D", str(beside), "-U", _SUPERUSER, "-A", "scram-sha-256", "-E", "UTF8",
                      "--locale=C.UTF-8", "--no-sync", f"--pwfile={theirs}")  # fmt: skip
        finally:
            theirs.unlink()
        settings = [
            f"listen_addresses = '{LOOPBACK}'",
            f"port = {self.port}",
            # Two sites whose processes all come back at once need more than the hundred of a plain server.
            "max_connections = 300",
            f"unix_socket_directories = '{self.socket_folder}'",
            # As Debian sets it on a machine there: what depends on a server in UTC is found out.
            "timezone = 'Asia/Seoul'",
            *(() if self._durable else ("fsync = off",)),
        ]
        with (beside / "postgresql.conf").open("a") as stream:
            stream.write("\n".join(settings) + "\n")
        beside.rename(self.data)

    def _give(self, path: Path) -> None:
        if self._user is not None:
            shutil.chown(path, self._user, self._user)

    @property
    def _user(self) -> str | None:
        """The user as whom the server runs, None for the caller."""
        if os.geteuid() != 0:
            return None
        try:
            pwd.getpwnam(_SUPERUSER)
        except KeyError:
            raise NotPreparedError(
                "PostgreSQL is not installed here: python3 deploy/postgres install"
            ) from None
        return _SUPERUSER

    def _pg_ctl(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-s", *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        user = self._user
        done = subprocess.run(
            [str(programs() / program), *arguments],
            stdin=subprocess.DEVNULL,
            # A file, because the server keeps it open: a pipe would never end.
            stdout=(said := self._said()),
            stderr=said,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC"},
            user=user,
            group=user,
            extra_groups=[] if user else None,
            start_new_session=True,
            check=False,
        )
        os.close(said)
        if done.returncode != 0:
            last = " ".join(self.log.read_text(errors="replace").splitlines()[-3:])
            raise ClusterError(f"{program} does not end well: {last}")

    def _said(self) -> int:
        return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def _processes(self) -> set[int]:
        """All that lives of it: every one of its processes works in the folder of the data."""
        found = set()
        for pid, process in everything().items():
            with suppress(OSError):
                if process.program.startswith("postgres") and Path(f"/proc/{pid}/cwd").samefile(self.data):
                    found.add(pid)
        return found

    def _end_orphans(self) -> None:
        left = self._processes()
        with suppress(ClusterError):
            until(lambda: gone(left), "end of the last connections", _ORPHAN_SECONDS)
        end(self._processes(), 0)
        # A killed postmaster whose exit code nobody has taken yet keeps its pid, and would pass for alive.
        for left_over in (self.data / "postmaster.pid", *self.socket_folder.iterdir()):
            left_over.unlink(missing_ok=True)
