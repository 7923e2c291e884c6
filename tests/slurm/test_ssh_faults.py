"""Connections that die, hang, are refused or cannot be trusted, in front of a real sshd and real jobs."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from mqi_dagster.errors import ConfigurationError, MqiError, Retry, UnreachableError
from mqi_dagster.hpc import connection as connection_module
from mqi_dagster.hpc import engine_log, watcher
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.errors import (
    AuthenticationError,
    CommandTimeoutError,
    ConnectError,
    CredentialError,
    HostKeyError,
)
from mqi_dagster.hpc.shell import run
from mqi_dagster.settings import Host
from tests.handover.sftp_server import SftpServer
from tests.slurm.beams import NAME, Beam, Bench, assert_done_once
from tests.slurm.wire import Gate, restart_sshd, sshd_with
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

IMPATIENT = {"call_seconds": 3, "connect_seconds": 2, "breaker_seconds": 1}
FROZEN_SECONDS = 4.0
STUBBORN = {"breaker_failures": 100_000}


def connection_to(on: Bench, **changes: Any) -> Connection:
    """A connection of its own to a bench's cluster."""
    return Connection(on.host.model_copy(update=changes))


@contextmanager
def another_host_key(cluster: Any, made: Path, kind: str) -> Iterator[None]:
    """The cluster's sshd shows a key of its own making during the block."""
    key = cluster.layout.keys / "host"
    kept = key.read_bytes()
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", str(made)], check=True)
    try:
        key.write_bytes(made.read_bytes())
        restart_sshd(cluster)
        yield
    finally:
        key.write_bytes(kept)
        restart_sshd(cluster)


def again(beam: Beam) -> Beam:
    """The same job for a run that comes later."""
    return Beam(beam.job, beam.expected)


def sshd_log(cluster: Any) -> str:
    """All that sshd has said."""
    return str((cluster.layout.log / "sshd.log").read_text(errors="replace"))


# Killed and frozen while a job runs


@pytest.fixture(params=["killed", "frozen"])
def harm(request: Any, cluster: Any) -> Iterator[Callable[[], None]]:
    """What happens to sshd and all its connections."""

    def act() -> None:
        if request.param == "killed":
            restart_sshd(cluster)
        else:
            cluster.freeze("sshd")
            threading.Timer(FROZEN_SECONDS, cluster.thaw, ("sshd",)).start()

    yield act
    wait_for(lambda: cluster.states()["sshd"] != "frozen", "sshd is itself again")


@pytest.mark.parametrize(
    ("module", "name", "byte"),
    [(watcher, "poll_jobs", 1500), (engine_log, "tail", 300)],
    ids=["poll", "tail"],
)
def test_a_call_that_breaks_off_says_nothing_of_the_job(
    cluster: Any,
    bench: Callable[..., Bench],
    gate: Gate,
    harm: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    byte: int,
) -> None:
    on = bench(host={**gate.host, **IMPATIENT})
    beam = on.beam(seconds=4)
    call, failures = getattr(module, name), []

    def troubled(*arguments: Any) -> Any:
        hit = not failures and not gate.happened.is_set() and on.traced()
        if hit:
            gate.after("up", byte, harm)
        try:
            return call(*arguments)
        except UnreachableError as error:
            failures.append(error)
            raise

    monkeypatch.setattr(module, name, troubled)
    with on.driven(beam):
        pass
    assert gate.happened.is_set() and failures
    assert_done_once(cluster, on, beam)
    assert len([one for one in on.traced() if one[0] == "start"]) == 1
    if name == "poll_jobs":
        assert [one for one in beam.spoken.words if "has not answered since" in one]
    look = on.ledger.clusters.get(NAME)
    assert look is not None and look.failing_since is None


# Limits of the server


@pytest.mark.parametrize("most", [2, 1])
def test_a_server_of_few_sessions_gets_few_at_once_and_all_are_served(
    cluster: Any, bench: Callable[..., Bench], most: int
) -> None:
    with sshd_with(cluster, MaxSessions=str(most)):
        on = bench()
        connection = on.executor.connection
        beams = [on.beam(seconds=1) for _ in range(4)]

        def called(number: int) -> str:
            answer = run(connection, ["sh", "-c", 'sleep 0.05; echo "$1"', "sh", str(number)])
            return answer.text.strip()

        with on.driven(*beams), ThreadPoolExecutor(16) as threads:
            assert list(threads.map(called, range(40))) == [str(number) for number in range(40)]
        assert connection.channels.limit == most
    assert_done_once(cluster, on, *beams)


def test_ten_processes_that_connect_at_once_all_get_in(cluster: Any, bench: Callable[..., Bench]) -> None:
    on = bench(host={"breaker_seconds": 1})
    beam = on.beam()
    before = sshd_log(cluster)
    with sshd_with(cluster, MaxStartups="2:100:2"):
        read, write = os.pipe()
        children = []
        for _ in range(10):
            child = os.fork()
            if child == 0:
                # Nothing of pytest's may run in it.
                code = 1
                with suppress(BaseException):
                    os.close(write)
                    os.read(read, 1)
                    code = _connects(on.host)
                os._exit(code)
            children.append(child)
        os.close(read)
        os.close(write)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert codes == [0] * 10
        with on.driven(beam):
            pass
    assert "MaxStartups" in sshd_log(cluster)[len(before) :], "the server had to refuse some"
    assert_done_once(cluster, on, beam)


def _connects(host: Host) -> int:
    """Exit code of a process that wants one answer; it asks again as a beam does."""
    connection = Connection(host)

    def answered() -> tuple[int] | None:
        try:
            return (run(connection, ["true"]).exit_code,)
        except UnreachableError:
            return None

    answer = wait_for(answered, "an answer")
    assert answer is not None
    return answer[0]


# Whom to trust


def test_a_host_that_shows_another_key_gets_nothing(
    cluster: Any, bench: Callable[..., Bench], gate: Gate, tmp_path: Path
) -> None:
    on = bench(host=gate.host)
    beam = on.beam()
    for kind in ("ed25519", "rsa"):
        with another_host_key(cluster, tmp_path / kind, kind):
            before, tries = len(sshd_log(cluster)), gate.connections
            with pytest.raises(HostKeyError) as raised, on.driven(again(beam)):
                pass
            assert "known_hosts" in raised.value.message and "administrator" in raised.value.message
            assert raised.value.retry is Retry.NEVER
            wait_for(lambda start=before: "preauth" in sshd_log(cluster)[start:], "sshd's word")
            said = sshd_log(cluster)[before:]
            # Neither the account's name nor a signature has reached it.
            assert cluster.settings.user not in said and "publickey" not in said
            assert gate.connections == tries + 1
            assert not on.folder_of(beam).parent.exists()
    beam = again(beam)
    with on.driven(beam):
        pass
    assert_done_once(cluster, on, beam)


def test_bad_credentials_fail_at_once_and_say_what_to_do(
    cluster: Any, bench: Callable[..., Bench], gate: Gate, tmp_path: Path
) -> None:
    on = bench(host=gate.host)
    beam = on.beam()
    nobody = tmp_path / "nobody"
    nobody.write_text("[127.0.0.1]:1 " + cluster.connection().known_hosts.read_text().split(" ", 1)[1])
    open_key = tmp_path / "open"
    shutil.copy(cluster.connection().key_file, open_key)
    open_key.chmod(0o644)
    wrong = {}
    for kind in ("ed25519", "rsa", "ecdsa"):
        wrong[kind] = tmp_path / kind
        argv = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", str(wrong[kind])]
        subprocess.run(argv, check=True)

    def refused(**changes: Any) -> MqiError:
        other = Bench(
            tmp_path / f"site{len(list(tmp_path.iterdir()))}",
            cluster.connection(),
            on.shared,
            host={**gate.host, **changes},
        )
        one = again(beam)
        with pytest.raises(MqiError) as raised, other.driven(one):
            pass
        assert raised.value.retry is Retry.NEVER
        assert not on.folder_of(beam).parent.exists()
        return raised.value

    for changes, word in (
        ({"known_hosts": nobody}, "administrator"),
        ({"key_file": open_key}, "chmod 600"),
        ({"key_file": tmp_path / "none"}, "key file"),
    ):
        error = refused(**changes)
        assert isinstance(error, CredentialError) and isinstance(error, ConfigurationError)
        assert word in error.message
    assert gate.connections == 0
    for number, key in enumerate(wrong.values(), start=1):
        error = refused(key_file=key)
        assert isinstance(error, AuthenticationError) and "authorized_keys" in error.message
        assert gate.connections == number
    error = refused(user="nobody")
    assert isinstance(error, AuthenticationError)
    with on.driven(beam):
        pass
    assert_done_once(cluster, on, beam)


def test_a_connection_that_ends_anywhere_in_its_making_is_no_refusal(
    cluster: Any, bench: Callable[..., Bench], gate: Gate
) -> None:
    on = bench(host=gate.host)
    beam = on.beam()
    connection_to(on).transport()
    whole = gate.passed["down"]
    assert 1000 < whole < 10_000
    places = [1, 30, whole // 4, whole // 2, *range(whole - 480, whole - 8, 32)]
    for place in places:
        gate.after("down", place, gate.cut)
        with pytest.raises(ConnectError):
            connection_to(on, **STUBBORN).transport()
        assert gate.happened.is_set(), place
    for place in (10, whole // 2, whole - 40):
        gate.after("down", place, threading.Event().wait)
        with pytest.raises(ConnectError):
            connection_to(on, connect_seconds=0.7, **STUBBORN).transport()
    with on.driven(beam):
        pass
    assert_done_once(cluster, on, beam)


def test_a_jump_host_is_gone_through_and_has_to_show_its_own_key(
    cluster: Any, bench: Callable[..., Bench], tmp_path: Path
) -> None:
    server = SftpServer(tmp_path / "jump")
    server.start()
    try:
        way = server.connection().host
        jump = {name: getattr(way, name) for name in ("host", "port", "user", "key_file", "known_hosts")}
        on = bench(host={"jump": jump, "breaker_seconds": 1})
        beam = on.beam(seconds=2)
        with on.driven(beam):
            wait_for(lambda: on.traced(), "the engine runs")
            server.kill()
            wait_for(lambda: [one for one in beam.spoken.words if "has not answered" in one], "seen")
            server.restart()
        assert_done_once(cluster, on, beam)

        server.kill()
        server.new_host_key()
        server.start()
        on.executor.connection.drop()
        before = len(sshd_log(cluster))
        with pytest.raises(HostKeyError, match="the jump host shows another key"):
            run(on.executor.connection, ["true"])
        assert sshd_log(cluster)[before:] == ""
        server.pin()
        assert run(on.executor.connection, ["true"]).exit_code == 0
        # The host behind it is not trusted for the jump host's sake.
        other = jump["known_hosts"].read_text().replace(f":{jump['port']} ", f":{on.host.port} ")
        (tmp_path / "other").write_text(other)
        with pytest.raises(HostKeyError, match="the host shows another key"):
            run(connection_to(on, known_hosts=tmp_path / "other"), ["true"])
    finally:
        server.kill()


# What a process may rely on


def test_a_connection_stays_with_the_process_that_has_opened_it(
    cluster: Any, bench: Callable[..., Bench]
) -> None:
    on = bench()
    beam = on.beam(seconds=2)
    connection = on.executor.connection
    ask = ["sh", "-c", 'echo "$SSH_CONNECTION"']
    ours = run(connection, ask).text.split()
    with on.driven(beam):
        wait_for(lambda: on.traced(), "the engine runs")
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            with suppress(BaseException):
                for _ in range(3):
                    os.write(write, run(connection, ask).out)
                code = 0
            os._exit(code)
        os.close(write)
        for _ in range(10):
            assert run(connection, ask).text.split() == ours
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        theirs = {line for line in os.read(read, 4096).decode().splitlines() if line}
        os.close(read)
        assert len(theirs) == 1 and theirs != {" ".join(ours)}
        assert run(connection, ask).text.split() == ours
    assert_done_once(cluster, on, beam)


def test_a_host_that_is_away_is_left_alone_for_a_while(
    cluster: Any, bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    on = bench(host={"breaker_seconds": 8})
    beam = on.beam()
    tries: list[object] = []
    socket_of = connection_module._socket

    def counted(*arguments: Any) -> Any:
        tries.append(arguments)
        return socket_of(*arguments)

    monkeypatch.setattr(connection_module, "_socket", counted)
    cluster.kill("sshd", sessions=True)
    connection, stop, refusals = on.executor.connection, threading.Event(), []

    def impatient() -> None:
        while not stop.is_set():
            try:
                run(connection, ["true"])
            except ConnectError as error:
                refusals.append(error.message)
            stop.wait(0.01)

    threads = [threading.Thread(target=impatient) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(tries) == 5, "five tries")
        refused = len(refusals)
        wait_for(lambda: len(refusals) > refused + 500, "refusals without a try")
        assert "5 connections in a row have failed" in refusals[-1]
        cluster.start_one("sshd")
        wait_for(lambda: connection.is_open, "one more try")
        assert len(tries) == 6
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    with on.driven(beam):
        pass
    assert len(tries) == 6
    assert_done_once(cluster, on, beam)


# Commands


def test_commands_that_print_much_hang_or_end_early_are_told_apart(
    cluster: Any, bench: Callable[..., Bench]
) -> None:
    on = bench(host={"call_seconds": 20})
    beam = on.beam()
    connection = on.executor.connection
    much = "head -c 9000000 /dev/zero & head -c 8000000 /dev/zero >&2; wait"
    answer = run(connection, ["sh", "-c", much])
    assert (answer.exit_code, len(answer.out), len(answer.err)) == (0, 9_000_000, 8_000_000)

    with pytest.raises(CommandTimeoutError, match="no answer within 1 s"):
        run(connection, ["sleep", "20"], timeout=1)
    assert run(connection, ["echo", "next"]).text == "next\n"

    def feed(stream: Any) -> None:
        for _ in range(64):
            stream.write(bytes(1 << 18))

    for given in (bytes(16 << 20), feed):
        answer = run(connection, ["sh", "-c", "echo it says why >&2; exit 7"], feed=given)
        assert (answer.exit_code, answer.complaint) == (7, "it says why")
    assert run(connection, ["wc", "-c"], feed=feed).text.strip() == str(16 << 20)
    with pytest.raises(UnreachableError, match="ended a command"):
        run(connection, ["sh", "-c", "kill -9 $$"])
    assert run(connection, ["echo", "next"]).text == "next\n"
    with on.driven(beam):
        pass
    assert_done_once(cluster, on, beam)
