"""One look at all jobs: what the script's answer says, and what is no answer at all."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqi_dagster.errors import UnreachableError
from mqi_dagster.hpc import polling
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.errors import DiskFullError, PathRejectedError, SchedulerUnavailableError
from mqi_dagster.hpc.polling import HistoryRecord, PollResult, QueueRecord, parse_result
from mqi_dagster.hpc.shell import Answer
from tests.hpc.hpc_cases import FOLDER, KEY, NAME, SUBMITTED, make_folder, result_text

S = "\x1f"
HEAD = S.join(("JOBID", "STATE", "REASON", "NAME", "COMMENT", "SUBMIT_TIME", "NODELIST"))
Asked = Callable[..., PollResult]


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch, nowhere: Connection) -> Asked:
    """Looks at a cluster that answers with the given text."""

    def asked(text: str, code: int = 0, err: str = "") -> PollResult:
        answer = Answer(code, text.encode(), err.encode())
        monkeypatch.setattr(polling, "run_script", lambda *_, **__: answer)
        return polling.poll_jobs(nowhere, [("100", make_folder())])

    return asked


def queue(*rows: tuple[str, ...]) -> str:
    return "\n".join(["@queue 0", HEAD, *(S.join(row) for row in rows), "@complaint 0", "", ""])


def test_a_whole_answer_is_taken_apart(look: Asked) -> None:
    found = look(
        queue(("200", "PENDING", "Priority", NAME, KEY, SUBMITTED, ""))
        + "@history 0\n"
        + S.join(("100", "FAILED", "3:0", NAME, KEY, SUBMITTED, "n1"))
        + f"\n@results 0\n==> {FOLDER}/starts/100-0/result.json <==\n{result_text(exit_code=3)}\n"
        + f"\n==> {FOLDER}/owner <==\n100\n"
    )
    assert found.queue == {"200": QueueRecord("PENDING", "Priority", NAME, KEY, SUBMITTED, "")}
    assert found.history == {"100": HistoryRecord("FAILED", "3:0", NAME, KEY, SUBMITTED, "n1")}
    assert found.owners == {FOLDER: "100"}
    result = found.results[FOLDER, "100"]
    assert (result.exit_code, result.start) == (3, 0)
    assert (result.outputs[1].size, result.text) == (4, result_text(exit_code=3))


def test_no_jobs_at_all_is_an_answer_too(look: Asked) -> None:
    assert look(queue()) == PollResult({}, {}, {}, {})


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("@queue 1\n\n@complaint 0\nslurm_load_jobs error: Unable to contact slurm controller\n", "contact"),
        (f"@queue 1\n{HEAD}\n100{S}RUNNING\n@complaint 0\n\n", "exit code 1"),
        ("@queue 0\n\n@complaint 0\n\n", "no list of jobs"),
        ("@queue 0\nWelcome to the cluster!\n@complaint 0\n\n", "no list of jobs"),
        ("", "exit code 1"),
        ("Welcome to the cluster!\n", "exit code 1"),
    ],
)
def test_a_queue_that_does_not_answer_says_nothing_of_any_job(look: Asked, text: str, word: str) -> None:
    with pytest.raises(SchedulerUnavailableError, match=word):
        look(text)


def test_a_login_node_in_trouble_says_nothing_of_any_job(look: Asked) -> None:
    with pytest.raises(SchedulerUnavailableError, match="fork"):
        look("", 254, "sh: 0: Cannot fork")
    with pytest.raises(DiskFullError):
        look("", 1, "mktemp: No space left on device")
    assert issubclass(SchedulerUnavailableError, UnreachableError)


def test_a_complaint_is_shown_without_paths(look: Asked) -> None:
    with pytest.raises(SchedulerUnavailableError) as raised:
        look("@queue 1\n\n@complaint 0\ncannot open /home/hong/slurm.conf\n")
    assert "hong" not in raised.value.message


@pytest.mark.parametrize(
    "row",
    [
        ("100", "RUNNING", "None", NAME, KEY, SUBMITTED),
        ("100", "RUNNING", "None", NAME, KEY, SUBMITTED, "n1", "more"),
        ("100_[1-4]", "PENDING", "None", NAME, KEY, SUBMITTED, "n1"),
        ("sum", "RUNNING", "None", NAME, KEY, SUBMITTED, "n1"),
    ],
)
def test_a_row_of_another_shape_is_no_job(look: Asked, row: tuple[str, ...]) -> None:
    assert look(queue(row)).queue == {}


def test_a_job_may_have_no_comment(look: Asked) -> None:
    found = look(queue(("100", "RUNNING", "None", NAME, "", SUBMITTED, "n1")))
    assert found.queue["100"].comment == ""


def test_without_accounting_the_controllers_own_words_count(look: Asked) -> None:
    found = look(
        queue()
        + "@history 1\n\n@details 0\n"
        + f"JobId=100 JobName={NAME} UserId=u(1) Comment={KEY} JobState=FAILED Reason=NonZeroExitCode"
        + f" ExitCode=0:9 SubmitTime={SUBMITTED} ReqNodeList=(null) NodeList=n2\n"
        + "slurm_load_jobs error: Invalid job id specified\n@results 0\n"
    )
    assert found.history == {"100": HistoryRecord("FAILED", "0:9", NAME, KEY, SUBMITTED, "n2")}


def test_of_several_starts_the_newest_account_counts(look: Asked) -> None:
    files = "".join(
        f"==> {FOLDER}/starts/100-{start}/result.json <==\n{result_text(start=start, exit_code=code)}\n\n"
        for start, code in ((2, 7), (10, 0), (1, 8))
    )
    result = look(queue() + "@results 0\n" + files).results[FOLDER, "100"]
    assert (result.start, result.exit_code) == (10, 0)


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        '{"job":"100","start":0,"no',
        result_text()[:-1],
        "\x00\x00\x00",
        "[]",
        "null",
        '"100"',
        result_text().replace('"exit_code":0', '"exit_code":""'),
        result_text().replace('"exit_code":0,', ""),
        result_text().replace('"size":4', '"size":1e999'),
        result_text().replace('"outputs":[', '"outputs":[7,'),
    ],
)
def test_a_damaged_account_proves_nothing_and_hides_no_other(look: Asked, damaged: str) -> None:
    found = look(
        queue()
        + f"@results 0\n==> {FOLDER}/starts/100-1/result.json <==\n{damaged}"
        + f"\n==> {FOLDER}/starts/100-0/result.json <==\n{result_text()}\n"
    )
    assert [result.start for result in found.results.values()] == [0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(list(json.loads(result_text()))) | st.text(max_size=3), inner)
    ),
)


@given(JSON)
@settings(max_examples=50)
def test_whatever_stands_in_an_account_is_one_or_none(content: object) -> None:
    found = parse_result(json.dumps(content))
    assert found is None or isinstance(found.exit_code, int)


@pytest.mark.parametrize("damaged", ["", "\x00\x00\x00\x00", "10 0", "$(reboot)", "-1", "100x"])
def test_a_damaged_mark_of_an_owner_names_no_job(look: Asked, damaged: str) -> None:
    assert look(queue() + f"@results 0\n==> {FOLDER}/owner <==\n{damaged}\n").owners == {}


def test_only_numbers_are_asked_after(nowhere: Connection) -> None:
    with pytest.raises(PathRejectedError):
        polling.poll_jobs(nowhere, [("100; reboot", make_folder())])
