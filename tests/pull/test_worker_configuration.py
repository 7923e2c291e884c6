"""What a worker is told: by a file, by variables, by the names of the earlier worker; and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.execution.gpus import Gpu
from mqi_dagster.worker import programs
from mqi_dagster.worker.configuration import Configuration, read_configuration
from mqi_dagster.worker.programs import Programs
from mqi_dagster.worker.ways import HttpsWay

HTTPS = {"MQI_WORKER_SERVER": "https://mqi.example.org/mqi", "MQI_WORKER_TOKEN_FILE": "/etc/mqi-worker/token"}


def test_a_file_and_variables_and_the_variables_count(tmp_path: Path) -> None:
    path = tmp_path / "worker.yaml"
    program = {"command": ["moqui_SMC", "{tps}"], "version_command": ["moqui_SMC", "--version"]}
    content = {"server": "https://other", "token_file": "token", "slots": 3, "programs": {"engine": program}}
    path.write_text(yaml.safe_dump(content))
    found = read_configuration(path, {**HTTPS, "MQI_WORKER_GPUS": "GPU-1,GPU-2", "MQI_WORKER_CONFIG": "x"})
    assert (found.server, found.token_file) == (HTTPS["MQI_WORKER_SERVER"], Path("/etc/mqi-worker/token"))
    assert (found.slots, found.gpus, found.programs["engine"].command[0]) == (
        3,
        ("GPU-1", "GPU-2"),
        "moqui_SMC",
    )
    assert read_configuration(path, {}).token_file == tmp_path / "token"


def test_the_names_of_the_earlier_worker_are_understood(tmp_path: Path) -> None:
    old = {
        "DEVICE": "cuda",
        "POLL_INTERVAL": "30",
        "REQUEST_DIR": "/mnt/requests",
        "MODEL_PATH": str(tmp_path),
    }
    found = read_configuration(None, old)
    assert (found.device, found.wait_seconds, found.folder) == ("gpu", 30.0, Path("/mnt/requests"))
    assert found.models == tmp_path
    assert read_configuration(None, {"INFERENCE_REQUEST_DIR": "/mnt/x"}).folder == Path("/mnt/x")
    assert read_configuration(None, {**HTTPS, "DEVICE": "cpu", "MQI_WORKER_DEVICE": "auto"}).device == "auto"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"ORTHANC_URL": "http://pacs:8042"}, "ORTHANC_URL is set.*images come with the job"),
        ({"ORTHANC_PASSWORD": "admin123"}, "ORTHANC_PASSWORD is set, and means nothing here"),
        ({"THRESHOLD": "0.5"}, "stands in its card"),
        ({"DJANGO_API_URL": "http://server"}, "the server is MQI_WORKER_SERVER"),
        ({"MODEL_PATH": "src/best_model.pth"}, "MODEL_PATH names a file: here it is the folder of models"),
        ({"DEVICE": "tpu"}, "device"),
        ({"MQI_WORKER_SLOTS": "0"}, "slots"),
        ({"MQI_WORKER_SLOT": "1"}, "slot: .*did you mean slots"),
        ({"MQI_WORKER_SERVER": "http://mqi.example.org"}, "to another machine https, or allow_http"),
        ({"MQI_WORKER_SERVER": "https://admin:admin123@mqi.example.org"}, "server"),
        ({"MQI_WORKER_TOKEN_FILE": ""}, "token_file: the server asks for a token"),
        ({"MQI_WORKER_FOLDER": "/mnt/x"}, "server or folder: one of the two"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(given: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as refused:
        read_configuration(None, {**HTTPS, **given})
    assert "admin123" not in refused.value.message


@pytest.mark.parametrize(
    ("mode", "content", "reason"),
    [
        (0o644, "mqi_x", "mode 0644, open to others; chmod 600"),
        (0o600, "", "empty"),
        (None, "", "cannot be read"),
    ],
)
def test_a_token_that_others_can_read_is_refused(
    tmp_path: Path, mode: int | None, content: str, reason: str
) -> None:
    token = tmp_path / "token"
    if mode is not None:
        token.write_text(content)
        token.chmod(mode)
    configuration = read_configuration(None, {**HTTPS, "MQI_WORKER_TOKEN_FILE": str(token)})
    with pytest.raises(ConfigurationError, match=reason):
        HttpsWay(configuration)


def configured(**values: Any) -> Configuration:
    return Configuration.model_validate({"folder": "/mnt/x", **values})


def test_a_gpu_that_is_not_there_is_said_and_refused_where_that_is_wanted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ConfigurationError, match="device is gpu, and this computer shows no GPU"):
        Programs(configured(device="gpu", without_gpu="refuse"))
    found = Programs(configured(device="gpu", slots=2))
    assert [(one.kind, one.index) for one in found.devices] == [("cpu", 0), ("cpu", 1)]
    assert "it works on the processor (without_gpu)" in caplog.text
    with pytest.raises(ConfigurationError, match="this computer shows no GPU GPU-7"):
        Programs(configured(gpus=["GPU-7"]))


def test_each_gpu_is_a_slot_and_its_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [Gpu(0, "GPU-1", "A100", 80000, 7), Gpu(1, "GPU-2", "A100", 80000, 9)]
    monkeypatch.setattr(programs, "local_gpus", lambda: gpus)
    found = Programs(configured(gpus=["GPU-2"], slots=5)).capabilities()
    assert [(one.kind, one.index, one.uuid, one.memory_mb, one.used_mb) for one in found.devices] == [
        ("gpu", 1, "GPU-2", 80000, 9)
    ]
    assert [one.kind for one in Programs(configured(device="cpu")).devices] == ["cpu"]
    assert len(Programs(configured()).devices) == 2


def test_a_program_that_is_not_here_is_not_offered() -> None:
    asked = {
        "engine": {
            "command": [sys.executable],
            "version_command": ["echo", "moqui 1.2"],
        },
        "gone": {"command": ["no-such-program"]},
        "broken": {"command": [sys.executable], "version_command": ["false"]},
    }
    found = Programs(configured(device="cpu", programs=asked))
    assert found.capabilities().programs == {"engine": "moqui 1.2", "segment": ""}
    assert found.problems == [
        "the program gone is not offered: the program 'no-such-program' is not on this machine or"
        " cannot be run",
        "the program broken is not offered: its version_command fails",
    ]
    assert "rules_ct" in [one.name for one in found.capabilities().models]


def test_the_command_says_what_is_wrong_in_one_line_and_doctor_looks_at_everything(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o770)

    def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "mqi_dagster.worker.command", *words]
        import os

        whole = {**os.environ, "MQI_WORKER_FOLDER": str(shared), "MQI_WORKER_WORK": str(tmp_path / "work")}
        return subprocess.run(argv, capture_output=True, text=True, env={**whole, **environment}, check=False)

    refused = command("run", DEVICE="cuda", MQI_WORKER_WITHOUT_GPU="refuse")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert refused.stderr.startswith("mqi-worker: device is gpu, and this computer shows no GPU")
    good = command("doctor", MQI_WORKER_DEVICE="cpu")
    assert good.returncode == 0, good.stdout + good.stderr
    assert [line.split(":")[0] for line in good.stdout.splitlines()] == [
        "ok    devices",
        "ok    programs",
        "ok    models",
        "ok    folder of jobs",
        "ok    shared folder",
        "no faults",
    ]
    shared.chmod(0o777)
    bad = command("doctor", MQI_WORKER_DEVICE="cpu")
    assert bad.returncode == 1
    assert "FAULT shared folder: everybody may write" in bad.stdout
