"""Programs as models: small Python scripts that do it right, do it wrong, hang, or ask for the network."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses

from mqi_dagster.errors import ConfigurationError, Retry
from mqi_dagster.execution.processes import stat_of
from mqi_dagster.imaging.models import command_model, isolation
from mqi_dagster.imaging.models.card import Model, read_model
from mqi_dagster.imaging.models.model_errors import ModelCardError, ModelError
from mqi_dagster.imaging.models.running import RunOptions
from mqi_dagster.imaging.models.segment import SegmentationRecord, segment
from tests.imaging.models.model_folders import (
    block,
    card,
    command_card,
    image,
    labels_in,
    write_card,
    write_inputs,
)

SIZE = (6, 7, 8)
COPY_ANSWER = "shutil.copy(here / 'answer.nii.gz', output)\n"
PYTHON = (sys.executable, "-I", "-S", "{model}/script.py")


def make_model(folder: Path, script: str, *words: str, **section: Any) -> Model:
    """A model whose program is this script; it knows ``here``, ``given``, ``output`` and ``words``."""
    argv = [*PYTHON, "{input:CT}", "{output}", *words]
    write_card(folder, card("command", {"argv": argv, **section}))
    lines = (
        "import json, os, pathlib, shutil, socket, subprocess, sys, time\n"
        "given, output, words = sys.argv[1], sys.argv[2], sys.argv[3:]\n"
        "here = pathlib.Path(__file__).parent\n"
    )
    (folder / "script.py").write_text(lines + script)
    answer = block(SIZE, (1, 2, 3), (4, 5, 6)) // 100
    sitk.WriteImage(image(answer.astype(np.uint8)), folder / "answer.nii.gz")
    return read_model(folder)


def run(model: Model, tmp_path: Path, **options: Any) -> SegmentationRecord:
    """Segment a block."""
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    ct = image(block(SIZE, (1, 2, 3), (4, 5, 6)))
    return segment(model, write_inputs(tmp_path / "in", CT=ct), out, RunOptions(**options))


def test_program_is_given_files_and_leaves_a_label_map(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", COPY_ANSWER)

    record = run(model, tmp_path)

    assert int(labels_in(tmp_path / "out").sum()) == 27
    assert (record.device_asked, record.device_used, record.regions[0].voxels) == ("cpu", "cpu", 27)
    assert json.loads((tmp_path / "out" / "segmentation.json").read_text())["model"] == "made"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "segmentation.json",
        "segmentation.nii.gz",
    ]


def test_memory_of_a_program_and_of_what_it_starts_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = tmp_path / "model" / "grown"
    look_at = command_model._look_at

    def looked_at(pids: list[int], seen: command_model._Seen) -> None:
        look_at(pids, seen)
        if seen.peak_bytes > 100_000_000:
            grown.touch()

    monkeypatch.setattr(command_model, "_look_at", looked_at)
    hold = (
        "import pathlib, threading\nheld = b'x' * 60_000_000\n"
        f"while not pathlib.Path({str(grown)!r}).exists():\n    threading.Event().wait(0.01)\n"
    )
    script = f"child = subprocess.Popen([sys.executable, '-c', {hold!r}])\n{hold}"
    record = run(make_model(tmp_path / "model", script + "child.wait()\n" + COPY_ANSWER), tmp_path)

    assert 100_000_000 < record.peak_memory_bytes < 300_000_000


def test_placeholders_are_words_that_no_shell_reads(tmp_path: Path) -> None:
    folder = tmp_path / "a b; touch pwned $(touch pwned)"
    script = COPY_ANSWER + "(here / 'words.json').write_text(json.dumps(words))\n"
    words = ("--on={device}", "{threads}", "a; b", "$HOME", "{inputs}/x")
    model = make_model(folder, script, *words, device_words={"gpu": "cuda:0", "cpu": "host"})

    run(model, tmp_path, threads=3)

    seen = json.loads((folder / "words.json").read_text())
    assert seen[:4] == ["--on=host", "3", "a; b", "$HOME"]
    assert seen[4].endswith("/inputs/x")
    assert not list(tmp_path.rglob("pwned"))


def test_device_that_the_card_has_no_word_for_is_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", COPY_ANSWER, device_words={"cpu": "cpu"})
    with pytest.raises(ModelCardError, match="model made: it cannot use the device gpu"):
        run(model, tmp_path, device="gpu")


def test_gpu_that_the_program_never_opened_is_not_told_as_used(tmp_path: Path) -> None:
    record = run(make_model(tmp_path / "model", COPY_ANSWER), tmp_path, device="gpu")
    assert (record.device_asked, record.device_used) == ("gpu", "cpu")
    assert record.remarks == ("gpu was asked for, and the program has opened no such device",)


def test_environment_is_scrubbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTPS_PROXY", "DATABASE_PASSWORD", "PYTHONPATH"):
        monkeypatch.setenv(name, "secret")
    script = COPY_ANSWER + "(here / 'seen.json').write_text(json.dumps(dict(os.environ)))\n"
    model = make_model(tmp_path / "model", script, environment={"WEIGHTS": "/opt/weights"})

    run(model, tmp_path, threads=2, device="gpu", gpu="GPU-1234")

    seen = json.loads((tmp_path / "model" / "seen.json").read_text())
    assert "secret" not in seen.values()
    assert {seen[f"{name}_NUM_THREADS"] for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA")} == {"2"}
    assert (seen["WEIGHTS"], seen["CUDA_VISIBLE_DEVICES"], seen["DO_NOT_TRACK"]) == (
        "/opt/weights",
        "GPU-1234",
        "1",
    )
    assert seen["HOME"] != os.environ["HOME"]
    assert not Path(seen["HOME"]).exists()


def test_program_on_the_processor_sees_no_gpu(tmp_path: Path) -> None:
    script = COPY_ANSWER + "(here / 'seen').write_text(os.environ['CUDA_VISIBLE_DEVICES'])\n"
    run(make_model(tmp_path / "model", script), tmp_path, device="cpu", gpu="GPU-1234")
    assert (tmp_path / "model" / "seen").read_text() == ""


def test_program_cannot_change_the_images_it_was_given(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "open(given, 'w').close()\n" + COPY_ANSWER)
    with pytest.raises(ModelError):
        # The copy is what its result would be compared with.
        run(make_model(tmp_path / "other", "open(given, 'w').close()\n"), tmp_path)
    before = (tmp_path / "in" / "CT.nii.gz").read_bytes()
    run(model, tmp_path)
    assert (tmp_path / "in" / "CT.nii.gz").read_bytes() == before


@pytest.mark.slow
def test_program_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    script = (
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "(here / 'pids').write_text(f'{os.getpid()} {child.pid}')\n"
        "print('started', flush=True)\n"
        "time.sleep(600)\n"
    )
    model = make_model(tmp_path / "model", script, time_limit_s=1.5)

    with pytest.raises(ModelError, match=r"model made: it ran longer than 1\.5 s and was ended") as caught:
        run(model, tmp_path)

    assert caught.value.log == "started\n"
    assert caught.value.exit_code is None
    for pid in (tmp_path / "model" / "pids").read_text().split():
        stat = stat_of(int(pid))
        assert stat is None or not stat.lives
    assert not list((tmp_path / "out").iterdir())


def test_child_that_a_program_leaves_behind_is_ended(tmp_path: Path) -> None:
    script = COPY_ANSWER + (
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "(here / 'pid').write_text(str(child.pid))\n"
    )
    run(make_model(tmp_path / "model", script), tmp_path)
    stat = stat_of(int((tmp_path / "model" / "pid").read_text()))
    assert stat is None or not stat.lives


@pytest.mark.parametrize(
    ("script", "words", "code"),
    [
        ("print('CUDA out of memory'); sys.exit(12)\n", "its program ended with exit code 12", 12),
        ("print('CUDA out of memory', flush=True); os.kill(os.getpid(), 9)\n", "was ended by signal 9", -9),
    ],
)
def test_program_that_fails_tells_how_and_its_last_words(
    tmp_path: Path, script: str, words: str, code: int
) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        run(make_model(tmp_path / "model", COPY_ANSWER + script), tmp_path)
    assert (caught.value.exit_code, caught.value.retry) == (code, Retry.FROM_BUDGET)
    assert caught.value.log == "CUDA out of memory\n"
    assert "CUDA" not in str(caught.value)


def test_good_exit_code_without_a_result_proves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model made: it has left no label map"):
        run(make_model(tmp_path / "model", "sys.exit(0)\n"), tmp_path)


def test_result_on_another_grid_is_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", COPY_ANSWER)
    answer = sitk.ReadImage(tmp_path / "model" / "answer.nii.gz")
    answer.SetOrigin((0, 0, 1))
    sitk.WriteImage(answer, tmp_path / "model" / "answer.nii.gz")
    with pytest.raises(ModelError, match="its label map cannot be used: it lies 1 mm beside the image"):
        run(model, tmp_path)


def test_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    model = read_model(
        write_card(tmp_path / "model", command_card("no-such-program", "{input:CT}", "{output}"))
    )
    with pytest.raises(
        ConfigurationError, match="model made: the program 'no-such-program' is not on this machine"
    ):
        run(model, tmp_path)


def test_program_has_no_network(tmp_path: Path) -> None:
    script = COPY_ANSWER + (
        "port = int((here / 'port').read_text())\n"
        "try:\n"
        "    socket.create_connection(('127.0.0.1', port), 5).close()\n"
        "    (here / 'seen').write_text('reached')\n"
        "except OSError:\n"
        "    (here / 'seen').write_text('refused')\n"
    )
    model = make_model(tmp_path / "model", script)
    with socket.create_server(("127.0.0.1", 0)) as server:
        (tmp_path / "model" / "port").write_text(str(server.getsockname()[1]))
        record = run(model, tmp_path)
    if record.network.startswith("not taken away"):
        pytest.skip("this machine permits no network namespace")
    assert record.network == "none: a network namespace without interfaces"
    assert (tmp_path / "model" / "seen").read_text() == "refused"


def test_machine_that_permits_no_namespace_is_told_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "_COMMANDS", (("/bin/false",), ("no-such-unshare",)))
    isolation.isolation.cache_clear()
    try:
        model = make_model(tmp_path / "model", COPY_ANSWER)
        assert run(model, tmp_path).network.startswith(
            "not taken away: this machine permits no network namespace"
        )
        with pytest.raises(ModelCardError, match="it has to be kept from the network, and is not"):
            run(model, tmp_path, require_isolation=True)
    finally:
        isolation.isolation.cache_clear()


def test_pieces_are_asked_for_in_the_words_of_the_card(tmp_path: Path) -> None:
    script = COPY_ANSWER + "(here / 'words.json').write_text(json.dumps(words))\n"
    model = make_model(tmp_path / "model", script, in_pieces=["--tiles", "4"])

    assert run(model, tmp_path, in_pieces=True).in_pieces
    assert json.loads((tmp_path / "model" / "words.json").read_text()) == ["--tiles", "4"]

    record = run(make_model(tmp_path / "other", COPY_ANSWER), tmp_path, in_pieces=True)
    assert (record.in_pieces, record.remarks) == (False, ("pieces were asked for, and its card has none",))
