"""Values in a job's script: whatever they hold, the shell reads them as they are, or they are refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.hpc.job_script import MARK, job_script
from mqi_dagster.hpc.shell import script
from tests.hpc.hpc_cases import FOLDER, KEY, make_folder, make_job, make_slurm

PLAIN = st.characters(
    exclude_categories=["Cs"], exclude_characters=[*(chr(code) for code in range(32)), "\x7f"]
)
HOSTILE = [
    "$(touch /tmp/mqi-owned)",
    "`id`",
    "'; id; '",
    '"$HOME"',
    "a b",
    "-n",
    "",
    "*",
    "~",
    "\\",
    "!!",
    "#",
    "${argv[@]}",
    "홍길동",
    "../../etc",
    "é\u2028x",
]
TEXTS = st.one_of(st.sampled_from(HOSTILE), st.text(PLAIN, max_size=30))


def values_in_bash(text: str, *names: str) -> list[list[str]]:
    """What bash finds in the arrays and variables at the head of a script."""
    head = text[: text.index("\nsetup() {")]
    shows = "".join(f"printf '%s\\0' \"${{{name}[@]}}\" @end; " for name in names)
    done = subprocess.run(["bash", "-c", f"{head}\n{shows}"], capture_output=True, check=True, cwd="/")
    assert done.stderr == b""
    words = done.stdout.decode().split("\0")[:-1]
    found: list[list[str]] = [[]]
    for word in words:
        if word == "@end":
            found.append([])
        else:
            found[-1].append(word)
    return found[:-1]


@given(argv=st.lists(TEXTS, min_size=1, max_size=8), outputs=st.lists(TEXTS, min_size=1, max_size=4))
@settings(max_examples=40)
def test_any_text_without_control_characters_survives_the_shell(argv: list[str], outputs: list[str]) -> None:
    job = make_job(Path("/x"), argv=tuple(argv), outputs=tuple(outputs))
    text = job_script(job, make_folder(), make_slurm(scratch="/local/scratch"), "moqui_tps.in").decode()
    assert values_in_bash(text, "argv", "outputs", "folder", "key", "scratch", "mark", "tps") == [
        argv,
        outputs,
        [FOLDER],
        [KEY],
        ["/local/scratch"],
        [MARK],
        ["moqui_tps.in"],
    ]


@given(st.sampled_from([*map(chr, range(32)), "\x7f"]), st.sampled_from(["argv", "outputs"]), TEXTS)
@settings(max_examples=40)
def test_a_control_character_is_refused(control: str, where: str, text: str) -> None:
    job = make_job(Path("/x"), **{where: (f"{text}{control}",)})
    with pytest.raises(ConfigurationError, match="control character"):
        job_script(job, make_folder(), make_slurm(), "moqui_tps.in")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("A", "x y"),
        ("A", "$(id)"),
        ("A", "x\n"),
        ("A", "x;y"),
        ("A-B", "x"),
        ("1A", "x"),
        ("", "x"),
        ("A\n", "x"),
    ],
)
def test_a_variable_that_a_shell_could_mistake_is_refused(name: str, value: str) -> None:
    job = make_job(Path("/x"), environment={name: value})
    with pytest.raises(ConfigurationError, match="variable"):
        job_script(job, make_folder(), make_slurm(), "moqui_tps.in")


def test_the_clusters_variables_win_over_the_jobs() -> None:
    job = make_job(Path("/x"), environment={"MQI_ENGINE_THREADS": "1", "A": "job"})
    text = job_script(job, make_folder(), make_slurm(environment={"A": "site"}), "tps").decode()
    head = text[: text.index(script("job"))]
    assert "  export A=site\n  export MQI_ENGINE_THREADS=1\n" in head


def test_the_body_is_the_same_for_every_job_and_no_value_stands_in_a_directive() -> None:
    job = make_job(Path("/x"), argv=("#SBATCH", "--uid=0"), outputs=("#SBATCH x",))
    text = job_script(job, make_folder(), make_slurm(modules=["cuda/12.2"]), "tps").decode()
    assert text.endswith(script("job"))
    assert text.startswith("#!/bin/bash\n")
    assert [line for line in text.splitlines() if line.startswith("#SBATCH")] == []
