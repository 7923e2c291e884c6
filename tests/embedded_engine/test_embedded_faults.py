"""What the engine does when MCsquare, its input or its own process fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mqi_dagster.embedded_engine import command
from mqi_dagster.embedded_engine.install import Installation
from mqi_dagster.machine import Machine
from tests.embedded_engine.embedded_job import Beam, Ct, write_job
from tests.waiting import wait_for

VOXELS = 60 * 60 * 200
SAYS_GOOD = 'echo "Nbr primaries simulated: $n"'
WRITES_ONES = f"head -c {4 * VOXELS} /dev/zero | tr '\\0' '\\1' > $out/Dose.raw"

# 0x7fc00000 in place of the first voxel.
NAN_FIRST = "printf '\\0\\0\\300\\177' | dd of=$out/Dose.raw conv=notrunc status=none"


def false_engine(folder: Path, script: str) -> Installation:
    """An MCsquare that reads its histories and output folder from the config and then does as told."""
    (folder / "Materials").mkdir(parents=True)
    read = 'n=$(sed -n "s/^Num_Primaries //p" $1); out=$(sed -n "s/^Output_Directory //p" $1)\n'
    program = folder / "MCsquare_linux"
    program.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{read}{script}\n")
    program.chmod(0o755)
    return Installation(folder, "1.1")


def exit_of(
    tps: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Exit code and standard error of `mqi-engine <tps>`; signal handlers are put back."""
    kept = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    monkeypatch.setattr(sys, "argv", ["mqi-engine", str(tps)])
    try:
        command.main()
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code, capsys.readouterr().err
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    return 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "code", "says"),
    [
        ("exit 1", 3, " of the simulation ended with exit code 1"),
        ("kill -TERM $$", 3, "ended with exit code -15"),
        (f"{WRITES_ONES}", 3, "does not say how many protons it simulated"),
        (f'{WRITES_ONES}; echo "Nbr primaries simulated: 48"', 3, "simulated 48 histories instead of 800"),
        (
            f'{WRITES_ONES}; echo "Nbr primaries simulated: $n (9 generated outside the geometry)"',
            3,
            "1.1 % of the protons were generated outside",
        ),
        (f'{WRITES_ONES}; echo " 50.0 % (stat uncertainty: -nan %)"; {SAYS_GOOD}', 3, "not a number"),
        (f'{WRITES_ONES}; echo " Error: bad value in plan.txt"; {SAYS_GOOD}', 3, "bad value in plan.txt"),
        (f"{SAYS_GOOD}", 4, "a part's dose cannot be read: No such file or directory"),
        (f"{WRITES_ONES}; truncate -s -4 $out/Dose.raw; {SAYS_GOOD}", 4, "another size"),
        (f"truncate -s {4 * VOXELS} $out/Dose.raw; {SAYS_GOOD}", 4, "zero everywhere"),
        (f"{WRITES_ONES}; {NAN_FIRST}; {SAYS_GOOD}", 4, "negative or not finite"),
    ],
)  # fmt: skip
def test_a_failing_mcsquare_is_an_error_without_output(
    script: str,
    code: int,
    says: str,
    generic: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = false_engine(tmp_path / "engine", script)
    monkeypatch.setattr(command, "installed_engine", lambda cache: engine)
    tps = write_job(tmp_path / "job", Beam({110.0: [(0.0, 0.0, 10)]}), generic, histories=1600)
    found, error = exit_of(tps, monkeypatch, capsys)
    assert (found, says in error) == (code, True), error
    assert error.count("\n") == 1
    assert str(tmp_path) not in error
    assert sorted(p.name for p in (tmp_path / "job").iterdir()) == ["Log_csv", "moqui_tps.in"]


def test_parts_that_say_nothing_wrong_become_a_dose(
    generic: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The counterpart of the faults above: the false engine itself is not what fails."""
    engine = false_engine(tmp_path / "engine", f"{WRITES_ONES}; {SAYS_GOOD}")
    monkeypatch.setattr(command, "installed_engine", lambda cache: engine)
    tps = write_job(tmp_path / "job", Beam({110.0: [(0.0, 0.0, 10)]}), generic, histories=1600)
    assert exit_of(tps, monkeypatch, capsys) == (0, "")
    dose = np.fromfile(tmp_path / "job" / "Dose" / "1G000_1_Dose.raw", "<f8")
    ones = np.frombuffer(b"\1\1\1\1", "<f4")[0]
    # 10 counts of 1e-5 MU with 2.86e6 protons per MU, from eV/g to Gy.
    assert dose[0] == pytest.approx(float(ones) * 1.602176634e-16 * 10 * 1e-5 * 2.86e6, rel=1e-9)


@pytest.mark.parametrize(
    ("beam", "says"),
    [
        (Beam({251.0: [(0.0, 0.0, 10)]}), "energy 251 MeV lies outside mean_energy_mev"),
        (Beam({110.0: [(0.0, 0.0, 10)]}, tps={"EmbeddedShards": 1}), "EmbeddedShards must be at least 2"),
        (Beam({110.0: [(0.0, 0.0, 10)]}, tps={"BeamModelFile": None}), "BeamModelFile is missing"),
        (Beam({110.0: [(0.0, 0.0, 10)]}, tps={"BeamNumbers": 2}), "the plan has no beam 2"),
        (Beam({110.0: [(0.0, 0.0, 10)]}, tps={"Scorer": "LETd"}), "Scorer must be Dose"),
        (Beam({110.0: [(0.0, 0.0, 10)]}, tps={"NoSuchKey": 1}), "NoSuchKey"),
        (Beam({110.0: [(0.0, 0.0, 10)]}, tps={"PhantomPositionZ": -400}), "below the water surface"),
        (Beam({110.0: [(0.0, 0.0, 10)]}, tps={"PhantomPositionZ": -378}), "no voxel of the phantom"),
        (Beam({110.0: [(0.0, 0.0, 10)]}, tps={"ParticlesPerHistory": 1e-9}), "histories cannot be"),
        (Beam({110.0: [(0.0, 0.0, 10)]}, name="a/b"), "the name of the beam cannot be a file name"),
        (Beam({110.0: [(0.0, 0.0, 10)]}, shifter="RS_3CM", shifter_distance=-5), "5 mm behind the isocentre"),
        (
            Beam({110.0: [(0.0, 0.0, 10)]}, shifter="RS_3CM", shifter_thickness=40),
            "of 40 mm of water in the plan",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_refused_before_anything_starts(
    beam: Beam,
    says: str,
    generic: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = false_engine(tmp_path / "engine", "touch started")
    monkeypatch.setattr(command, "installed_engine", lambda cache: engine)
    wide = generic.beam_model.protons_per_mu
    write_with = (
        generic
        if 251.0 not in beam.layers
        else generic.model_copy(
            update={
                "beam_model": generic.beam_model.model_copy(
                    update={
                        "protons_per_mu": wide.model_copy(
                            update={"energy_mev": (60, 300), "value": (2e6, 5e6)}
                        )
                    }
                )
            }
        )
    )
    tps = write_job(tmp_path / "job", beam, write_with, histories=1600)
    code, error = exit_of(tps, monkeypatch, capsys)
    assert (code, says in error) == (2, True), error
    assert str(tmp_path) not in error
    assert sorted(p.name for p in (tmp_path / "job").iterdir()) == ["Log_csv", "moqui_tps.in"]


def test_a_missing_tps_file_and_a_missing_engine_are_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "installed_engine", lambda cache: Installation(tmp_path, "1.1"))
    assert exit_of(tmp_path / "none.in", monkeypatch, capsys) == (
        2, "mqi-engine: TPS file: cannot be read\n",
    )  # fmt: skip
    monkeypatch.undo()
    monkeypatch.setenv("MQI_ENGINE_CACHE", str(tmp_path / "empty"))
    code, error = exit_of(tmp_path / "none.in", monkeypatch, capsys)
    assert (code, "run `mqi engine install`" in error) == (2, True)


def test_the_version_names_both_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mqi-engine", "--version"])
    command.main()
    assert capsys.readouterr().out == "mqi-engine 1.0 (MCsquare 1.1)\n"


def test_results_are_not_overwritten_unless_asked(
    generic: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = false_engine(tmp_path / "engine", f"{WRITES_ONES}; {SAYS_GOOD}")
    monkeypatch.setattr(command, "installed_engine", lambda cache: engine)
    beam = Beam({110.0: [(0.0, 0.0, 10)]}, tps={"OverwriteResults": "false"})
    tps = write_job(tmp_path / "job", beam, generic, histories=1600)
    assert exit_of(tps, monkeypatch, capsys)[0] == 0
    code, error = exit_of(tps, monkeypatch, capsys)
    assert (code, "results are there already" in error) == (2, True)


def test_a_patient_who_does_not_lie_head_first_supine_is_refused(
    generic: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = false_engine(tmp_path / "engine", "exit 0")
    monkeypatch.setattr(command, "installed_engine", lambda cache: engine)
    ct = Ct(np.zeros((4, 8, 8), np.int16), (0.0, 0.0, 0.0), (2.0, 2.0, 2.0), position="FFP")
    tps = write_job(tmp_path / "job", Beam({110.0: [(0.0, 0.0, 10)]}), generic, ct, histories=1600)
    code, error = exit_of(tps, monkeypatch, capsys)
    assert (code, "head first supine" in error) == (2, True)


def test_a_rolled_table_is_refused_in_a_patient_and_means_nothing_in_water(
    generic: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = false_engine(tmp_path / "engine", f"{WRITES_ONES}; {SAYS_GOOD}")
    monkeypatch.setattr(command, "installed_engine", lambda cache: engine)
    ct = Ct(np.zeros((4, 8, 8), np.int16), (0.0, 0.0, 0.0), (2.0, 2.0, 2.0))
    beam = Beam({110.0: [(0.0, 0.0, 10)]}, roll=359.0)
    tps = write_job(tmp_path / "patient", beam, generic, ct, histories=1600)
    code, error = exit_of(tps, monkeypatch, capsys)
    assert (code, "pitched or rolled by 1 degrees" in error) == (2, True)
    assert exit_of(write_job(tmp_path / "water", beam, generic, histories=1600), monkeypatch, capsys)[0] == 0


def children_of(pid: int) -> list[int]:
    """Processes whose parent is ``pid`` and that have become MCsquare."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                program = (entry / "exe").readlink().name
            except OSError:
                continue
            if parent == pid and program == "MCsquare_linux":
                found.append(int(entry.name))
    return found


def started(tps: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    """An `mqi-engine` whose two MCsquares run."""
    engine = subprocess.Popen(
        [sys.executable, "-m", "mqi_dagster.embedded_engine.command", str(tps)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "MQI_ENGINE_THREADS": "2"},
        cwd=Path(__file__).resolve().parents[3],
    )
    try:
        wait_for(lambda: engine.poll() is not None or len(children_of(engine.pid)) == 2, "the parts start")
        parts = children_of(engine.pid)
        assert len(parts) == 2, "the engine has ended"
    except AssertionError:
        engine.kill()
        raise
    return engine, parts


def alive(pids: list[int]) -> list[int]:
    """Those of the processes that still run (zombies do not)."""
    states = {}
    for pid in pids:
        try:
            states[pid] = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
    return [pid for pid, state in states.items() if state != "Z"]


def test_killing_the_engine_kills_every_mcsquare_and_the_next_run_clears_up(
    mcsquare: Installation, generic: Machine, tmp_path: Path
) -> None:
    tps = write_job(tmp_path, Beam({230.0: [(0.0, 0.0, 10)]}), generic, histories=5_000_000)
    engine, parts = started(tps)
    engine.kill()
    engine.communicate()
    wait_for(lambda: not alive(parts), "the parts die")
    assert len(list(tmp_path.glob(".mcsquare-*"))) == 1
    engine, parts = started(tps)
    assert len(list(tmp_path.glob(".mcsquare-*"))) == 1
    engine.terminate()
    _, error = engine.communicate(timeout=10)
    assert engine.returncode == 143
    assert error == b"mqi-engine: ended by signal 15\n"
    assert alive(parts) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["Log_csv", "moqui_tps.in"]
