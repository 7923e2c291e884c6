"""Hand-over by SFTP to a real OpenSSH server: whole, verified, repeatable, resumed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest

from mqi_dagster.errors import HandoverError, Retry, UnreachableError
from mqi_dagster.handover import sftp as target_module
from mqi_dagster.handover.access import access_of
from mqi_dagster.handover.sftp import SftpTarget
from mqi_dagster.hpc import files as transfers
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.errors import CommandTimeoutError, ConnectionLostError, HostKeyError
from mqi_dagster.hpc.session import sftp
from mqi_dagster.settings import Handover
from tests.handover.sftp_server import SftpServer
from tests.waiting import wait_for

Servers = Callable[..., SftpServer]
BIG = 20_000_000
ODD = [
    "a b.dcm",
    'it\'s "q".csv',
    "$(touch owned)`touch owned`;&.csv",
    "선량 분포/빔 02.dcm",
    "-rf",
    "back\\slash",
]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, SftpServer]]:
    started: dict[str, SftpServer] = {}
    for name, shell in (("shell", True), ("only sftp", False)):
        started[name] = SftpServer(tmp_path_factory.mktemp("sshd"), shell=shell)
        started[name].start()
    yield started
    for server in started.values():
        server.kill()


@pytest.fixture(params=["shell", "only sftp"])
def server(request: pytest.FixtureRequest, kept: dict[str, SftpServer]) -> SftpServer:
    """A server that runs through all tests; those that end one start their own."""
    return kept[request.param]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    started: list[SftpServer] = []

    def start(**options: Any) -> SftpServer:
        started.append(SftpServer(tmp_path / f"sshd{len(started)}", **options))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "qa" / "results"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(b"dose" * 100_000)
    (source / "b").write_bytes(b"plane")
    (source / "c").write_bytes(b"")
    return {"rt_dose.dcm": source / "a", "csv/01.csv": source / "b", "csv/empty.csv": source / "c"}


def big_file(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(random.Random(7).randbytes(BIG))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        name: ((folder / name).stat().st_ino, (folder / name).stat().st_mtime_ns) for name in names(folder)
    }


def require_receipt(root: Path, folder: str, wanted: dict[str, Path]) -> None:
    """Every file is there once, byte for byte, and the receipt says so."""
    assert names(root / folder) == set(wanted) | {"receipt.json"}
    for name, source in wanted.items():
        assert (root / folder / name).read_bytes() == source.read_bytes(), name
    receipt = json.loads((root / folder / "receipt.json").read_text())
    assert receipt["target"] == "sftp"
    assert receipt["entries"] == [
        {
            "name": f"{folder}/{name}",
            "size": (root / folder / name).stat().st_size,
            "sha256": sha256(root / folder / name),
        }
        for name in sorted(wanted)
    ]


def test_every_file_is_at_the_target_with_its_checksum_in_the_receipt(
    server: SftpServer, root: Path, files: dict[str, Path]
) -> None:
    receipt = SftpTarget(server.connection(), str(root)).deliver("P1.fx0001/b02", files)
    require_receipt(root, "P1.fx0001/b02", files)
    assert [entry.size for entry in receipt.entries] == [5, 0, 400_000]


def test_a_second_delivery_sends_nothing(server: SftpServer, root: Path, files: dict[str, Path]) -> None:
    connection = server.connection()
    target = SftpTarget(connection, str(root))
    first, before = target.deliver("c/b", files), stamps(root)
    sent = sent_bytes(connection)
    assert target.deliver("c/b", files) == first
    assert stamps(root) == before
    assert sent_bytes(connection) - sent < 100_000


def sent_bytes(connection: Connection) -> int:
    packetizer: Any = connection.transport().packetizer
    return int(packetizer._Packetizer__sent_bytes)


def test_a_changed_file_is_replaced_whichever_side_has_changed(
    server: SftpServer, root: Path, files: dict[str, Path]
) -> None:
    target = SftpTarget(server.connection(), str(root))
    target.deliver("c/b", files)
    (root / "c/b/rt_dose.dcm").write_bytes(b"half")
    files["csv/01.csv"].write_bytes(b"a new plane")
    target.deliver("c/b", files)
    require_receipt(root, "c/b", files)


def test_what_is_not_handed_over_any_more_goes_unless_somebody_changed_it(
    server: SftpServer, root: Path, files: dict[str, Path]
) -> None:
    target = SftpTarget(server.connection(), str(root))
    target.deliver("c/b", files | {"old.dcm": files["csv/01.csv"]})
    (root / "c/b/note.txt").write_text("a person's own")
    (root / "c/b/csv/01.csv").write_bytes(b"a person's own")
    target.deliver("c/b", {"rt_dose.dcm": files["rt_dose.dcm"]})
    assert names(root / "c/b") == {"rt_dose.dcm", "receipt.json", "note.txt", "csv/01.csv"}


def test_a_receipt_that_somebody_wrote_removes_nothing_outside_and_nothing_new(
    server: SftpServer, root: Path, files: dict[str, Path]
) -> None:
    target = SftpTarget(server.connection(), str(root))
    target.deliver("c/b", files)
    (root / "other.txt").write_text("a person's own")
    listed = [
        {"name": name, "size": path.stat().st_size, "sha256": sha256(path)}
        for name, path in {
            "c/b/../../other.txt": root / "other.txt",
            "other.txt": root / "other.txt",
            str(root / "other.txt"): root / "other.txt",
            "c/b/./rt_dose.dcm": files["rt_dose.dcm"],
            "c/b/\x00": files["rt_dose.dcm"],
        }.items()
    ]
    (root / "c/b/receipt.json").write_text(json.dumps({"target": "sftp", "entries": listed}))
    target.deliver("c/b", files)
    require_receipt(root, "c/b", files)
    assert (root / "other.txt").exists()


def test_leftovers_of_other_contents_go_with_the_next_delivery(
    server: SftpServer, root: Path, files: dict[str, Path]
) -> None:
    (root / "c/b/csv").mkdir(parents=True)
    (root / "c/b/csv/.01.csv.0123456789ab.01234567.part").write_bytes(b"older")
    (root / "c/b/.gone.csv.0123456789ab.01234567.part").write_bytes(b"older")
    (root / "c/b/.mine.part").write_bytes(b"a person's own")
    SftpTarget(server.connection(), str(root)).deliver("c/b", files)
    assert names(root / "c/b") == set(files) | {"receipt.json", ".mine.part"}


@pytest.mark.parametrize(
    "name", ["../out", "/absolute", "a/../../b", "", ".", "line\nbreak", "nul\0", "\x1b[0m", "a/\x7f"]
)
def test_names_that_lead_out_or_hold_control_characters_are_refused(
    server: SftpServer, root: Path, files: dict[str, Path], name: str
) -> None:
    target = SftpTarget(server.connection(), str(root))
    for call in (
        lambda: target.deliver(name, files),
        lambda: target.deliver("c", {"first.csv": files["csv/01.csv"], name: files["csv/01.csv"]}),
        lambda: target.state("c", name, b"x"),
        lambda: target.withdraw("c", name),
    ):
        with pytest.raises(HandoverError):
            call()
    assert not root.exists()


def test_odd_names_are_carried_and_nothing_in_them_is_executed(
    server: SftpServer, root: Path, files: dict[str, Path]
) -> None:
    wanted = dict.fromkeys(ODD, files["csv/01.csv"])
    target = SftpTarget(server.connection(), str(root))
    for _ in range(2):
        target.deliver("사례 $(touch owned)/b", wanted)
    require_receipt(root, "사례 $(touch owned)/b", wanted)
    assert not (Path.home() / "owned").exists() and not list(root.rglob("owned"))


def test_the_marker_can_be_withdrawn_and_set_again(server: SftpServer, root: Path) -> None:
    target = SftpTarget(server.connection(), str(root))
    target.withdraw("c", "_COMPLETE")
    (root / "c").mkdir(parents=True)
    (root / "c/._COMPLETE.0123456789ab.01234567.part").write_bytes(b"older")
    for content in (b"yes\n", b"yes again\n"):
        entry = target.state("c", "_COMPLETE", content)
        assert (entry.name, entry.size) == ("c/_COMPLETE", len(content))
        assert (root / "c/_COMPLETE").read_bytes() == content
    assert names(root) == {"c/_COMPLETE"}
    target.withdraw("c", "_COMPLETE")
    target.withdraw("c", "_COMPLETE")
    assert names(root) == set()


def test_a_target_that_differs_on_read_back_is_no_hand_over(
    server: SftpServer, root: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = target_module.put_resume

    def spoilt(connection: Connection, source: Path, path: str, part: str, mode: int) -> Any:
        sent = real(connection, source, path, part, mode)
        if path.endswith(".dcm"):
            with Path(path).open("r+b") as stream:
                stream.write(b"D")
        return sent

    monkeypatch.setattr(target_module, "put_resume", spoilt)
    target = SftpTarget(server.connection(), str(root))
    with pytest.raises(HandoverError) as raised:
        target.deliver("c/b", files)
    assert raised.value.retry is Retry.FOREVER and raised.value.where.kind == "hand-over"
    assert not (root / "c/b/receipt.json").exists()
    monkeypatch.undo()
    target.deliver("c/b", files)
    require_receipt(root, "c/b", files)


def test_what_arrives_otherwise_than_sent_never_gets_its_name(
    server: SftpServer, root: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = transfers.remote_hash

    def spoilt(connection: Connection, path: str, length: int) -> str:
        if path.endswith(".part"):
            with Path(path).open("r+b") as stream:
                stream.write(b"D")
        return real(connection, path, length)

    monkeypatch.setattr(transfers, "remote_hash", spoilt)
    with pytest.raises(HandoverError):
        SftpTarget(server.connection(), str(root)).deliver("c/b", files)
    assert names(root) == set()


def test_a_target_that_cannot_be_written_is_tried_again_and_names_no_path(
    server: SftpServer, root: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    (root / "c/b/rt_dose.dcm").mkdir(parents=True)
    for place in (str(tmp_path / "file" / "below"), str(root), "/proc/none"):
        with pytest.raises(HandoverError) as raised:
            SftpTarget(server.connection(), place).deliver("c/b", files)
        assert raised.value.retry is Retry.FOREVER
        assert "/" not in str(raised.value)
    assert not (root / "c/b/receipt.json").exists()


def test_a_host_without_commands_is_asked_for_one_only_once(
    kept: dict[str, SftpServer], root: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = paramiko.Channel.exec_command
    monkeypatch.setattr(
        paramiko.Channel, "exec_command", lambda self, command: (asked.append(command), real(self, command))
    )
    target = SftpTarget(kept["only sftp"].connection(), str(root))
    target.deliver("c/b", files)
    target.deliver("c/b", files)
    assert len(asked) == 1


def test_a_server_that_ends_the_channel_on_a_command_will_do(
    kept: dict[str, SftpServer], root: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: paramiko.Channel, command: str) -> None:
        raise paramiko.SSHException("Channel closed.")

    monkeypatch.setattr(paramiko.Channel, "exec_command", refused)
    SftpTarget(kept["only sftp"].connection(), str(root)).deliver("c/b", files)
    require_receipt(root, "c/b", files)


def test_another_host_key_is_refused_and_nothing_written(
    servers: Servers, root: Path, files: dict[str, Path]
) -> None:
    server = servers()
    target = SftpTarget(server.connection(), str(root))
    target.state("c", "_COMPLETE", b"yes\n")
    before = stamps(root)
    server.new_host_key()
    server.restart()
    for call in (lambda: target.deliver("c/b", files), lambda: target.withdraw("c", "_COMPLETE")):
        with pytest.raises(HostKeyError):
            call()
    assert stamps(root) == before


@pytest.mark.parametrize("shell", [True, False], ids=["shell", "only sftp"])
def test_a_server_killed_in_the_middle_is_resumed(
    servers: Servers,
    root: Path,
    files: dict[str, Path],
    tmp_path: Path,
    shell: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there: list[int] = []
    real = target_module.put_resume

    def noted(connection: Connection, source: Path, path: str, part: str, mode: int) -> Any:
        sent = real(connection, source, path, part, mode)
        there.append(sent[2])
        return sent

    monkeypatch.setattr(target_module, "put_resume", noted)
    server = servers(shell=shell)
    wanted = files | {"big.raw": big_file(tmp_path)}
    target = SftpTarget(server.connection(), str(root))
    watcher = when_a_part_holds(root, BIG // 5, server.kill)
    with pytest.raises(UnreachableError):
        target.deliver("c/b", wanted)
    watcher.join(20)
    assert not (root / "c/b/big.raw").exists() and not (root / "c/b/receipt.json").exists()
    with pytest.raises(UnreachableError):
        target.deliver("c/b", wanted)
    server.start()
    there.clear()
    target.deliver("c/b", wanted)
    require_receipt(root, "c/b", wanted)
    assert BIG // 5 <= there[0] < BIG


def test_a_server_that_falls_silent_is_left_in_time_and_resumed(
    servers: Servers, root: Path, tmp_path: Path
) -> None:
    server = servers(shell=False)
    wanted = {"big.raw": big_file(tmp_path)}
    target = SftpTarget(server.connection(call_seconds=2, connect_seconds=2), str(root))
    watcher = when_a_part_holds(root, BIG // 5, server.freeze)
    with pytest.raises(CommandTimeoutError):
        target.deliver("c/b", wanted)
    watcher.join(20)
    server.thaw()
    target.deliver("c/b", wanted)
    require_receipt(root, "c/b", wanted)


def test_a_server_that_falls_silent_before_sftp_has_begun_is_left_in_time(
    servers: Servers, root: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = servers(shell=False)
    target = SftpTarget(server.connection(call_seconds=1), str(root))
    real = paramiko.Channel.invoke_subsystem

    def frozen(self: paramiko.Channel, subsystem: str) -> None:
        server.freeze()
        real(self, subsystem)

    monkeypatch.setattr(paramiko.Channel, "invoke_subsystem", frozen)
    with pytest.raises(CommandTimeoutError):
        target.withdraw("c", "_COMPLETE")


def test_a_connection_that_dies_while_a_file_is_read_leaves_no_thread_behind(
    servers: Servers, tmp_path: Path
) -> None:
    server = servers(shell=False)
    source, connection = big_file(tmp_path), server.connection(call_seconds=5)
    transfers.remote_hash(connection, str(source), 1)
    timer = threading.Timer(0.1, server.kill)
    timer.start()
    with pytest.raises(ConnectionLostError):
        while True:
            transfers.remote_hash(connection, str(source), BIG)
    timer.join()
    wait_for(lambda: not prefetching(), "no thread reads ahead")


def test_a_channel_that_closes_before_a_read_is_no_end_of_the_file(
    server: SftpServer, tmp_path: Path
) -> None:
    source = big_file(tmp_path)
    with (
        pytest.raises(ConnectionLostError),
        sftp(server.connection()) as client,
        client.open(str(source), "rb") as stream,
    ):
        assert len(stream.read(10)) == 10
        channel = client.get_channel()
        assert channel is not None
        channel.shutdown_write()
        stream.read(1 << 20)


def prefetching() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "prefetch" in thread.name]


def when_a_part_holds(root: Path, size: int, act: Callable[[], None]) -> threading.Thread:
    """Act as soon as a half-written file has a size."""

    def watch() -> None:
        wait_for(
            lambda: [path for path in root.rglob(".big.raw.*.part") if path.stat().st_size >= size],
            "a part of the file",
        )
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("shell", [True, False], ids=["shell", "only sftp"])
def test_one_session_at_once_is_enough(
    servers: Servers, root: Path, files: dict[str, Path], shell: bool
) -> None:
    SftpTarget(servers(shell=shell, max_sessions=1).connection(), str(root)).deliver("c/b", files)
    require_receipt(root, "c/b", files)


def test_two_tries_at_once_do_no_harm(server: SftpServer, root: Path, tmp_path: Path) -> None:
    seeded = random.Random(3)
    sources = {}
    for number in range(6):
        path = tmp_path / f"s{number}"
        path.write_bytes(seeded.randbytes(seeded.randint(1, 2_000_000)))
        sources[f"f{number}"] = path
    for round_ in range(3):
        failed: list[BaseException] = []

        def hand_over(folder: str, failed: list[BaseException] = failed) -> None:
            target = SftpTarget(server.connection(), str(root))
            for _ in range(10):
                try:
                    target.deliver(folder, sources)
                    return
                except (HandoverError, UnreachableError) as error:
                    # A beam tries again as well, for as long as it takes.
                    print(f"again: {error}")
                except BaseException as error:  # noqa: BLE001 - told by the test's own thread
                    failed.append(error)
                    return
            failed.append(AssertionError("ten tries were not enough"))

        tries = [threading.Thread(target=hand_over, args=(f"c{round_}/b",)) for _ in range(3)]
        for one in tries:
            one.start()
        for one in tries:
            one.join(120)
        assert failed == []
        require_receipt(root, f"c{round_}/b", sources)


@pytest.mark.slow
@pytest.mark.parametrize("shell", [True, False], ids=["shell", "only sftp"])
def test_twenty_cases_arrive_whole_while_the_server_is_killed_again_and_again(
    servers: Servers, root: Path, tmp_path: Path, shell: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_module, "_QUIET_SECONDS", 0.1)
    seed = int(os.environ.get("MQI_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"MQI_TEST_SEED={seed}")
    seeded = random.Random(seed)
    server, over = servers(shell=shell), threading.Event()
    kills = 0

    def disturb(often: random.Random) -> None:
        nonlocal kills
        while not over.wait(often.uniform(0.2, 1.4)):
            server.kill()
            kills += 1
            over.wait(often.uniform(0.0, 0.2))
            server.start()

    cases: dict[str, dict[str, Path]] = {}
    for case in range(20):
        for beam in (2, 3):
            wanted = {}
            for name in ("rt_dose.dcm", "csv/01.csv", "raw_dose/dose.raw"):
                path = tmp_path / f"{case}-{beam}-{Path(name).name}"
                path.write_bytes(seeded.randbytes(seeded.randint(1_000_000, 3_000_000)))
                wanted[name] = path
            cases[f"P{case}.fx0001/b{beam:02d}"] = wanted
    target = SftpTarget(server.connection(), str(root))
    trouble = threading.Thread(target=disturb, args=(random.Random(seed + 1),))
    trouble.start()
    failures: list[str] = []
    try:
        for folder, wanted in cases.items():
            persistently(lambda folder=folder, wanted=wanted: target.deliver(folder, wanted), failures)
            case = folder.partition("/")[0]
            persistently(lambda case=case: target.withdraw(case, "_COMPLETE"), failures)
            persistently(lambda case=case: target.state(case, "_COMPLETE", case.encode()), failures)
    finally:
        over.set()
        trouble.join(30)
    print(f"{kills} kills, {len(failures)} failed calls: {sorted(set(failures))}")
    assert kills > 5 and failures
    for folder, wanted in cases.items():
        require_receipt(root, folder, wanted)
        case = folder.partition("/")[0]
        assert (root / case / "_COMPLETE").read_text() == case
    assert len(names(root)) == 40 * 4 + 20
    assert not list(root.rglob("*.part"))
    assert not prefetching()


def persistently(call: Callable[[], object], failures: list[str]) -> None:
    for _ in range(500):
        try:
            call()
            return
        except (UnreachableError, HandoverError) as error:
            failures.append(type(error).__name__)
            time.sleep(0.05)
    raise AssertionError("five hundred tries were not enough")


@pytest.mark.parametrize(
    ("access", "file_mode", "folder_mode"), [("owner", 0o600, 0o700), ("group", 0o640, 0o750)]
)
def test_nobody_but_who_is_named_can_read_what_stands_there(
    server: SftpServer,
    root: Path,
    files: dict[str, Path],
    access: str,
    file_mode: int,
    folder_mode: int,
) -> None:
    wanted = access_of(Handover.model_validate({"access": access}))
    SftpTarget(server.connection(), str(root), wanted).deliver("c/b", files)
    places = [root, *root.rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in places if path.is_file()} == {file_mode}
    assert {path.stat().st_mode & 0o777 for path in places if path.is_dir()} == {folder_mode}
