"""Names and values of people: carried to the cluster as they are, or refused, and nothing of them executed.

Identifiers of patients: not carried at all.
"""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mqi_dagster.errors import ConfigurationError, PrivacyError
from mqi_dagster.hpc.errors import PathRejectedError
from mqi_dagster.hpc.naming import JobFolder
from mqi_dagster.hpc.shell import run
from mqi_dagster.hpc.staging import stage
from mqi_dagster.settings import parse_settings
from tests.slurm.beams import MARKERS, PYTHON, Bench, assert_done_once
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SHOWING = """\
import json, os, runpy, sys
from pathlib import Path
shown, tps, *rest = sys.argv[1:]
Path(shown).write_text(json.dumps({"argv": rest, "env": dict(os.environ), "cwd": os.getcwd()}))
sys.argv = [sys.argv[0], tps]
runpy.run_path(str(Path(__file__).with_name("steady.py")), run_name="__main__")
"""
"""An engine that writes down what it was called with, and then works."""


@pytest.fixture
def canary(cluster: Any, shared: Path) -> Iterator[str]:
    """The name of a file that exists after the test only if something was executed that is none."""
    name = f"canary{uuid.uuid4().hex[:8]}"
    yield name
    home = Path(f"~{cluster.settings.user}").expanduser()
    roots = [shared, cluster.settings.root, Path("/tmp"), *([home] if home.is_dir() else [])]
    found = subprocess.run(
        ["find", *map(str, roots), "-name", name], capture_output=True, text=True, check=False
    )
    assert found.stdout == ""
    for root in ("/", "/root", "/var/tmp", "/home", str(Path.cwd())):
        assert not Path(root, name).exists()


def test_beam_names_of_any_plan_come_through(
    cluster: Any, bench: Callable[..., Bench], shared: Path, tmp_path: Path, canary: str
) -> None:
    names = [
        f'Feld 1 "links" $(touch {canary})',
        "빔 1",
        "빔" * 64,
        f"it's `touch {canary}`",
        f"a;touch {canary};b & c > {canary}",
        "* ? [a-z]* {a,b} ~ !! #SBATCH --nodes=2",
        "%j %x & ${mark} $here ${outputs[@]}",
        "Größe 2é\u2028x 1G180 ..",
    ]
    on = bench()
    scratch = shared / f"scratch-{uuid.uuid4().hex[:6]}"
    scratch.mkdir()
    subprocess.run(["chown", cluster.settings.user, str(scratch)], check=True)
    away = Bench(tmp_path / "away", cluster.connection(), shared, slurm={"scratch": str(scratch), "slots": 8})
    beams = [on.beam(name=name, counts=(4000 + 10 * place, 900)) for place, name in enumerate(names)]
    others = [away.beam(name=name, counts=(5000 + 10 * place, 900)) for place, name in enumerate(names[:2])]
    with on.driven(*beams), away.driven(*others):
        pass
    assert_done_once(cluster, on, *beams)
    assert_done_once(cluster, away, *others)
    for name, beam in zip(names, beams, strict=True):
        assert set(beam.fetched) == {f"Dose/{name}_{n}_Dose.{end}" for n in (1, 2) for end in ("mhd", "raw")}
        assert all(path == beam.job.directory / found for found, path in beam.fetched.items())
    assert list(scratch.iterdir()) == []


def test_beam_names_that_cannot_name_a_file_are_given_to_the_engine_as_ones_that_can(
    cluster: Any, bench: Callable[..., Bench], shared: Path
) -> None:
    seen_as = {
        "../../up": "_._.._up",
        "/tmp/x": "_tmp_x",
        "a/b": "a_b",
        "a\nb": "a_b",
        "-rf": "_rf",
        ".hidden": "_hidden",
    }
    on = bench(slurm={"slots": 8})
    beams = [on.beam(name=name) for name in seen_as]
    with on.driven(*beams):
        pass
    assert_done_once(cluster, on, *beams)
    for name, beam in zip(seen_as.values(), beams, strict=True):
        assert set(beam.fetched) == {f"Dose/{name}_{n}_Dose.{end}" for n in (1, 2) for end in ("mhd", "raw")}
    for up in (shared, Path(on.slurm.root), Path("/tmp")):
        assert not [path for path in up.iterdir() if path.name in ("up", "x")]


@pytest.mark.parametrize("name", [f"of {MARKERS[1]}", MARKERS[0].lower()])
def test_a_beam_name_that_names_the_patient_is_refused(bench: Callable[..., Bench], name: str) -> None:
    on = bench()
    with pytest.raises(PrivacyError, match="beam") as raised:
        on.beam(name=name)
    assert not [word for word in MARKERS if word in str(raised.value)]


def test_an_engine_is_called_with_what_the_site_wrote(
    cluster: Any, bench: Callable[..., Bench], shared: Path, canary: str
) -> None:
    harm = f"touch /tmp/{canary}"
    words = [
        f"; {harm}",
        f"$({harm})",
        f"`{harm}`",
        f"' ; {harm} ; '",
        f'" ; {harm} ; "',
        f"&& {harm} || {harm} | {harm} &",
        f"> /tmp/{canary}",
        "#SBATCH --gres=gpu:4",
        "-n",
        "--",
        "",
        "한글 인자",
        "*",
        "~",
        "$HOME ${argv[@]} \\ \\n !x {a,b} %s %j",
        "../..",
    ]
    values = {"MQI_A": "a=b,c%d@e:/x+y-z.w", "MQI_EMPTY": "", "MQI_PATH": "/a/../b"}
    engine = shared / "showing.py"
    engine.write_text(SHOWING)
    # What a site's module command and profile do.
    told = shared / f"modules-{uuid.uuid4().hex[:6]}"
    profile = shared / "pro+file@1.sh"
    profile.write_text(f'module() {{ printf "%s\\n" "$*" >>{told}; }}\nunset NOTHING_OF_THIS_NAME\n')
    modules = ["cuda/12.4", "gcc+mpi/13-2.x"]
    on = bench(
        slurm={
            "environment": values,
            "modules": modules,
            "source": [str(profile)],
            "engine_command": [PYTHON, "{tps}", *[word for word in words if word]],
        }
    )
    assert on.slurm.engine_command is not None and on.slurm.engine_command[2:] == tuple(filter(None, words))
    beam = on.beam()
    shown = shared / f"shown-{uuid.uuid4().hex[:6]}"
    python, _, tps, *_ = beam.job.argv
    beam.job = replace(beam.job, argv=(python, str(engine), str(shown), tps, *words))
    with on.driven(beam):
        pass
    assert_done_once(cluster, on, beam)
    seen = json.loads(shown.read_text())
    assert seen["argv"] == words
    assert {name: seen["env"][name] for name in values} == values
    assert told.read_text().splitlines() == [f"load {name}" for name in modules]
    assert beam.handle is not None
    told_slurm = cluster.slurm("sacct", "-n", "-P", "-X", "-j", beam.handle.job_id, "-o", "AllocTRES,NNodes")
    assert "gres/gpu=1," in f"{told_slurm.stdout.replace('|', ',')}" and told_slurm.stdout.strip()[-1] == "1"
    assert len(seen["env"]["CUDA_VISIBLE_DEVICES"].split(",")) == 1
    # The same words as a command on the login node.
    asked = run(on.executor.connection, ["printf", "%s\\0", "a\nb", *words])
    assert asked.out.decode().split("\0")[:-1] == ["a\nb", *words]
    assert on.executor.answer([PYTHON, "-c", "import sys; print(sys.argv[1:])", *words]) == str(words)

    # A line break would be a line of the script: before anything reaches the cluster it is refused.
    for word in (f"x\n#SBATCH --nodes=2\n{harm}", "a\rb", "a\0b"):
        bad = on.beam()
        bad.job = replace(bad.job, argv=(*bad.job.argv, word))
        with pytest.raises(ConfigurationError, match="control character"), on.driven(bad):
            pass
        assert not on.folder_of(bad).exists()


def test_keys_and_places_that_are_no_plain_names_are_refused(
    cluster: Any, bench: Callable[..., Bench], canary: str
) -> None:
    on = bench()
    good = on.beam()
    harm = f"touch /tmp/{canary}"
    bad = [
        "../../../tmp",
        f"a;{harm}",
        f"$({harm})",
        f"`{harm}`",
        "a b",
        'a"b',
        "a'b",
        "a\nb",
        "-rf",
        "빔",
        "",
    ]
    before = {path.name for path in Path(on.slurm.root).iterdir()} if Path(on.slurm.root).is_dir() else set()
    for text in bad:
        for changes, word in (
            ({"key": f"{text}-1" if text not in ("", "-rf") else text}, "key"),
            ({"parents": (text, "b02")}, "a folder above a job's"),
            ({"parents": ("case", text)}, "a folder above a job's"),
            ({"name": text}, "beam"),
        ):
            with pytest.raises(PathRejectedError, match=word):
                on.executor.submit(replace(good.job, **changes))
    now = {path.name for path in Path(on.slurm.root).iterdir()} if Path(on.slurm.root).is_dir() else set()
    assert now == before
    assert on.ledger.jobs.all("hpc") == []
    with on.driven(good):
        pass
    assert_done_once(cluster, on, good)


@pytest.mark.parametrize("big", [1 << 20, 1], ids=["as a tar stream", "one by one"])
def test_files_of_any_name_are_staged_as_they_are(
    cluster: Any, bench: Callable[..., Bench], tmp_path: Path, canary: str, big: int
) -> None:
    on = bench()
    harm = f"touch {canary}"
    names = [
        f"Log_csv/log/Feld $({harm}) \"x\"/01 'a'.csv",
        f"Log_csv/log/`{harm}`;{harm}/-rf",
        "빔 1/층 2.csv",
        "back\\slash/new\nline/\ttab\\n.csv",
        "-rf/--checkpoint-action=exec=sh",
        "é" * 100,
        " blank /end ",
        "\u2028/~/$HOME/*",
    ]
    files: dict[str, Path | bytes] = {}
    for place, name in enumerate(names):
        source = tmp_path / f"source{place}"
        source.write_text(f"content {place}\n")
        files[f"input/{name}"] = source
    folder = JobFolder(on.slurm.root, (f"P{uuid.uuid4().hex[:8]}.fx0001", "b02"), "0123-1")
    assert stage(on.executor.connection, folder, files, big_bytes=big)
    assert not stage(on.executor.connection, folder, files, big_bytes=big)
    inputs = Path(folder.path) / "input"
    assert {path.relative_to(inputs).as_posix() for path in inputs.rglob("*") if path.is_file()} == set(names)
    for place, name in enumerate(names):
        assert (inputs / name).read_text() == f"content {place}\n"
    for name in ("../../up", "input/../../up", "/tmp/up", "input//up", "./up", "..", "a\0b"):
        with pytest.raises(PathRejectedError, match="outside"):
            stage(on.executor.connection, folder, {name: b"x"}, big_bytes=big)
    assert not list(Path(on.slurm.root).rglob("up"))


def test_settings_that_a_shell_could_mistake_are_refused_by_their_key(canary: str) -> None:
    harm = f"touch /tmp/{canary}"
    host = {"host": "h", "user": "u", "key_file": "k", "known_hosts": "n", "slurm": {"root": "/srv/jobs"}}
    words = [f"a;{harm}", f"$({harm})", f"`{harm}`", "a b", 'a"b', "a'b", "a\nb", "gpu\n", "빔", "../x", "-x"]

    def slurm(key: str, value: Any) -> dict[str, Any]:
        return {**host, "slurm": {"root": "/srv/jobs", key: value}}

    def refused(made: dict[str, Any], key: str) -> None:
        with pytest.raises(ConfigurationError) as raised:
            parse_settings({"site": {"timezone": "UTC"}, "hosts": {"hpc": made}}, Path("/srv"))
        assert f"hosts.hpc.{key}" in raised.value.message, made

    for word in (*words, ""):
        refused({**host, "host": word}, "host")
        refused({**host, "user": word}, "user")
        refused({**host, "jump": {**host, "host": word}}, "jump.host")
        refused({**host, "jump": {**host, "user": word}}, "jump.user")
        for key in ("root", "scratch", "partition", "account", "qos", "gres", "gpus"):
            refused(slurm(key, word), f"slurm.{key}")
        for key in ("modules", "source"):
            refused(slurm(key, [word]), f"slurm.{key}.0")
        refused(slurm("environment", {word: "x"}), "slurm.environment")
    for word in words[:9]:
        refused(slurm("environment", {"NAME": word}), "slurm.environment.NAME")
    for word in ("a\nb", "x\r", "\0", "\x7f"):
        for key in ("engine_command", "engine_version_command"):
            refused(slurm(key, ["engine", "{tps}", word]), f"slurm.{key}.2")


def test_nothing_that_names_a_patient_reaches_the_cluster(
    cluster: Any, bench: Callable[..., Bench], shared: Path, tmp_path: Path
) -> None:
    # The folders on this side carry the patient's name, as those of a clinic do.
    on = Bench(tmp_path / f"{MARKERS[1]}_{MARKERS[0]}_{MARKERS[2]}", cluster.connection(), shared)
    beam, failing = on.beam(seconds=2), on.beam(3)
    source = next((tmp_path / f"{MARKERS[1]}_{MARKERS[0]}_{MARKERS[2]}").rglob("source/RP.dcm"))
    assert all(marker.encode() in source.read_bytes() for marker in MARKERS)
    told: list[str] = []
    with on.driven(beam):
        job = wait_for(lambda: beam.handle, "submitted").job_id
        wait_for(lambda: on.traced(), "the engine runs")
        told += [cluster.slurm("scontrol", "-dd", "show", "job", job).stdout]
        told += [cluster.slurm("squeue", "-a", "-o", "%all").stdout]
        told += [_processes_of(cluster.settings.user)]
    on.steer(exit_code=3)
    with on.driven(failing):
        pass
    assert failing.status is not None and failing.status.state == "failed"
    assert_done_once(cluster, on, beam)
    told += [cluster.slurm("sacct", "-a", "-P", "-S", "now-1days", "-o", "ALL").stdout]
    told += [cluster.slurm("sacct", "-B", "-j", job).stdout]
    assert f"moqui_{beam.job.name}" in told[0] and beam.job.key in told[1] and "steady.py" in told[2]
    assert beam.job.name in told[3] and "outputs=(" in told[4]

    names, searched = [], 0
    wanted = _spellings(MARKERS)
    for root in (shared, cluster.settings.root):
        for path in root.rglob("*"):
            names.append(str(path))
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes().lower()
                searched += 1
                assert not [word for word in wanted if word in content], path.relative_to(root)
    for text in (*told, *names):
        assert not [word for word in wanted if word in text.lower().encode("utf-8", "surrogateescape")]
    folder = on.folder_of(beam)
    assert searched > 60 and {"RP.dcm", "job.sh", f"slurm-{job}.out", "engine.log"} <= {
        path.name for path in folder.rglob("*")
    }
    logs = {path.name for path in (cluster.settings.root / "log").iterdir()}
    assert {"sshd.log", "slurmctld.log", "slurmd.gpu1.log"} <= logs


def _spellings(words: tuple[str, ...]) -> list[bytes]:
    texts = [word.lower() for word in words]
    return [text.encode(coding) for text in texts for coding in ("utf-8", "utf-16-le", "utf-16-be")]


def _processes_of(user: str) -> str:
    """Commands and environments of everything that runs for an account."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if entry.owner() == user:
                found += [(entry / name).read_bytes() for name in ("cmdline", "environ")]
        except (OSError, KeyError):
            continue
    return b"\n".join(found).decode(errors="replace").replace("\0", "\n")
