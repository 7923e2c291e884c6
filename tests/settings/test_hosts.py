"""Other machines in the settings: nothing that a shell could mistake, every stage at a known place."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.ledger.slots import Slot, SlotKind
from mqi_dagster.resources.gpu_pool import simulation_slots
from mqi_dagster.settings import Keep, Settings, Slurm, parse_settings, read_settings

BASE = Path("/srv/site")
HOST = {"host": "login.example", "user": "moqui", "key_file": "keys/id", "known_hosts": "keys/known_hosts"}
CONTENT: dict[str, Any] = {
    "site": {"timezone": "Asia/Seoul"},
    "execution": {"simulation": "hpc"},
    "hosts": {"hpc": {**HOST, "slurm": {"root": "/scratch/moqui"}}},
}
SLURM = "hosts.hpc.slurm"


def parse(changes: dict[str, object]) -> Settings:
    """Settings with a cluster and some keys, named by their path, changed."""
    content = copy.deepcopy(CONTENT)
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = content
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    return parse_settings(content, BASE)


def slurm_of(changes: dict[str, object]) -> Slurm:
    found = parse(changes).slurm_of("hpc")
    assert found is not None
    return found[1]


def test_a_host_needs_little_more_than_its_name_and_a_key() -> None:
    settings = parse({})
    host = settings.hosts["hpc"]
    assert (host.port, host.jump, host.channels, host.call_seconds) == (22, None, 6, 60)
    assert (host.breaker_failures, host.breaker_seconds) == (5, 60)
    slurm = slurm_of({})
    assert (slurm.slots, slurm.cpus, slurm.requeue, slurm.scratch) == (8, 1, False, None)
    assert (slurm.partition, slurm.account, slurm.qos, slurm.memory_mb) == (None, None, None, None)
    assert slurm.wanted_gpus == ("--gres", "gpu:1")
    assert (slurm.retention.keep, slurm.retention.failed_days) == (Keep.FAILED, 14)
    intervals = slurm.intervals
    assert (intervals.poll_seconds, intervals.poll_maximum_seconds, intervals.tail_seconds) == (10, 30, 5)
    assert (intervals.result_wait_seconds, intervals.absent_seconds, intervals.lost_seconds) == (60, 30, 120)
    assert (intervals.unknown_submission_seconds, intervals.alarm_seconds) == (20, 600)
    assert (intervals.retry_seconds, intervals.retry_maximum_seconds) == (2, 300)


def test_every_stage_is_at_this_machine_unless_told_otherwise() -> None:
    settings = parse_settings({"site": {"timezone": "UTC"}}, BASE)
    assert settings.hosts == {}
    assert settings.execution.simulation == settings.execution.gpu_monitoring == "local"
    assert settings.handover.target == "local"
    assert settings.slurm_of("local") is None


def test_each_stage_has_a_place_of_its_own() -> None:
    settings = parse({"execution.simulation": "local", "execution.gpu_monitoring": "hpc"})
    assert (settings.execution.simulation, settings.execution.gpu_monitoring) == ("local", "hpc")
    assert settings.engine_profile().command == ("mqi-engine", "{tps}")
    server = parse({"hosts.pc": HOST, "handover.target": "pc", "handover.folder": "/data/results"})
    assert (server.handover.target, server.execution.simulation) == ("pc", "hpc")


UNSAFE = [
    "",
    " ",
    "a b",
    "a\n",
    "a\nb",
    "\na",
    "a;b",
    "$(id)",
    "`id`",
    "a'b",
    'a"b',
    "a\\b",
    "a\x00",
    "a|b",
    "a&b",
    "*",
    "~",
    "홍",
]


@pytest.mark.parametrize("value", [*UNSAFE, "-a", "--uid=0", "a,b", "a/b"])
@pytest.mark.parametrize("key", [f"{SLURM}.partition", f"{SLURM}.account", f"{SLURM}.qos", "hosts.hpc.user"])
def test_a_name_of_slurms_is_a_plain_word(key: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=key.replace(".", r"\.")):
        parse({key: value})


@pytest.mark.parametrize("value", [*UNSAFE, "-gpu:1", "gpu=1"])
@pytest.mark.parametrize("key", [f"{SLURM}.gres", f"{SLURM}.gpus"])
def test_resources_are_plain(key: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=key.replace(".", r"\.")):
        parse({key: value})


@pytest.mark.parametrize(
    "value",
    [
        *UNSAFE,
        "/",
        "/one",
        "relative/path",
        "/a/../b",
        "/a/..",
        "/a/.",
        "/a//b",
        "/a/b/",
        "/a b/c",
        "/a/b\n",
        "/$HOME/x",
    ],
)
@pytest.mark.parametrize("key", [f"{SLURM}.root", f"{SLURM}.scratch", f"{SLURM}.source"])
def test_a_path_on_a_cluster_is_absolute_of_two_plain_parts_or_more(key: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=key.replace(".", r"\.")):
        parse({key: [value] if key.endswith("source") else value})


@pytest.mark.parametrize("value", ["/scratch/moqui", "/a/b.c/d-e_f", "/gpfs/u@site/x=1+2", "/a/..b"])
def test_plain_paths_are_taken(value: str) -> None:
    assert slurm_of({f"{SLURM}.root": value}).root == value


@pytest.mark.parametrize("value", [*UNSAFE, "-x", "/abs", "cuda@12"])
def test_a_module_is_a_plain_name(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"hosts\.hpc\.slurm\.modules"):
        parse({f"{SLURM}.modules": ["cuda/12.2", value]})


@pytest.mark.parametrize("value", [text for text in UNSAFE if text])
def test_the_value_of_a_variable_is_plain(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"environment"):
        parse({f"{SLURM}.environment": {"LICENSE": value}})


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "A\n", "A;B", "홍", "x" * 101])
def test_a_variable_has_a_name_as_shells_know_it(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"environment"):
        parse({f"{SLURM}.environment": {name: "x"}})


@pytest.mark.parametrize("value", ["", "-oProxyCommand=id", "a b", "a\n", "$(id)", "a/b", "user@host", "a;b"])
def test_a_host_is_a_name_or_an_address(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"hosts\.hpc\.host"):
        parse({"hosts.hpc.host": value})


@pytest.mark.parametrize("value", ["login.example", "10.0.0.1", "::1", "2001:db8::1", "LOGIN-1"])
def test_names_and_addresses_are_taken(value: str) -> None:
    assert parse({"hosts.hpc.host": value}).hosts["hpc"].host == value


@pytest.mark.parametrize("part", ["x\n", "\x00", "\x1b[0m", ""])
def test_a_command_on_the_cluster_holds_no_control_character(part: str) -> None:
    for key in ("engine_command", "engine_version_command"):
        with pytest.raises(ConfigurationError, match=key):
            parse({f"{SLURM}.{key}": ["moqui", "{tps}", part]})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"execution.simulation": "hcp"}, "execution.simulation: no host 'hcp'"),
        ({"execution.gpu_monitoring": "gone"}, "execution.gpu_monitoring: no host 'gone'"),
        ({"handover.target": "gone", "handover.folder": "/a/b"}, "handover.target: no host 'gone'"),
        ({"hosts.pc": HOST, "execution.simulation": "pc"}, "the host 'pc' has no slurm section"),
        ({"hosts.hpc.slurm": None}, "the host 'hpc' has no slurm section"),
        ({"hosts.local": HOST}, "no host can be called 'local'"),
        ({"hosts.a b": HOST}, "hosts.a b"),
        ({f"{SLURM}.gres": "gpu:2", f"{SLURM}.gpus": "2"}, "give gres or gpus, not both"),
        ({f"{SLURM}.engine_command": ["moqui", "tps"]}, "must name the TPS file as {tps}"),
        ({f"{SLURM}.slots": 0}, f"{SLURM}.slots"),
        ({f"{SLURM}.memory_mb": 0}, f"{SLURM}.memory_mb"),
        ({f"{SLURM}.time_limit_minutes": 0}, f"{SLURM}.time_limit_minutes"),
        ({f"{SLURM}.intervals.poll_seconds": 0}, f"{SLURM}.intervals.poll_seconds"),
        ({f"{SLURM}.retention.keep": "nothing"}, f"{SLURM}.retention.keep"),
        ({f"{SLURM}.partitions": "x"}, f"{SLURM}.partitions"),
        ({"hosts.hpc.port": 70000}, "hosts.hpc.port"),
        ({"hosts.hpc.password": "x"}, "hosts.hpc.password"),
        ({"hosts.hpc.channels": 0}, "hosts.hpc.channels"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(changes)
    assert said in raised.value.message


@pytest.mark.parametrize(
    "folder", ["handover", "/one", "/a/../b", "/a/b c", "/a/b\n", "/홍/길동", "/a/$(id)"]
)
def test_results_on_a_host_go_to_an_absolute_plain_folder(folder: str) -> None:
    with pytest.raises(ConfigurationError, match="folder on a host"):
        parse({"hosts.pc": HOST, "handover.target": "pc", "handover.folder": folder})


def test_a_folder_of_this_machine_may_be_called_anything() -> None:
    assert parse({"handover.folder": "넘김 1"}).handover.folder == BASE / "넘김 1"


def test_key_files_stand_below_the_settings_file() -> None:
    jump = {**HOST, "host": "gate", "key_file": "keys/gate", "known_hosts": "/etc/ssh/known"}
    host = parse({"hosts.hpc.jump": jump}).hosts["hpc"]
    assert (host.key_file, host.known_hosts) == (BASE / "keys/id", BASE / "keys/known_hosts")
    assert host.jump is not None
    assert (host.jump.key_file, host.jump.known_hosts) == (BASE / "keys/gate", Path("/etc/ssh/known"))
    assert parse({"hosts.hpc.key_file": "/root/key"}).hosts["hpc"].key_file == Path("/root/key")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"gres": "gpu:a100:2"}, ("--gres", "gpu:a100:2")),
        ({"gpus": "2"}, ("--gpus", "2")),
        ({"gpus": "a100:1", "gres": None}, ("--gpus", "a100:1")),
        ({"gpus": None}, ("--gres", "gpu:1")),
        ({"gres": None}, None),
    ],
)
def test_gpus_are_asked_for_in_one_way(changes: dict[str, object], wanted: tuple[str, str] | None) -> None:
    found = slurm_of({f"{SLURM}.{key}": value for key, value in changes.items()})
    assert found.wanted_gpus == wanted


def test_the_engine_is_called_as_it_is_called_where_it_runs() -> None:
    changes: dict[str, object] = {"engine.profile": "moqui"}
    assert parse(changes).engine_profile().command == ("moqui_SMC", "{tps}")
    changes |= {
        f"{SLURM}.engine_command": ["/opt/moqui/bin/moqui", "--tps", "{tps}"],
        f"{SLURM}.engine_version_command": ["/opt/moqui/bin/moqui", "--version"],
    }
    remote = parse(changes).engine_profile()
    assert remote.command == ("/opt/moqui/bin/moqui", "--tps", "{tps}")
    assert remote.version_command == ("/opt/moqui/bin/moqui", "--version")
    assert remote.needs_gpu is True, "the rest is the profile's"
    here = parse(changes | {"execution.simulation": "local"}).engine_profile()
    assert (here.command, here.version_command) == (("moqui_SMC", "{tps}"), None)


PULL = {"lease_seconds": 30}


def test_workers_are_a_host_that_nobody_reaches() -> None:
    found = parse({"hosts.lab": {"pull": PULL}, "execution.simulation": "lab"})
    assert (found.hosts["lab"].pull, found.slurm_of("lab")) == (found.pull_of("lab"), None)
    assert (found.is_here("lab"), found.is_here("local")) == (False, True)
    assert simulation_slots(found) == ("lab", [Slot(SlotKind.CPU, index) for index in range(8)])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hosts.lab": {"pull": {**PULL, "slots": 0}}}, "hosts.lab.pull.slots"),
        ({"hosts.lab": {"pull": {"accounts": ["A B"]}}}, "hosts.lab.pull.accounts"),
        ({"hosts.lab": {"pull": {}, "host": "login"}}, "host: a host with pull is not reached"),
        (
            {"hosts.pc": {"host": "login"}},
            "key_file, known_hosts, user: needed of a host that is reached by SSH",
        ),
        ({"hosts.lab": {"pull": {}}, "execution.gpu_monitoring": "lab"}, "has pull: nobody reaches it"),
        (
            {"hosts.lab": {"pull": {}}, "handover.target": "lab", "handover.folder": "/a/b"},
            "has pull: nobody",
        ),
        (
            {
                "hosts.lab": {"pull": {}},
                "execution.simulation": "lab",
                "engine.profile": "moqui",
                "engine.profiles": {
                    "moqui": {"command": ["m", "{tps}"], "needs_gpu": True, "gpus_per_beam": 2}
                },
            },
            "a slot of a worker has one GPU",
        ),
    ],
)
def test_what_workers_cannot_have_is_refused_by_name(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(changes)
    assert said in raised.value.message


def test_the_request_folder_of_the_environment_is_that_of_the_one_host_that_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folders(**pulls: object) -> list[Path | None]:
        hosts = {name: {"pull": pull} for name, pull in pulls.items()}
        (tmp_path / "mqi.yaml").write_text(yaml.safe_dump({"site": {"timezone": "UTC"}, "hosts": hosts}))
        return [host.pull.folder for host in read_settings(tmp_path / "mqi.yaml").hosts.values() if host.pull]

    assert folders(lab={}) == [None]
    monkeypatch.setenv("INFERENCE_REQUEST_DIR", "/mnt/requests")
    assert folders(lab={}) == [Path("/mnt/requests")]
    assert folders(lab={"folder": "/srv/own"}, other={}) == [Path("/srv/own"), Path("/mnt/requests")]
    assert folders() == []
    with pytest.raises(ConfigurationError, match="names one folder, absolutely, for one host with pull"):
        folders(lab={}, other={})
    monkeypatch.setenv("INFERENCE_REQUEST_DIR", "requests")
    with pytest.raises(ConfigurationError, match="absolutely"):
        folders(lab={})
