"""A job's script as Slurm would start it on a node, with small shell programs for the engine."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mqi_dagster.hpc.job_script import MARK, job_script
from mqi_dagster.hpc.naming import JobFolder
from mqi_dagster.hpc.polling import parse_result
from tests.hpc.hpc_cases import KEY, make_job, make_slurm
from tests.waiting import wait_for

TPS = "moqui_tps.in"


class Node:
    """A compute node: starts the script of one job.

    Args:
        folder: The job's folder; made here.
    """

    def __init__(self, folder: JobFolder) -> None:
        self.folder = folder
        self.path = Path(folder.path)
        (self.path / "input" / "Log_csv").mkdir(parents=True)
        (self.path / "input" / TPS).write_text(f"OutputDir {MARK}/Dose\nParentDir {MARK}/Log_csv")
        (self.path / "input" / "Log_csv" / "1.csv").write_text("0,0\n")

    def write(
        self,
        engine: str = "",
        argv: tuple[str, ...] = (),
        outputs: tuple[str, ...] = ("Dose/box.raw",),
        good: tuple[int, ...] = (0,),
        **slurm: object,
    ) -> None:
        """Write the script of a job whose engine is a line of shell."""
        job = make_job(
            self.path,
            argv=argv or ("sh", "-c", engine, "engine", f"{MARK}/{TPS}"),
            outputs=outputs,
            success_exit_codes=good,
        )
        (self.path / "job.sh").write_bytes(job_script(job, self.folder, make_slurm(**slurm), TPS))

    def start(self, job_id: str = "100", restart: str | None = None, **more: str) -> subprocess.Popen[str]:
        """Start it as Slurm does, in /tmp where its folder is missing."""
        environment = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": job_id, "SLURMD_NODENAME": "n1", **more}
        if restart is not None:
            environment["SLURM_RESTART_COUNT"] = restart
        return subprocess.Popen(
            ["bash", str(self.path / "job.sh")],
            cwd="/",
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, job_id: str = "100", restart: str | None = None, **more: str) -> int:
        """Run it to its end."""
        started = self.start(job_id, restart, **more)
        self.said = started.communicate(timeout=60)[0]
        return started.returncode

    def file(self, name: str, start: str = "100-0") -> Path:
        return self.path / "starts" / start / name

    def result(self, start: str = "100-0") -> dict[str, Any]:
        text = self.file("result.json", start).read_text()
        assert parse_result(text) is not None
        content: dict[str, Any] = json.loads(text)
        return content


@pytest.fixture
def node(folder: JobFolder) -> Node:
    """A node with the job's folder staged."""
    return Node(folder)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


WRITES = 'cat "$1"; printf dose >Dose/box.raw; printf second >plane.raw'


def test_outputs_are_numbered_as_wanted_and_noted_with_hash_and_size(node: Node) -> None:
    node.write(WRITES, outputs=("Dose/box.raw", "missing.raw", "plane.raw"))
    assert node.run(CUDA_VISIBLE_DEVICES='0,"1') == 0
    result = node.result()
    assert result.pop("ended") >= result.pop("began") > 1.7e9
    assert result == {
        "job": "100",
        "start": 0,
        "node": "n1",
        "gpus": "0,1",
        "exit_code": 0,
        "signal": "",
        "outputs": [
            {"number": 1, "sha256": sha256(b"dose"), "size": 4},
            {"number": 3, "sha256": sha256(b"second"), "size": 6},
        ],
    }
    assert node.file("outputs/1").read_bytes() == b"dose"
    assert node.file("outputs/3").read_bytes() == b"second"
    assert sorted(path.name for path in node.file("outputs").iterdir()) == ["1", "3"]
    assert (node.path / "owner").read_text() == "100\n"
    assert not node.file("work").exists()


def test_the_engine_sees_its_own_folder_in_the_place_of_the_mark(node: Node) -> None:
    node.write(WRITES)
    assert node.run() == 0
    here = node.file("work")
    assert node.file("engine.log").read_text() == f"OutputDir {here}/Dose\nParentDir {here}/Log_csv\n"
    assert (node.path / "input" / TPS).read_text().startswith(f"OutputDir {MARK}"), "the input stays"


def test_the_engine_sees_its_inputs_and_nothing_on_its_standard_input(node: Node) -> None:
    node.write("pwd; cat Log_csv/1.csv; cat; echo wrong >&2")
    assert node.run() == 0
    assert node.file("engine.log").read_text() == f"{node.file('work')}\n0,0\nwrong\n"


def test_an_output_that_is_a_link_or_a_folder_is_none(node: Node) -> None:
    node.write("ln -s /etc/passwd a; mkdir b; : >c", outputs=("a", "b", "c"))
    assert node.run() == 0
    assert [(entry["number"], entry["size"]) for entry in node.result()["outputs"]] == [(3, 0)]


@pytest.mark.parametrize("code", [1, 3, 95, 99, 127, 143])
def test_the_engines_exit_code_is_kept(node: Node, code: int) -> None:
    node.write(f"printf half >Dose/box.raw; exit {code}")
    assert node.run() == code
    assert node.result()["exit_code"] == code
    assert node.result()["outputs"][0]["size"] == 4


@pytest.mark.parametrize("code", [96, 97, 98])
def test_an_engine_cannot_say_what_only_the_script_may(node: Node, code: int) -> None:
    node.write(f"exit {code}")
    assert node.run() == 1
    assert node.result()["exit_code"] == code


def test_slurm_is_told_that_a_good_code_is_a_success(node: Node) -> None:
    node.write("exit 3", good=(0, 3))
    assert node.run() == 0
    assert node.result()["exit_code"] == 3


def test_an_engine_that_is_not_there_has_a_result_too(node: Node) -> None:
    node.write(argv=("/opt/none/engine", f"{MARK}/{TPS}"))
    assert node.run() == 127
    assert node.result()["exit_code"] == 127
    assert "/opt/none/engine" in node.file("engine.log").read_text()


def test_an_engine_that_was_killed_is_told_by_its_code(node: Node) -> None:
    node.write("kill -9 $$")
    assert node.run() == 137
    assert node.result()["exit_code"] == 137


def test_a_second_job_of_the_same_folder_leaves_at_once(node: Node) -> None:
    node.write("echo ran >>../../../ran")
    assert node.run("100") == 0
    assert node.run("101") == 98
    assert "100" in node.said
    assert (node.path / "ran").read_text() == "ran\n"
    assert not node.file("", "101-0").exists()
    assert (node.path / "owner").read_text() == "100\n"


def test_a_mark_that_cannot_be_read_belongs_to_nobody(node: Node) -> None:
    (node.path / "owner").touch()
    node.write("true")
    assert node.run() == 98
    assert not (node.path / "starts").exists()


def test_a_start_that_was_made_before_is_not_made_again(node: Node) -> None:
    node.write("echo ran >>../../../ran; exit 3")
    node.file("").mkdir(parents=True)
    (node.path / "owner").write_text("100\n")
    assert node.run() == 96
    assert not (node.path / "ran").exists()


@pytest.mark.parametrize("code", [0, 3])
def test_a_start_that_has_ended_before_says_how(node: Node, code: int) -> None:
    node.write(f"echo ran >>../../../ran; exit {code}")
    assert [node.run(), node.run()] == [code, code]
    assert (node.path / "ran").read_text() == "ran\n"


def test_a_requeued_job_has_a_folder_of_its_own_for_each_start(node: Node) -> None:
    node.write('printf "$SLURM_RESTART_COUNT" >Dose/box.raw')
    assert [node.run(restart="0"), node.run(restart="1")] == [0, 0]
    assert node.file("outputs/1", "100-0").read_text() == "0"
    assert node.file("outputs/1", "100-1").read_text() == "1"
    assert node.result("100-1")["start"] == 1


def test_a_job_whose_folder_is_missing_runs_nowhere(node: Node, tmp_path: Path) -> None:
    node.write(f"touch {tmp_path}/ran")
    script = tmp_path / "spooled.sh"
    script.write_bytes((node.path / "job.sh").read_bytes())
    node.path.rename(tmp_path / "moved")
    done = subprocess.run(["bash", script], cwd=tmp_path, env={"SLURM_JOB_ID": "100"}, check=False)
    assert done.returncode == 97
    assert not (tmp_path / "ran").exists()


def test_an_interrupt_reaches_the_engine_and_is_noted(node: Node) -> None:
    node.write(
        'trap "echo told; printf half >Dose/box.raw; exit 7" TERM; : >ready; while :; do sleep 0.02; done'
    )
    started = node.start()
    wait_for(node.file("work/ready").exists, "the engine runs")
    started.send_signal(signal.SIGTERM)
    started.communicate(timeout=30)
    assert started.returncode == 7
    result = node.result()
    assert (result["exit_code"], result["signal"], result["outputs"][0]["size"]) == (7, "TERM", 4)
    assert node.file("engine.log").read_text() == "told\n"


def test_an_engine_that_does_not_listen_goes_on_until_it_ends(node: Node) -> None:
    node.write('trap ": >told" TERM; : >ready; while [ ! -e stop ]; do sleep 0.02; done; exit 0')
    started = node.start()
    wait_for(node.file("work/ready").exists, "the engine runs")
    started.send_signal(signal.SIGTERM)
    wait_for(node.file("work/told").exists, "the engine is told")
    assert started.poll() is None
    node.file("work/stop").touch()
    started.communicate(timeout=30)
    assert (node.result()["exit_code"], node.result()["signal"]) == (0, "TERM")


def test_what_the_site_sets_up_reaches_the_engine(node: Node, tmp_path: Path) -> None:
    setup = tmp_path / "site" / "setup.sh"
    setup.parent.mkdir()
    setup.write_text("FROM_SITE=$UNSET_VARIABLE\nexport FROM_SITE=sourced\n")
    node.write('echo "$FROM_SITE $LICENSE"', source=[str(setup)], environment={"LICENSE": "5000@host"})
    assert node.run() == 0
    assert node.file("engine.log").read_text() == "sourced 5000@host\n"


@pytest.mark.parametrize("slurm", [{"source": ["/opt/none/setup.sh"]}, {"modules": ["none/1.0"]}])
def test_a_setup_that_fails_starts_no_engine(node: Node, slurm: dict[str, object]) -> None:
    node.write("echo ran", **slurm)
    assert node.run() == 95
    assert node.result()["exit_code"] == 95
    assert "ran" not in node.file("engine.log").read_text().splitlines()


PROFILE = """
echo "$SOME_UNSET_VARIABLE"
umask 000
module() { echo "loads $2"; export LOADED=$2; }
false
"""


@pytest.mark.parametrize(
    ("profile", "code"),
    [(PROFILE, 0), ("false\n", 95), (None, 95)],
    ids=["by the profile", "by nothing", "without a profile"],
)
def test_modules_are_loaded_by_what_a_login_shell_would_have(
    node: Node, tmp_path: Path, profile: str | None, code: int
) -> None:
    login = tmp_path / "profile"
    if profile is not None:
        login.write_text(profile)
    node.write('echo "with $LOADED"; umask', modules=["cuda/12.2"])
    script = node.path / "job.sh"
    script.write_text(script.read_text().replace("/etc/profile", str(login)))
    assert node.run() == code
    lines = node.file("engine.log").read_text().splitlines()
    if code == 0:
        assert lines == ["", "loads cuda/12.2", "with cuda/12.2", "0077"]
    else:
        assert lines[-1] == "the modules or scripts of the settings could not be loaded"
        assert "command not found" in lines[0]


def test_a_module_command_that_is_there_is_taken_as_it_is(node: Node, tmp_path: Path) -> None:
    login = tmp_path / "profile"
    login.write_text("echo never read\n")
    node.write("echo with", modules=["cuda/12.2"])
    script = node.path / "job.sh"
    script.write_text(script.read_text().replace("/etc/profile", str(login)))
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "module").write_text('#!/bin/sh\necho "$@"\n')
    (programs / "module").chmod(0o755)
    assert node.run(PATH=f"{programs}:/usr/bin:/bin") == 0
    assert node.file("engine.log").read_text().splitlines() == ["load cuda/12.2", "with"]


def test_a_scratch_folder_is_used_and_removed(node: Node, tmp_path: Path) -> None:
    scratch = tmp_path / "node" / "scratch"
    node.write(f"{WRITES}; pwd; [ ! -L Log_csv ]", scratch=str(scratch))
    assert node.run() == 0
    here = scratch / f"{KEY}.100-0"
    assert node.file("engine.log").read_text().splitlines() == [
        f"OutputDir {here}/Dose",
        f"ParentDir {here}/Log_csv",
        str(here),
    ]
    assert node.file("outputs/1").read_bytes() == b"dose"
    assert list(scratch.iterdir()) == []
    assert not node.file("work").exists()


def test_a_scratch_folder_that_cannot_be_made_is_the_clusters_fault(node: Node, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    node.write("true", scratch=f"{tmp_path}/file/scratch")
    assert node.run() == 97
    assert not node.file("result.json").exists()


def test_a_result_appears_whole_or_not_at_all(node: Node) -> None:
    node.write("ln -s /dev/full ../.result.part")
    node.run()
    assert not node.file("result.json").is_symlink()
    assert not node.file("result.json").exists()


def test_a_node_without_a_name_still_has_results(node: Node) -> None:
    node.write("true")
    environment = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "100"}
    done = subprocess.run(["bash", node.path / "job.sh"], env=environment, cwd="/", check=False)
    assert (done.returncode, node.result()["node"]) == (0, "")
