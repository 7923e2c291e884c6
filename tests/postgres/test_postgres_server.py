"""The throw-away server: it starts after any death, and leaves nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres.postgres_server import ClusterError, Server, running_postgres

pytestmark = [pytest.mark.slow, pytest.mark.postgres]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_postgres() as started:
        yield started


def test_what_was_committed_is_there_after_the_server_was_killed(server: Server) -> None:
    server.sql("CREATE TABLE kept (number int); INSERT INTO kept VALUES (7)", database="mqi")
    before = server.pid()
    for backends in (False, True):
        server.kill(backends=backends)
        assert server.pid() is None
        with pytest.raises(ClusterError):
            server.sql("SELECT 1")
        server.start()
        assert server.pid() not in (None, before)
        assert server.sql("SELECT number FROM kept", database="mqi") == "7"


def test_a_killed_server_whose_connection_is_busy_starts_again(server: Server) -> None:
    psql = subprocess.Popen(
        ["psql", "-X", "-c", "SELECT pg_sleep(300)"],
        env={
            "PATH": "/usr/bin:/bin",
            **dict(line[7:].split("=", 1) for line in server.exports().splitlines()),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        server.kill()
        server.start()
        assert server.sql("SELECT 1") == "1"
    finally:
        psql.send_signal(signal.SIGKILL)
        psql.wait()


def test_only_who_knows_the_password_comes_in(server: Server) -> None:
    where = ["-h", "127.0.0.1", "-p", str(server.port), "-U", "mqi", "mqi"]
    environment = {"PATH": "/usr/bin:/bin", "PGPASSWORD": "guessed"}
    done = subprocess.run(["psql", "-X", *where], env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and "password authentication failed" in done.stderr
    assert server.password_file.stat().st_mode & 0o777 == 0o600


def test_a_second_server_does_not_disturb_the_first_and_leaves_nothing(server: Server) -> None:
    with running_postgres() as other:
        assert other.port != server.port
        (data,) = [Path(f"/proc/{other.pid()}/cwd").readlink()]
        assert data == other.data
        pid = other.pid()
    assert not other.root.exists()
    assert not Path(f"/proc/{pid}/cmdline").exists() or Path(f"/proc/{pid}/cmdline").read_bytes() == b""
    assert server.sql("SELECT 1") == "1"


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("mine")
    for command in ("start", "clean"):
        done = subprocess.run(
            ["python3", str(DEPLOY / "postgres"), command, "--root", str(tmp_path)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, done.stdout + done.stderr
    assert (tmp_path / "letter").read_text() == "mine"


def test_without_root_the_missing_packages_are_named() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="mqp") as made:
        # A copy, because the checkout may lie where an ordinary user cannot look.
        place = Path(made)
        place.chmod(0o755)
        for name in ("cluster", "postgres"):
            shutil.copytree(DEPLOY / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        nothing_installed = place / "dpkg"
        nothing_installed.mkdir()
        (nothing_installed / "status").touch()
        become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        done = subprocess.run(
            [*become, "/usr/bin/python3", str(place / "postgres"), "install"],
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin", "DPKG_ADMINDIR": str(nothing_installed)},
            timeout=60,
        )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "apt-get install --no-install-recommends postgresql-common postgresql" in done.stderr
    assert "Traceback" not in done.stderr
