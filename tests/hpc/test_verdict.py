"""What becomes of a job by what was seen of it: the table and the state map of the design."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqi_dagster.hpc.polling import HistoryRecord, PollResult, QueueRecord, Result, parse_result
from mqi_dagster.hpc.states import STATES, needs_a_person, state_of
from mqi_dagster.hpc.verdict import judge
from mqi_dagster.ledger.cluster_jobs import ClusterJob, Observation
from mqi_dagster.ledger.cluster_jobs import ClusterJobState as State
from mqi_dagster.settings import Intervals
from tests.hpc.hpc_cases import FOLDER, JOB_ID, KEY, NAME, NOW, SUBMITTED, make_row, result_text

INTERVALS = Intervals.model_validate({"result_wait_seconds": 60, "absent_seconds": 30, "lost_seconds": 120})
STATE_MAP = {
    "PENDING": "queued",
    "CONFIGURING": "queued",
    "REQUEUED": "queued",
    "REQUEUE_FED": "queued",
    "RESV_DEL_HOLD": "held",
    "SPECIAL_EXIT": "held",
    "REQUEUE_HOLD": "held",
    "SUSPENDED": "held",
    "STOPPED": "held",
    "RUNNING": "running",
    "COMPLETING": "running",
    "SIGNALING": "running",
    "STAGE_OUT": "running",
    "RESIZING": "running",
    "COMPLETED": "succeeded",
    "FAILED": "failed",
    "OUT_OF_MEMORY": "out_of_memory",
    "TIMEOUT": "timed_out",
    "DEADLINE": "timed_out",
    "CANCELLED": "cancelled",
    "NODE_FAIL": "lost",
    "BOOT_FAIL": "lost",
    "LAUNCH_FAILED": "lost",
    "RECONFIG_FAIL": "lost",
    "REVOKED": "lost",
    "PREEMPTED": "lost",
}
STILL_THERE = ("queued", "held", "running")
LIVE_WORDS = [word for word, state in STATE_MAP.items() if state in STILL_THERE]


def queued(state: str = "PENDING", reason: str = "None", name: str = NAME, comment: str = KEY) -> QueueRecord:
    return QueueRecord(state, reason, name, comment, SUBMITTED, "n1")


def past(
    state: str,
    exit_code: str = "0:0",
    name: str = NAME,
    comment: str = KEY,
    submitted: str = SUBMITTED,
    node: str = "n1",
) -> HistoryRecord:
    return HistoryRecord(state, exit_code, name, comment, submitted, node)


def account(exit_code: int = 0, signal: str = "") -> Result:
    found = parse_result(result_text(exit_code=exit_code, signal=signal))
    assert found is not None
    return found


def seen(
    queue: QueueRecord | None = None,
    history: HistoryRecord | None = None,
    result: Result | None = None,
    owner: str | None = None,
) -> PollResult:
    return PollResult(
        queue={} if queue is None else {JOB_ID: queue},
        history={} if history is None else {JOB_ID: history},
        results={} if result is None else {(FOLDER, JOB_ID): result},
        owners={} if owner is None else {FOLDER: owner},
    )


def verdict(poll: PollResult, silent: float | None = None, **changes: object) -> Observation:
    """The verdict on a job that has given no sign for some seconds."""
    since = None if silent is None else NOW - timedelta(seconds=silent)
    return judge(make_row(missing_since=since, **changes), FOLDER, poll, INTERVALS, NOW)


def waits(observation: Observation) -> bool:
    """Whether nothing was decided yet, and since when was noted."""
    return observation.state is State.QUEUED and observation.missing_since is not None


def test_every_state_of_slurm_means_what_the_map_says() -> None:
    assert {word: state.value for word, state in STATES.items()} == STATE_MAP


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("CANCELLED by 1000", State.CANCELLED),
        ("RUNNING+", State.RUNNING),
        ("COMPLETED", State.SUCCEEDED),
        ("COMPLETED_SOMEHOW", None),
        ("completed", None),
        ("", None),
        ("F", None),
    ],
)
def test_a_word_is_known_or_it_is_not(word: str, state: State | None) -> None:
    assert state_of(word) is state


@pytest.mark.parametrize("word", LIVE_WORDS)
def test_the_live_queue_wins_over_history_result_and_owner(word: str) -> None:
    poll = seen(queued(word), past("FAILED", "1:0"), account(1), owner="7")
    found = verdict(poll, silent=1000)
    assert (found.state.value, found.scheduler_state) == (STATE_MAP[word], word)
    assert (found.missing_since, found.result, found.exit_code, found.adopted_id) == (None, None, None, None)


@pytest.mark.parametrize("word", ["NODE_FAIL", "PREEMPTED", "FAILED", "TIMEOUT", "COMPLETED"])
def test_a_job_that_the_queue_has_again_is_queued_whatever_history_says(word: str) -> None:
    found = verdict(seen(queued("PENDING", "Priority"), past(word), account()))
    assert (found.state, found.reason, found.submitted) == (State.QUEUED, "Priority", SUBMITTED)


@pytest.mark.parametrize(
    ("before", "after"),
    [(State.RUNNING, State.RUNNING), (State.HELD, State.HELD), (State.QUEUED, State.QUEUED)],
)
def test_an_unknown_word_in_the_queue_is_no_end(before: State, after: State) -> None:
    poll = seen(queued("TELEPORTING"), past("COMPLETED"), account())
    found = verdict(poll, silent=10_000, state=before)
    assert (found.state, found.scheduler_state) == (after, "TELEPORTING")


def test_an_unknown_word_in_the_accounting_alone_is_as_good_as_running() -> None:
    poll = seen(history=past("TELEPORTING"))
    assert waits(verdict(poll, silent=119))
    assert verdict(poll, silent=121).state is State.LOST


@pytest.mark.parametrize(
    "reason",
    [
        "DependencyNeverSatisfied",
        "JobHeldUser",
        "JobHeldAdmin",
        "launch failed requeued held",
        "ReqNodeNotAvail, UnavailableNodes:n1",
        "QOSMaxJobsPerUserLimit",
        "AssocGrpGRES",
        "PartitionDown",
        "PartitionTimeLimit",
        "PartitionNodeLimit",
        "BadConstraints",
        "InvalidAccount",
    ],
)
def test_a_reason_that_waiting_does_not_cure_is_shown_as_held(reason: str) -> None:
    assert needs_a_person(reason)
    found = verdict(seen(queued("PENDING", reason)))
    assert (found.state, found.reason) == (State.HELD, reason)


@pytest.mark.parametrize("reason", ["Priority", "Resources", "BeginTime", "None", ""])
def test_a_job_that_only_waits_its_turn_is_queued(reason: str) -> None:
    found = verdict(seen(queued("PENDING", reason)))
    assert (found.state, found.reason) == (State.QUEUED, "" if reason == "None" else reason)


def test_a_running_job_says_where_and_not_why_it_waited() -> None:
    found = verdict(seen(queued("RUNNING", "JobHeldUser")), state=State.HELD, reason="JobHeldUser")
    assert (found.state, found.reason) == (State.RUNNING, "on n1")


@pytest.mark.parametrize("strange", [{"name": "moqui_P2.fx0001__b01"}, {"comment": "d1-2"}])
@pytest.mark.parametrize("word", ["RUNNING", "PENDING", "COMPLETED", "CANCELLED by 0", "NODE_FAIL"])
def test_a_record_of_another_name_or_comment_is_another_jobs(word: str, strange: dict[str, str]) -> None:
    for poll in (seen(queued(word, **strange)), seen(history=past(word, **strange))):
        assert waits(verdict(poll, silent=29))
        found = verdict(poll, silent=31)
        assert (found.state, found.scheduler_state) == (State.LOST, "")


def test_without_stored_comments_name_and_time_of_submission_have_to_agree() -> None:
    assert verdict(seen(history=past("TIMEOUT", comment=""))).state is State.TIMED_OUT
    reused = seen(history=past("TIMEOUT", comment="", submitted="2026-02-01T11:00:00"))
    assert waits(verdict(reused, silent=29))
    never_seen_queued = seen(history=past("TIMEOUT", comment="", submitted=""))
    assert waits(verdict(never_seen_queued, silent=29, submitted=None))


@pytest.mark.parametrize("where", ["queue", "history", "nowhere"])
def test_a_result_with_exit_code_0_is_a_success(where: str) -> None:
    result = account()
    poll = {
        "queue": seen(queued("COMPLETED"), result=result),
        "history": seen(history=past("COMPLETED"), result=result),
        "nowhere": seen(result=result),
    }[where]
    found = verdict(poll)
    assert (found.state, found.exit_code, found.result) == (State.SUCCEEDED, 0, result_text())


def test_a_completed_job_without_a_result_is_waited_for_and_then_lost() -> None:
    for poll in (seen(history=past("COMPLETED")), seen(queued("COMPLETED"))):
        first = verdict(poll)
        assert (first.state, first.missing_since) == (State.QUEUED, NOW)
        assert waits(verdict(poll, silent=60))
        found = verdict(poll, silent=61)
        assert (found.state, found.exit_code, found.result) == (State.LOST, None, None)


@pytest.mark.parametrize("word", ["RUNNING", "PENDING", "SUSPENDED"])
def test_a_job_that_only_the_accounting_believes_in_is_lost_after_a_while(word: str) -> None:
    poll = seen(history=past(word))
    assert verdict(poll).missing_since == NOW
    assert waits(verdict(poll, silent=120))
    assert verdict(poll, silent=121).state is State.LOST


@pytest.mark.parametrize(
    ("code", "state"), [(0, State.SUCCEEDED), (3, State.FAILED), (137, State.OUT_OF_MEMORY)]
)
def test_the_result_of_a_job_that_the_controller_has_forgotten_is_taken(code: int, state: State) -> None:
    for poll in (seen(history=past("RUNNING"), result=account(code)), seen(result=account(code))):
        found = verdict(poll)
        assert (found.state, found.result) == (state, result_text(exit_code=code))


def test_a_job_that_nobody_knows_is_lost_after_a_while() -> None:
    assert verdict(seen()).missing_since == NOW
    assert waits(verdict(seen(), silent=30))
    assert verdict(seen(), silent=31).state is State.LOST


def test_a_silence_that_begins_in_the_future_begins_now() -> None:
    found = verdict(seen(), silent=-86_400)
    assert (found.state, found.missing_since) == (State.QUEUED, NOW)


def test_a_setup_that_failed_is_not_the_engines_end() -> None:
    found = verdict(seen(history=past("FAILED", "95:0"), result=account(95)))
    assert (found.state, found.exit_code, found.result) == (State.FAILED, 95, result_text(exit_code=95))
    assert found.reason.startswith("the modules or scripts of the settings could not be loaded")


def test_a_sign_of_life_ends_the_silence() -> None:
    assert verdict(seen(queued("RUNNING")), silent=29).missing_since is None


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("OUT_OF_MEMORY", State.OUT_OF_MEMORY),
        ("TIMEOUT", State.TIMED_OUT),
        ("DEADLINE", State.TIMED_OUT),
        ("NODE_FAIL", State.LOST),
        ("BOOT_FAIL", State.LOST),
        ("LAUNCH_FAILED", State.LOST),
        ("RECONFIG_FAIL", State.LOST),
        ("REVOKED", State.LOST),
        ("PREEMPTED", State.LOST),
    ],
)
def test_other_ends_are_what_slurm_says(word: str, state: State) -> None:
    for poll in (seen(history=past(word)), seen(queued(word)), seen(history=past(word), result=account(143))):
        found = verdict(poll)
        assert (found.state, found.reason, found.scheduler_state) == (state, f"Slurm says {word}", word)


def test_a_cancellation_says_whether_it_was_ours() -> None:
    theirs = verdict(seen(history=past("CANCELLED by 1000")))
    assert theirs.state is State.CANCELLED
    assert theirs.reason == "cancelled on the cluster (cancelled by 1000)"
    ours = verdict(seen(history=past("CANCELLED by 1000")), cancel_requested_at=NOW)
    assert (ours.state, "on the cluster" in ours.reason) == (State.CANCELLED, False)


def test_who_has_cancelled_is_waited_for() -> None:
    only_queued = seen(queued("CANCELLED"))
    late = seen(queued("CANCELLED"), past("RUNNING"))
    for poll in (only_queued, late):
        assert waits(verdict(poll, silent=30))
        assert verdict(poll, silent=31).reason == "cancelled on the cluster (cancelled)"
    known = verdict(seen(queued("CANCELLED"), past("CANCELLED by 1000")))
    assert known.reason == "cancelled on the cluster (cancelled by 1000)"


def test_a_job_that_a_node_has_ended_in_place_of_starting_it_is_lost() -> None:
    by_root = past("CANCELLED by 0")
    assert verdict(seen(history=by_root)).state is State.LOST
    assert verdict(seen(history=by_root, owner=JOB_ID)).state is State.CANCELLED
    for node in ("", "None assigned"):
        assert verdict(seen(history=past("CANCELLED by 0", node=node))).state is State.CANCELLED


@pytest.mark.parametrize("word", ["CANCELLED by 0", "CANCELLED by 1000", "NODE_FAIL", "PREEMPTED", "FAILED"])
def test_an_engine_that_had_done_its_work_has_succeeded_whatever_became_of_its_job(word: str) -> None:
    found = verdict(seen(history=past(word), result=account()))
    assert (found.state, found.exit_code, found.scheduler_state) == (State.SUCCEEDED, 0, word)
    told = seen(history=past("CANCELLED by 1000"), result=account())
    assert verdict(told, cancel_requested_at=NOW).state is State.CANCELLED
    interrupted = seen(history=past("TIMEOUT"), result=account(0, "TERM"))
    assert verdict(interrupted).state is State.TIMED_OUT


@pytest.mark.parametrize("word", ["CANCELLED", "NODE_FAIL", "COMPLETED", "FAILED"])
def test_a_cancelled_job_stays_ended_however_it_has_ended(word: str) -> None:
    assert verdict(seen(history=past(word)), silent=1000, cancel_requested_at=NOW).state.ended


@pytest.mark.parametrize(
    ("history", "reason", "state"),
    [
        ("0:9", "", State.OUT_OF_MEMORY),
        ("0:53", "", State.LOST),
        ("96:0", "", State.LOST),
        ("97:0", "", State.LOST),
        ("98:0", "", State.LOST),
        ("1:0", "JobLaunchFailure", State.LOST),
        ("1:0", "launch failed requeued held", State.LOST),
    ],
)
def test_a_failure_without_a_result_is_judged_by_its_codes(history: str, reason: str, state: State) -> None:
    found = verdict(seen(queued("FAILED", reason), past("FAILED", history)))
    assert (found.state, found.scheduler_state, found.result) == (state, "FAILED", None)
    if not reason:
        assert verdict(seen(history=past("FAILED", history))).state is state


def test_a_failure_with_a_result_is_the_engines() -> None:
    found = verdict(seen(history=past("FAILED", "3:0"), result=account(3)))
    assert (found.state, found.exit_code, found.result) == (State.FAILED, 3, result_text(exit_code=3))
    killed = verdict(seen(history=past("FAILED", "137:0"), result=account(137)))
    assert killed.state is State.OUT_OF_MEMORY


def test_a_failure_of_which_nobody_says_more_is_waited_for_and_then_lost() -> None:
    in_both = seen(queued("FAILED", "NonZeroExitCode"), past("FAILED", "1:0"))
    assert waits(verdict(in_both, silent=60))
    assert verdict(in_both, silent=61).state is State.LOST
    only_queued = seen(queued("FAILED", "NonZeroExitCode"))
    assert waits(verdict(only_queued, silent=30)), "the accounting tells more, a little later"


@pytest.mark.parametrize(
    "poll",
    [
        seen(history=past("COMPLETED")),
        seen(history=past("FAILED", "1:0")),
        seen(history=past("FAILED", "97:0")),
        seen(history=past("FAILED", "0:53")),
        seen(queued("FAILED", "JobLaunchFailure"), past("FAILED", "1:0")),
    ],
)
def test_the_third_death_without_a_word_is_a_failure(poll: PollResult) -> None:
    assert verdict(poll, silent=1000, retired=("98",)).state is State.LOST
    assert verdict(poll, silent=1000, retired=("98", "99")).state is State.FAILED


def test_what_the_cluster_has_lost_may_be_lost_any_number_of_times() -> None:
    retired = tuple(str(number) for number in range(20))
    for poll in (seen(), seen(history=past("NODE_FAIL")), seen(history=past("PREEMPTED"))):
        assert verdict(poll, silent=1000, retired=retired).state is State.LOST


def test_the_job_that_owns_the_folder_is_the_one_that_counts() -> None:
    found = verdict(seen(history=past("FAILED", "98:0"), owner="101"))
    assert (found.job_id, found.adopted_id, found.state) == (JOB_ID, "101", State.RUNNING)
    assert verdict(seen(history=past("FAILED", "98:0"), owner="99"), retired=("99",)).adopted_id is None
    assert verdict(seen(result=account(), owner=JOB_ID)).state is State.SUCCEEDED


WORDS = st.one_of(st.sampled_from(sorted(STATE_MAP)), st.sampled_from(["CANCELLED by 1000", "WARPED", ""]))
MINE = {"name": st.sampled_from([NAME, NAME, "other"]), "comment": st.sampled_from([KEY, KEY, "", "d1-2"])}
SUBMISSIONS = st.sampled_from([SUBMITTED, "2026-02-01T11:00:00", ""])
RECORDS = st.builds(
    QueueRecord,
    state=WORDS,
    reason=st.sampled_from(["None", "Priority", "JobHeldUser", "JobLaunchFailure"]),
    submitted=SUBMISSIONS,
    node=st.just("n1"),
    **MINE,
)
HISTORIES = st.builds(
    HistoryRecord,
    state=WORDS,
    exit_code=st.sampled_from(["0:0", "1:0", "0:9", "0:15", "0:53", "96:0", "97:0", "98:0", "x", ""]),
    submitted=SUBMISSIONS,
    node=st.just("n1"),
    **MINE,
)
RESULTS = st.builds(account, st.sampled_from([0, 0, 1, 95, 137, 143]), st.sampled_from(["", "", "TERM"]))
ROWS = st.builds(
    make_row,
    state=st.sampled_from([State.QUEUED, State.HELD, State.RUNNING]),
    retired=st.sampled_from([(), ("98",), ("98", "99")]),
    submitted=st.sampled_from([None, SUBMITTED]),
    missing_since=st.sampled_from([None, NOW, NOW - timedelta(seconds=45), NOW - timedelta(days=1)]),
    cancel_requested_at=st.sampled_from([None, NOW]),
)


@given(
    row=ROWS,
    poll=st.builds(
        seen,
        st.none() | RECORDS,
        st.none() | HISTORIES,
        st.none() | RESULTS,
        st.sampled_from([None, JOB_ID, "98", "101"]),
    ),
)
@settings(max_examples=250)
def test_no_poll_makes_a_success_without_a_result_or_an_end_of_a_live_job(
    row: ClusterJob, poll: PollResult
) -> None:
    found = judge(row, FOLDER, poll, INTERVALS, NOW)
    assert (found.key, found.job_id) == (KEY, JOB_ID)
    if found.state is State.SUCCEEDED:
        result = poll.results[FOLDER, JOB_ID]
        assert result.exit_code == 0
        assert (found.exit_code, found.result) == (0, result.text)
    record = poll.queue.get(JOB_ID)
    own = record is not None and (record.name, record.comment) == (NAME, KEY)
    if record is not None and own and STATE_MAP.get(record.state.split(" ")[0], "queued") in STILL_THERE:
        assert not found.state.ended
        assert found.adopted_id is None
    if not found.state.ended and found.adopted_id is None and record is None:
        assert found.missing_since is not None, "a silence is always measured"


def test_an_engine_that_slurm_interrupted_has_not_failed_by_itself() -> None:
    ended = seen(history=past("FAILED", "143:0"), result=account(143, "TERM"))
    assert waits(verdict(ended, silent=30))
    assert verdict(ended, silent=61).state is State.LOST
    assert waits(verdict(seen(result=account(143, "TERM")), silent=29))
    # It has done its work before the signal could end it.
    assert verdict(seen(history=past("COMPLETED"), result=account(0, "TERM"))).state is State.SUCCEEDED
