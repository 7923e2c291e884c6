"""The scripts of a login node, run by a real shell against fakes of Slurm's commands."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mqi_dagster.errors import UnreachableError
from mqi_dagster.hpc import polling, slurm
from mqi_dagster.hpc.connection import Connection
from mqi_dagster.hpc.errors import (
    DiskFullError,
    RemoteCommandError,
    SchedulerUnavailableError,
    SubmitRejectedError,
)
from mqi_dagster.hpc.naming import JobFolder
from mqi_dagster.hpc.shell import Answer, script
from tests.hpc.hpc_cases import KEY, NAME, SUBMITTED, result_text
from tests.hpc.login_node import LoginNode

S = "\x1f"
QUEUE_HEAD = S.join(("JOBID", "STATE", "REASON", "NAME", "COMMENT", "SUBMIT_TIME", "NODELIST"))


@pytest.fixture
def staged(folder: JobFolder) -> Path:
    """The folder of a job that was staged and not submitted."""
    made = Path(folder.path)
    made.mkdir(parents=True)
    (made / ".mqi-job").write_text(f"{KEY}\n")
    return made


def submit(node: LoginNode, folder: Path, retired: str = ",", mode: str = "submit") -> Answer:
    return node.run("submit", str(folder), NAME, KEY, retired, mode, "--time=10", "job.sh")


def said(answer: Answer) -> str:
    assert answer.exit_code == 0, answer.err
    return answer.text.strip()


@pytest.mark.parametrize("name", ["submit", "stage", "poll", "cancel", "remove", "job"])
@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_every_script_can_be_read_by_its_shell(name: str, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed here")
    if name == "job" and shell != "bash":
        return
    done = subprocess.run([shell, "-n"], input=script(name), text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


class TestSubmit:
    def test_a_job_is_submitted_once_however_often_it_is_asked_for(
        self, node: LoginNode, staged: Path
    ) -> None:
        assert [said(submit(node, staged)) for _ in range(3)] == ["100", "100", "100"]
        (call,) = node.calls("sbatch")
        assert f"[--job-name={NAME}] [--comment={KEY}] [--chdir={staged}]" in call
        assert call.endswith(f"[--output={staged}/slurm-%j.out] [--time=10] [job.sh]")
        assert (staged / "job.id").read_text() == "100\n"

    def test_several_who_ask_at_once_get_one_job(self, node: LoginNode, staged: Path) -> None:
        with ThreadPoolExecutor(4) as together:
            answers = list(together.map(lambda _: said(submit(node, staged)), range(4)))
        assert answers == ["100"] * 4
        assert len(node.calls("sbatch")) == 1

    def test_a_job_whose_submission_was_interrupted_is_found_in_the_queue(
        self, node: LoginNode, staged: Path
    ) -> None:
        (staged / ".submitting").touch()
        node.know("300|d1-2|RUNNING", f"301|{KEY}|PENDING", "302||PENDING")
        assert said(submit(node, staged)) == "301"
        assert node.calls("sbatch") == []
        assert said(submit(node, staged)) == "301"
        assert len(node.calls("squeue")) == 1, "the id is known now"

    def test_a_job_whose_submission_was_interrupted_is_found_in_the_accounting(
        self, node: LoginNode, staged: Path
    ) -> None:
        (staged / ".submitting").touch()
        node.tell("sacct", f"300|d1-2\n301|{KEY}\n")
        assert said(submit(node, staged)) == "301"
        assert node.calls("sbatch") == []

    def test_an_interrupted_submission_that_never_came_through_is_made_again(
        self, node: LoginNode, staged: Path
    ) -> None:
        (staged / ".submitting").touch()
        node.tell("sacct", code=1, err="slurmdbd is down")
        assert said(submit(node, staged)) == "100"
        assert len(node.calls("sbatch")) == 1

    @pytest.mark.parametrize("mode", ["submit", "find"])
    def test_a_queue_that_does_not_answer_means_that_nothing_is_known(
        self, node: LoginNode, staged: Path, mode: str
    ) -> None:
        (staged / ".submitting").touch()
        node.tell("squeue", err="slurm_load_jobs error: Unable to contact slurm controller", code=1)
        answer = submit(node, staged, mode=mode)
        assert (answer.exit_code, answer.out) == (75, b"")
        assert b"Unable to contact" in answer.err
        assert node.calls("sbatch") == []
        assert not (staged / "job.id").exists()

    def test_an_empty_answer_with_code_0_is_no_answer(self, node: LoginNode, staged: Path) -> None:
        (staged / ".submitting").touch()
        node.tell("squeue", "")
        assert submit(node, staged).exit_code == 75
        assert node.calls("sbatch") == []

    def test_a_job_that_was_set_aside_is_not_taken_again(self, node: LoginNode, staged: Path) -> None:
        assert said(submit(node, staged)) == "100"
        (staged / "owner").write_text("100\n")
        (staged / "starts" / "100-0").mkdir(parents=True)
        node.tell("sacct", f"100|{KEY}\n")
        node.know(f"100|{KEY}|NODE_FAIL")
        assert said(submit(node, staged, ",100,")) == "101"
        assert (staged / "job.id").read_text() == "101\n"
        assert not (staged / "owner").exists(), "the next job owns the folder"
        assert not (staged / "starts" / "100-0").exists(), "an id may be given out again"
        assert len(list((staged / "retired").glob("100-0.*"))) == 1, "what it wrote is kept"
        assert said(submit(node, staged, ",100,")) == "101"
        assert len(node.calls("sbatch")) == 2

    def test_a_job_that_was_set_aside_and_lives_after_all_is_taken_again(
        self, node: LoginNode, staged: Path
    ) -> None:
        assert said(submit(node, staged)) == "100"
        node.know(f"100|{KEY}|RUNNING")
        assert said(submit(node, staged, ",100,")) == "100"
        assert len(node.calls("sbatch")) == 1

    def test_a_mark_that_a_full_disk_left_empty_does_not_close_the_folder_for_ever(
        self, node: LoginNode, staged: Path
    ) -> None:
        assert said(submit(node, staged)) == "100"
        (staged / "owner").touch()
        node.know()
        assert said(submit(node, staged, ",100,")) == "101"
        assert not (staged / "owner").exists()

    def test_the_owner_of_the_folder_counts_more_than_any_answer(self, node: LoginNode, staged: Path) -> None:
        (staged / ".submitting").touch()
        (staged / "owner").write_text("250\n")
        node.know(f"301|{KEY}|PENDING")
        assert said(submit(node, staged)) == "250"
        assert node.calls("sbatch") == []

    def test_a_damaged_note_of_the_id_is_no_reason_to_submit_again(
        self, node: LoginNode, staged: Path
    ) -> None:
        (staged / ".submitting").touch()
        (staged / "job.id").write_text("30\x001\n")
        node.know(f"301|{KEY}|RUNNING")
        assert said(submit(node, staged)) == "301"
        assert node.calls("sbatch") == []

    def test_looking_for_a_job_submits_none(self, node: LoginNode, staged: Path) -> None:
        assert said(submit(node, staged, mode="find")) == ""
        assert node.calls("sbatch") == []
        node.know(f"301|{KEY}|PENDING")
        assert said(submit(node, staged, mode="find")) == "301"
        assert said(submit(node, staged)) == "301"
        assert node.calls("sbatch") == []

    def test_a_submission_that_fails_is_looked_for_before_the_next_one(
        self, node: LoginNode, staged: Path
    ) -> None:
        fails = f'echo "301|{KEY}|PENDING" >>"$FAKE/squeue.out"\n'
        node.tell("sbatch", err="sbatch: error: Socket timed out on send/recv", code=1, before=fails)
        answer = submit(node, staged)
        assert (answer.exit_code, answer.out) == (1, b"")
        assert said(submit(node, staged)) == "301"
        assert len(node.calls("sbatch")) == 1

    def test_an_sbatch_that_was_killed_may_have_come_through(self, node: LoginNode, staged: Path) -> None:
        node.tell("sbatch", before="kill -9 $$\n")
        assert submit(node, staged).exit_code == 75

    def test_an_id_that_cannot_be_written_down_is_found_again(self, node: LoginNode, staged: Path) -> None:
        (staged / ".job.id.part").symlink_to("/dev/full")
        assert submit(node, staged).exit_code == 75
        assert len(node.calls("sbatch")) == 1
        (staged / ".job.id.part").unlink()
        assert said(submit(node, staged)) == "100"
        assert len(node.calls("sbatch")) == 1

    def test_while_another_submission_hangs_nothing_is_known(self, node: LoginNode, staged: Path) -> None:
        node.install("flock", "#!/bin/sh\nexit 1\n")
        for mode in ("submit", "find"):
            assert submit(node, staged, mode=mode).exit_code == 75
        assert node.calls("sbatch") == []

    @pytest.mark.parametrize("mode", ["submit", "find"])
    def test_a_folder_that_is_not_the_jobs_is_left_alone(
        self, node: LoginNode, staged: Path, mode: str
    ) -> None:
        (staged / ".mqi-job").write_text("d1-2\n")
        assert submit(node, staged, mode=mode).exit_code == 1
        assert submit(node, staged.parent / "gone", mode=mode).exit_code == 3
        assert node.calls("sbatch") == []


class TestSubmitErrors:
    """What the platform makes of the script's answers."""

    @pytest.fixture(autouse=True)
    def _here(self, node: LoginNode, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(slurm, "run_script", node.run_script)

    def test_a_job_is_found_by_its_folder(
        self, node: LoginNode, staged: Path, folder: JobFolder, nowhere: Connection
    ) -> None:
        assert slurm.find(nowhere, folder, NAME, ()) is None
        assert slurm.submit(nowhere, folder, NAME, ("98", "99"), ["--time=10"]) == "100"
        assert slurm.find(nowhere, folder, NAME, ()) == "100"

    @pytest.mark.parametrize(
        "words",
        [
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller",
            "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
            "sbatch: error: If munged is up, restart with --num-threads=10",
        ],
    )
    def test_a_scheduler_that_is_away_is_waited_for(
        self, node: LoginNode, staged: Path, folder: JobFolder, nowhere: Connection, words: str
    ) -> None:
        node.tell("sbatch", err=words, code=1, before="")
        with pytest.raises(SchedulerUnavailableError):
            slurm.submit(nowhere, folder, NAME, (), [])

    def test_a_limit_that_is_reached_is_waited_for_in_words_of_its_own(
        self, node: LoginNode, staged: Path, folder: JobFolder, nowhere: Connection
    ) -> None:
        words = (
            "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates"
            " accounting/QOS policy (job submit limit, user's size and/or time limits)"
        )
        node.tell("sbatch", err=words, code=1, before="")
        with pytest.raises(UnreachableError) as raised:
            slurm.submit(nowhere, folder, NAME, (), [])
        assert raised.value.message.startswith(
            "a limit of the account or QOS is reached: AssocMaxSubmitJobLimit"
        )

    def test_a_refusal_says_why(
        self, node: LoginNode, staged: Path, folder: JobFolder, nowhere: Connection
    ) -> None:
        words = "sbatch: error: Batch job submission failed: Invalid partition name specified"
        node.tell("sbatch", err=words, code=1, before="")
        with pytest.raises(SubmitRejectedError, match="Invalid partition name specified") as raised:
            slurm.submit(nowhere, folder, NAME, (), [])
        assert not isinstance(raised.value, UnreachableError)

    def test_a_full_disk_is_waited_for(
        self, node: LoginNode, staged: Path, folder: JobFolder, nowhere: Connection
    ) -> None:
        node.tell("sbatch", err="sbatch: cannot write: No space left on device", code=1, before="")
        with pytest.raises(DiskFullError):
            slurm.submit(nowhere, folder, NAME, (), [])

    def test_without_its_folder_a_job_was_never_submitted(
        self, folder: JobFolder, nowhere: Connection
    ) -> None:
        assert slurm.find(nowhere, folder, NAME, ()) is None
        with pytest.raises(RemoteCommandError):
            slurm.submit(nowhere, folder, NAME, (), [])

    def test_any_other_failure_does_not_mean_that_there_is_no_job(
        self, node: LoginNode, staged: Path, folder: JobFolder, nowhere: Connection
    ) -> None:
        node.install("awk", "#!/bin/sh\nexit 2\n")
        (staged / ".mqi-job").unlink()
        with pytest.raises(RemoteCommandError):
            slurm.find(nowhere, folder, NAME, ())
        (staged / ".mqi-job").write_text(KEY)
        node.install("flock", "#!/bin/sh\nexit 1\n")
        with pytest.raises(UnreachableError):
            slurm.find(nowhere, folder, NAME, ())

    def test_a_cancellation_without_an_answer_is_no_cancellation(
        self, node: LoginNode, nowhere: Connection
    ) -> None:
        node.tell("squeue", err="Unable to contact slurm controller", code=1)
        with pytest.raises(SchedulerUnavailableError):
            slurm.cancel(nowhere, "100", NAME, KEY)


class TestCancel:
    def test_only_the_job_of_this_name_and_comment_is_cancelled(self, node: LoginNode) -> None:
        node.tell("squeue", f"JOBID|COMMENT\n100|{KEY}\n101|d1-2\n")
        assert node.run("cancel", "100", NAME, KEY).exit_code == 0
        assert node.calls("scancel") == ["scancel [100]"]
        assert f"[--name={NAME}]" in node.calls("squeue")[0]

    @pytest.mark.parametrize("queue", [f"1000|{KEY}", f"100|{KEY}1", "100|", "", f"10|{KEY}", f"x100|{KEY}"])
    def test_an_id_that_belongs_to_another_job_is_left_alone(self, node: LoginNode, queue: str) -> None:
        node.tell("squeue", f"JOBID|COMMENT\n{queue}\n")
        assert node.run("cancel", "100", NAME, KEY).exit_code == 0
        assert node.calls("scancel") == []

    def test_no_answer_is_told(self, node: LoginNode) -> None:
        node.tell("squeue", code=1)
        assert node.run("cancel", "100", NAME, KEY).exit_code == 75
        node.tell("squeue", "")
        assert node.run("cancel", "100", NAME, KEY).exit_code == 75, "an answer has a head"
        assert node.calls("scancel") == []
        node.tell("squeue", f"JOBID|COMMENT\n100|{KEY}\n")
        node.tell("scancel", code=1)
        assert node.run("cancel", "100", NAME, KEY).exit_code == 75


class TestRemove:
    def remove(self, node: LoginNode, root: Path | str, place: str = "P1.fx0001/b01") -> int:
        return node.run("remove", str(root), place, KEY).exit_code

    def test_a_jobs_folder_goes_and_its_neighbours_stay(
        self, node: LoginNode, root: Path, staged: Path
    ) -> None:
        (staged / "starts" / "100-0").mkdir(parents=True)
        neighbour = staged.with_name("d1-11")
        neighbour.mkdir()
        for left in (f".{KEY}.part", f".{KEY}.lock"):
            (staged.parent / left).touch()
        interrupted, others = root / ".trash" / f"{KEY}.1.2", root / ".trash" / "d1-11.1.2"
        interrupted.mkdir(parents=True)
        others.mkdir()
        assert self.remove(node, root) == 0
        assert [path.name for path in staged.parent.iterdir()] == ["d1-11"]
        assert [path.name for path in (root / ".trash").iterdir()] == ["d1-11.1.2"]
        neighbour.rmdir()
        assert self.remove(node, root) == 0, "again"
        assert not (root / "P1.fx0001").exists(), "empty folders of the place go too"
        assert root.is_dir()

    def test_what_is_gone_already_is_removed(self, node: LoginNode, root: Path) -> None:
        assert self.remove(node, root) == 0
        assert self.remove(node, root / "never" / "made") == 0

    def test_the_root_is_never_slash_or_the_home(self, node: LoginNode) -> None:
        held = node.home / "P1.fx0001" / "b01" / KEY
        held.mkdir(parents=True)
        (held / ".mqi-job").write_text(KEY)
        assert self.remove(node, node.home) == 3
        assert self.remove(node, "/") == 3
        link = node.home.with_name("link")
        link.symlink_to(node.home)
        assert self.remove(node, link) == 3
        assert held.is_dir()

    @pytest.mark.parametrize("marker", [None, "", "d1-2", "d1-1x"])
    def test_a_folder_without_our_marker_stays(
        self, node: LoginNode, root: Path, staged: Path, marker: str | None
    ) -> None:
        (staged / ".mqi-job").unlink()
        if marker is not None:
            (staged / ".mqi-job").write_text(marker)
        assert self.remove(node, root) == 5
        assert staged.is_dir()

    @pytest.mark.parametrize("link", ["P1.fx0001", "P1.fx0001/b01", f"P1.fx0001/b01/{KEY}"])
    def test_a_link_on_the_way_stops_it(
        self, node: LoginNode, root: Path, staged: Path, tmp_path: Path, link: str
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        (root / link).rename(elsewhere)
        (root / link).symlink_to(elsewhere)
        assert self.remove(node, root) == 4
        assert [path.name for path in elsewhere.rglob(".mqi-job")] == [".mqi-job"]


class TestPoll:
    @pytest.fixture(autouse=True)
    def _here(self, node: LoginNode, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(polling, "run_script", node.run_script)

    def rows(self, *rows: tuple[str, ...]) -> str:
        return "".join(f"{S.join(row)}\n" for row in rows)

    def queue(self, node: LoginNode, *rows: tuple[str, ...]) -> None:
        node.tell("squeue", f"{QUEUE_HEAD}\n{self.rows(*rows)}")

    def start(self, folder: Path, name: str, text: str) -> None:
        (folder / "starts" / name).mkdir(parents=True)
        (folder / "starts" / name / "result.json").write_text(text)

    def test_only_what_the_queue_holds_no_more_as_live_is_asked_after(
        self, node: LoginNode, folder: JobFolder, staged: Path, nowhere: Connection
    ) -> None:
        self.queue(
            node,
            ("100", "RUNNING", "None", NAME, KEY, SUBMITTED, "n1"),
            ("101", "COMPLETED", "None", NAME, KEY, SUBMITTED, "n1"),
            ("103", "WARPED", "None", NAME, KEY, SUBMITTED, "n1"),
            ("900", "RUNNING", "None", "somebody", "", SUBMITTED, "n1"),
        )
        node.tell("sacct", self.rows(("101", "COMPLETED", "0:0", NAME, KEY, SUBMITTED, "n1")))
        self.start(staged, "101-0", result_text("101") + "\n")
        self.start(staged, "1010-0", result_text("1010") + "\n")
        (staged / "owner").write_text("101\n")
        found = polling.poll_jobs(nowhere, [(one, folder) for one in ("100", "101", "102", "103")])
        assert sorted(found.queue) == ["100", "101", "103", "900"]
        assert list(found.history) == ["101"]
        assert list(found.results) == [(str(folder.path), "101")]
        assert found.owners == {str(folder.path): "101"}
        (call,) = node.calls("sacct")
        assert "[-j] [101,102,103]" in call
        assert len(node.calls("squeue")) == 1
        assert node.calls("scontrol") == []

    def test_an_id_that_was_given_out_again_hides_no_end(
        self, node: LoginNode, folder: JobFolder, staged: Path, nowhere: Connection
    ) -> None:
        other = JobFolder(folder.root, ("P2.fx0001", "b01"), "e2-1")
        self.queue(node, ("100", "RUNNING", "None", "moqui_P2.fx0001__b01", other.key, SUBMITTED, "n1"))
        node.tell("sacct", self.rows(("100", "RUNNING", "0:0", "other", other.key, SUBMITTED, "n1")))
        self.start(staged, "100-0", result_text(exit_code=3) + "\n")
        (staged / "owner").write_text("100\n")
        found = polling.poll_jobs(nowhere, [("100", folder), ("100", other)])
        assert {whose: one.exit_code for whose, one in found.results.items()} == {
            (str(folder.path), "100"): 3
        }
        assert found.owners == {str(folder.path): "100"}
        self.start(Path(other.path), "100-0", result_text(exit_code=0) + "\n")
        self.queue(node)
        found = polling.poll_jobs(nowhere, [("100", folder), ("100", other)])
        assert {folder: one.exit_code for (folder, _), one in found.results.items()} == {
            str(folder.path): 3,
            str(other.path): 0,
        }
        assert "[-j] [100]" in node.calls("sacct")[-1]

    def test_where_every_job_lives_one_question_is_enough(
        self, node: LoginNode, folder: JobFolder, nowhere: Connection
    ) -> None:
        self.queue(node, ("100", "PENDING", "Priority", NAME, KEY, SUBMITTED, ""))
        assert polling.poll_jobs(nowhere, [("100", folder)]).queue["100"].reason == "Priority"
        assert node.calls("sacct") == []

    def test_a_queue_that_fails_ends_the_look(
        self, node: LoginNode, folder: JobFolder, staged: Path, nowhere: Connection
    ) -> None:
        node.tell("squeue", err="slurm_load_jobs error: @Unable to contact slurm controller", code=1)
        self.start(staged, "100-0", result_text())
        with pytest.raises(SchedulerUnavailableError, match="Unable to contact slurm controller"):
            polling.poll_jobs(nowhere, [("100", folder)])
        assert node.calls("sacct") == []

    def test_without_accounting_the_controller_is_asked_for_what_has_no_result(
        self, node: LoginNode, folder: JobFolder, staged: Path, nowhere: Connection
    ) -> None:
        self.queue(node)
        node.tell("sacct", code=1, err="slurmdbd is down")
        node.tell("scontrol", f"JobId=101 JobName={NAME} Comment={KEY} JobState=TIMEOUT ExitCode=0:15\n")
        self.start(staged, "100-0", result_text() + "\n")
        found = polling.poll_jobs(nowhere, [("100", folder), ("101", folder)])
        assert node.calls("scontrol") == ["scontrol [-o] [show] [job] [101]"]
        assert found.history["101"].state == "TIMEOUT"
        assert list(found.results) == [(str(folder.path), "100")]

    def test_a_file_that_goes_while_it_is_read_hides_no_other(
        self, node: LoginNode, folder: JobFolder, staged: Path, nowhere: Connection
    ) -> None:
        self.queue(node)
        self.start(staged, "100-0", result_text() + "\n")
        (staged / "owner").write_text("100\n")
        real = shutil.which("head")
        node.install("head", f'#!/bin/sh\nrm -f "{staged}/owner"\nexec {real} "$@"\n')
        found = polling.poll_jobs(nowhere, [("100", folder)])
        assert (list(found.results), found.owners) == ([(str(folder.path), "100")], {})

    def test_a_half_written_result_hides_no_other(
        self, node: LoginNode, folder: JobFolder, staged: Path, nowhere: Connection
    ) -> None:
        self.queue(node)
        self.start(staged, "100-0", result_text("100")[:40])
        self.start(staged, "101-0", result_text("101"))
        found = polling.poll_jobs(nowhere, [("100", folder), ("101", folder)])
        assert list(found.results) == [(str(folder.path), "101")]

    def test_a_thousand_files_hide_none_also_without_line_ends(
        self, node: LoginNode, folder: JobFolder, staged: Path, nowhere: Connection
    ) -> None:
        self.queue(node)
        ids = [str(number) for number in range(1000, 1600)]
        for job_id in ids:
            self.start(staged, f"{job_id}-0", result_text(job_id))
        (staged / "owner").write_text("1000")
        found = polling.poll_jobs(nowhere, [(one, folder) for one in ids])
        assert sorted(job_id for _, job_id in found.results) == ids
        assert found.owners == {str(folder.path): "1000"}
