"""What an account's environment wants of Slurm's commands reaches none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqi_dagster.hpc import polling, slurm
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.naming import JobFolder
from mqi_dagster.settings import Slurm
from tests.hpc.hpc_cases import KEY, NAME
from tests.hpc.login_node import LoginNode

WISHES = {
    "SLURM_CLUSTERS": "other",
    "SLURM_TIME_FORMAT": "relative",
    "SQUEUE_FORMAT": "%i",
    "SQUEUE_STATES": "RUNNING",
    "SACCT_FORMAT": "jobid",
    "SBATCH_CLUSTERS": "other",
    "SBATCH_ARRAY_INX": "0-9",
    "SCANCEL_INTERACTIVE": "1",
    "SINFO_FORMAT": "%P",
    "SCONTROL_ALL": "1",
}
NEEDED = {
    "SLURM_CONF": "/opt/slurm/etc/slurm.conf",
    "SLURM_CONF_SERVER": "ctl:6817",
    "SLURM_JWT": "token",
    "SLURM_SACK_SOCKET": "/run/slurm/sack.socket",
    "LINES_OF_IT": "first\nSLURM_CLUSTERS=second",
}
"""How the controller is reached, and a value that only looks like a wish."""


@pytest.fixture
def wishing(node: LoginNode, monkeypatch: pytest.MonkeyPatch) -> LoginNode:
    """A node whose account wants everything else."""
    node.account = {**WISHES, **NEEDED}
    for module in (polling, slurm):
        monkeypatch.setattr(module, "run_script", node.run_script)
    monkeypatch.setattr(slurm, "run", node.run_command)
    return node


def reached(node: LoginNode, command: str) -> dict[str, str]:
    """What of Slurm's variables a command has got."""
    prefixes = ("SLURM_", "SQUEUE_", "SACCT_", "SBATCH_", "SCANCEL_", "SINFO_", "SCONTROL_")
    seen = node.environment_of(command)
    assert seen.pop("LINES_OF_IT") == "first"
    # The second line of that value reads like a variable.
    seen.pop("SLURM_CLUSTERS")
    return {name: value for name, value in seen.items() if name.startswith(prefixes)}


EXPECTED = {name: value for name, value in NEEDED.items() if name != "LINES_OF_IT"}


def test_the_submission(wishing: LoginNode, folder: JobFolder) -> None:
    made = Path(folder.path)
    made.mkdir(parents=True)
    (made / ".mqi-job").write_text(f"{KEY}\n")
    (made / ".submitting").touch()
    assert wishing.run("submit", str(made), NAME, KEY, ",", "submit", "job.sh").text == "100\n"
    # An interrupted submission is looked for in the queue and in the accounting first.
    for command in ("squeue", "sacct", "sbatch"):
        assert len(wishing.calls(command)) == 1
        assert reached(wishing, command) == EXPECTED


def test_the_cancellation(wishing: LoginNode) -> None:
    wishing.tell("squeue", f"JOBID|COMMENT\n100|{KEY}\n")
    assert wishing.run("cancel", "100", NAME, KEY).exit_code == 0
    for command in ("squeue", "scancel"):
        assert len(wishing.calls(command)) == 1
        assert reached(wishing, command) == EXPECTED


def test_the_look_at_all_jobs(wishing: LoginNode, folder: JobFolder, nowhere: Connection) -> None:
    wishing.tell("squeue", "JOBID\x1fSTATE\x1fREASON\x1fNAME\x1fCOMMENT\x1fSUBMIT_TIME\x1fNODELIST\n")
    wishing.tell("sacct", code=1)
    polling.poll_jobs(nowhere, [("100", folder)])
    for command in ("squeue", "sacct", "scontrol"):
        assert len(wishing.calls(command)) == 1
        assert reached(wishing, command) == EXPECTED


def test_what_is_asked_of_the_cluster_itself(wishing: LoginNode, nowhere: Connection) -> None:
    slurm.gpus_of(nowhere, Slurm.model_validate({"root": "/scratch/mqi"}))
    slurm.scheduler_facts(nowhere)
    for command in ("sinfo", "scontrol"):
        assert len(wishing.calls(command)) == 1
        assert reached(wishing, command) == EXPECTED
