"""Stand-ins for models on a GPU that fail as real ones do: what is tried instead, and what is left alone."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from mqi_dagster.backoff import Backoff
from mqi_dagster.compute import segmentation_run
from mqi_dagster.errors import InfrastructureError, MqiError
from mqi_dagster.execution.gpus import Gpu
from mqi_dagster.execution.job import Job, JobHandle, JobStatus
from mqi_dagster.execution.local import LocalExecutor
from mqi_dagster.imaging.models.card import ModelCard
from mqi_dagster.imaging.models.job_files import JobFailure, failure_in
from mqi_dagster.imaging.models.model_errors import ModelError, ModelTimeoutError
from mqi_dagster.imaging.models.segment_job import cause_of
from mqi_dagster.imaging.segmentation_files import Segmentation as Record
from mqi_dagster.imaging.segmentation_files import SegmentationState
from mqi_dagster.lifecycle import boundary
from mqi_dagster.operations.course_report import ModelRow, course_details
from mqi_dagster.processes.causes import Cause
from mqi_dagster.processes.levels import Device, Level
from mqi_dagster.resources import gpu_pool
from mqi_dagster.settings.radiotherapy import Segmentation
from tests.assets.radiotherapy.course_site import CUSTOM, CourseSite, error_of, write_course, write_program
from tests.assets.radiotherapy.test_segmentation import ANSWER, records
from tests.imaging.models.model_folders import card

GPU = Gpu(index=0, uuid="GPU-7", name="stand-in", memory_mb=24_000, used_mb=10)
ON_GPU = "if on == 'gpu':\n    "
ON_ANY_GPU = "if device == 'gpu':\n    "
OOM = (
    "sys.exit('torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total"
    " capacity of 23.69 GiB of which 0.31 GiB is free.')\n"
)
CUBLAS = (
    "sys.exit('RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`')\n"
)
FAULTS = {
    # To the processor, by way of pieces.
    "full": ON_ANY_GPU + OOM,
    # Pieces are enough.
    "cublas": ON_GPU + CUBLAS,
    "killed": ON_GPU + "os.kill(os.getpid(), signal.SIGKILL)\n",
    "memory": ON_GPU + "raise MemoryError\n",
    # No want of memory.
    "words": "sys.exit('ValueError: zoom factor of the room is no bloom')\n",
    "quota": (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    ),
}


def _raised_from(cause: OSError) -> InfrastructureError:
    error = InfrastructureError("files of a model cannot be used: Disk quota exceeded")
    error.__cause__ = cause
    return error


PIECES, CPU = "again at 1 worker on gpu in pieces", "again at 1 worker on cpu"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    """What became of every stand-in and of a sound model, in one step of one course."""
    folder = tmp_path_factory.mktemp("faulty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_pool, "local_gpus", lambda: [GPU])
        write_course(folder / "dicom")
        for name, script in FAULTS.items():
            write_program(folder / "models", name, script + ANSWER)
        write_program(folder / "models", "whole", ON_GPU + OOM + ANSWER, section={"in_pieces": []})
        write_program(folder / "models", "sound", ANSWER)
        site = CourseSite.of(folder, custom_models={"root": "models"}, segmentation={"device": "gpu"})
        assert site.run(CUSTOM).success
        assert site.site.ledger.leases.all() == []
        assert not list((folder / "state" / "work").iterdir())
        return records(site)


@pytest.mark.parametrize(
    ("name", "made", "steps"),
    [
        ("full", True, [("GPU memory", PIECES), ("GPU memory", CPU)]),
        ("cublas", True, [("GPU memory", PIECES)]),
        ("killed", True, [("killed", PIECES)]),
        ("memory", True, [("memory", PIECES)]),
        ("words", False, [("crashed", "failed")]),
        ("quota", False, [("crashed", "failed")]),
        # Without pieces there is nothing between the GPU and the processor.
        ("whole", True, [("GPU memory", CPU)]),
        ("sound", True, []),
    ],
)
def test_fault_leads_to_the_right_step_and_nowhere_else(
    faulty: dict[str, Record], name: str, made: bool, steps: list[tuple[str, str]]
) -> None:
    found = faulty[name]
    told = [step.split(": ") for step in found.steps]
    assert [(one[2].split(", ")[0], one[-1]) for one in told] == steps
    assert found.state is (SegmentationState.MADE if made else SegmentationState.FAILED)
    # 351 pixels of a plane are above 0 HU in each of 24.
    assert [region.voxels for region in found.regions] == (
        [faulty["sound"].regions[0].voxels] if made else []
    )


def test_fallback_that_is_forbidden_ends_on_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_pool, "local_gpus", lambda: [GPU])
    write_course(tmp_path / "dicom")
    write_program(tmp_path / "models", "full", ON_ANY_GPU + OOM + ANSWER)
    site = CourseSite.of(
        tmp_path,
        custom_models={"root": "models"},
        segmentation={"device": "gpu", "allow_fallback": False, "force_split": True},
    )
    assert site.run(CUSTOM).success
    found = records(site)["full"]
    assert found.state is SegmentationState.FAILED
    assert [step.split(": ")[1] for step in found.steps] == ["try 1 at 1 worker on gpu in pieces"]
    assert found.reason.startswith(
        "its program ended with exit code 1: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate"
    )


def test_a_failure_says_what_its_program_has_printed_without_paths_and_names_its_log(tmp_path: Path) -> None:
    write_course(tmp_path / "dicom")
    script = (
        "print('/home/jane.doe/models/net.pth loaded')\n"
        "print('\\n'.join(f'step {number}' for number in range(9)), flush=True)\n"
        "raise ValueError('\\x1b[31m no spacing in ' + given + ' ' + 'x' * 500)\n"
    )
    write_program(tmp_path / "models", "broken", script)
    site = CourseSite.of(tmp_path, custom_models={"root": "models"})
    assert site.run(CUSTOM).success
    reason = records(site)["broken"].reason
    assert reason.startswith(
        "its program ended with exit code 1: ValueError: \\x1b[31m no spacing in [redacted] xxx"
    )
    assert '(before it: step 8 | Traceback (most recent call last): | File "[redacted]", line ' in reason
    assert len(reason) < 900 and "step 7" not in reason and str(tmp_path) not in reason
    (model,) = (one for one in course_models(site) if one.model == "broken")
    assert model.log is not None and f"; log: {model.log.name}" in reason
    log = model.log.read_text()
    assert "[redacted] loaded" in log and "step 0" in log and "jane.doe" not in log


def course_models(site: CourseSite) -> list[ModelRow]:
    """What is told of the models of a course."""
    return list(course_details(site.instance, site.site, site.key).models)


@pytest.fixture
def stepped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CourseSite:
    """A course whose model found too little memory on the GPU, and went on in pieces."""
    monkeypatch.setattr(gpu_pool, "local_gpus", lambda: [GPU])
    write_course(tmp_path / "dicom")
    # Whether it is whole is for a file beside the script to say, which is no part of the program.
    full = "if on == 'gpu' and not (here / 'more').is_file():\n    "
    write_program(tmp_path / "models", "model", full + OOM + ANSWER)
    site = CourseSite.of(tmp_path, custom_models={"root": "models"}, segmentation={"device": "gpu"})
    assert site.run(CUSTOM).success
    assert len(records(site)["model"].steps) == 1 and site.starts == 2
    return site


def test_what_was_made_in_pieces_has_another_digest_than_the_whole(
    stepped: CourseSite, tmp_path: Path
) -> None:
    in_pieces = stepped.published("custom_segmentation")
    (tmp_path / "models" / "model" / "more").touch()
    stepped.site.store.discard(in_pieces.folder)
    assert stepped.run(CUSTOM).success
    whole = stepped.published("custom_segmentation")
    assert records(stepped)["model"].steps == ()
    assert whole.digest != in_pieces.digest


@pytest.mark.slow
def test_what_was_made_in_pieces_is_not_made_again_and_is_taken_over_with_what_is_new(
    stepped: CourseSite, tmp_path: Path
) -> None:
    in_pieces = stepped.published("custom_segmentation").digest
    (tmp_path / "models" / "model" / "more").touch()
    assert stepped.run(CUSTOM).success
    assert (stepped.starts, stepped.published("custom_segmentation").digest) == (2, in_pieces)

    write_program(tmp_path / "models", "second", ANSWER)
    assert stepped.run(CUSTOM).success
    assert (stepped.starts, len(records(stepped)["model"].steps)) == (3, 1)
    with_second = stepped.published("custom_segmentation").digest
    assert stepped.run(CUSTOM).success
    assert (stepped.starts, stepped.published("custom_segmentation").digest) == (3, with_second)

    # Asked for in pieces it is another thing that is asked for, and the processor yet another.
    stepped.change(custom_models={"root": "models"}, segmentation={"device": "gpu", "force_split": True})
    assert stepped.run(CUSTOM).success
    assert stepped.starts == 5
    stepped.change(custom_models={"root": "models"})
    assert stepped.run(CUSTOM).success
    assert stepped.starts == 7


def test_gpu_is_leased_while_the_model_runs_and_told_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_pool, "local_gpus", lambda: [GPU])
    write_course(tmp_path / "dicom")
    tell = "(here / 'gpu').write_text(os.environ['CUDA_VISIBLE_DEVICES'])\n"
    write_program(tmp_path / "models", "told", tell + ANSWER)
    site = CourseSite.of(tmp_path, custom_models={"root": "models"}, segmentation={"device": "gpu"})
    held: set[tuple[str, ...]] = set()
    poll = LocalExecutor.poll

    def seen(executor: LocalExecutor, job: Job, handle: JobHandle) -> JobStatus:
        held.add(tuple(f"{one.partition} {one.kind}{one.slots[0].index}" for one in leases.all()))
        # Networks that run in the job itself see it there.
        assert job.environment["CUDA_VISIBLE_DEVICES"] == "GPU-7"
        return poll(executor, job, handle)

    leases = site.site.ledger.leases
    monkeypatch.setattr(LocalExecutor, "poll", seen)
    assert site.run(CUSTOM).success
    assert held == {(f"{site.key} gpu0",)}
    assert leases.all() == []
    assert (tmp_path / "models" / "told" / "gpu").read_text() == "GPU-7"


@pytest.mark.slow
def test_model_that_hangs_is_ended_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmentation_run, "_BACKOFF", Backoff(0.01, 0.01))
    write_course(tmp_path / "dicom")
    once = "mark = here / 'began'\nif not mark.exists():\n    mark.touch()\n    signal.pause()\n"
    write_program(tmp_path / "models", "once", once + ANSWER, section={"time_limit_s": 3})
    site = CourseSite.of(tmp_path, custom_models={"root": "models"}, execution={"attempts": 2})
    assert site.run(CUSTOM).success
    found = records(site)["once"]
    assert found.state is SegmentationState.MADE
    assert len(found.steps) == 1 and "time limit, it ran longer than 3 s" in found.steps[0]
    outcomes = [one.outcome for one in site.site.ledger.attempts.history(site.key)]
    assert sorted(map(str, outcomes)) == ["failed", "succeeded"]


@pytest.mark.slow
def test_job_that_runs_longer_than_the_setting_is_ended(tmp_path: Path) -> None:
    write_course(tmp_path / "dicom")
    write_program(
        tmp_path / "models", "hangs", "(here / 'pid').write_text(str(os.getpid()))\nsignal.pause()\n"
    )
    site = CourseSite.of(tmp_path, custom_models={"root": "models"}, segmentation={"timeout_seconds": 4})
    assert site.run(CUSTOM).success
    found = records(site)["hangs"]
    assert found.state is SegmentationState.FAILED
    assert found.reason == "ran longer than 4 s (radiotherapy.segmentation.timeout_seconds)"
    pid = (tmp_path / "models" / "hangs" / "pid").read_text()
    assert not Path("/proc", pid).exists(), "the model's own program has ended as well"


def test_disk_that_is_full_fails_the_step_and_gives_everything_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_course(tmp_path / "dicom")
    write_program(tmp_path / "models", "any", "sys.exit(1)\n")
    site = CourseSite.of(tmp_path, custom_models={"root": "models"})
    reason = "files of a model cannot be used: No space left on device"
    full = JobFailure(cause=Cause.DISK_FULL, reason=reason, infrastructure=True)
    monkeypatch.setattr(boundary, "_TRIES", 0)
    monkeypatch.setattr(segmentation_run, "failure_in", lambda _: full)

    result = site.run(CUSTOM)

    assert not result.success
    assert reason in error_of(result)
    assert site.site.ledger.leases.all() == []
    assert {one.outcome for one in site.site.ledger.attempts.history(site.key)} == {"lost"}


def test_without_a_gpu_the_setting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_pool, "local_gpus", list)
    write_course(tmp_path / "dicom")
    write_program(tmp_path / "models", "any", ANSWER)
    site = CourseSite.of(tmp_path, custom_models={"root": "models"}, segmentation={"device": "gpu"})
    told = error_of(site.run(CUSTOM))
    assert "radiotherapy.segmentation.device is gpu, and this machine shows no GPU" in told
    assert "allow_fallback is for want of GPU memory alone" in told
    assert "--totalseg-device cpu" in told


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ModelError("its program ended", exit_code=1, log="std::bad_alloc"), Cause.MEMORY),
        (
            ModelError("its program ended", exit_code=-9, log="RuntimeError: CUDA out of memory"),
            Cause.GPU_MEMORY,
        ),
        (ModelError("its program ended", exit_code=-9), Cause.KILLED),
        # As a container tells of it.
        (ModelError("its program ended", exit_code=137), Cause.KILLED),
        (ModelError("its program ended", exit_code=1, log="zoom, room, bloom"), Cause.CRASHED),
        (ModelError("it has left no label map"), Cause.ERROR),
        (ModelTimeoutError("it ran longer than 3 s and was ended"), Cause.TIME_LIMIT),
        (MemoryError(), Cause.MEMORY),
        (InfrastructureError("files of a model cannot be used"), Cause.ERROR),
        (_raised_from(OSError(errno.EDQUOT, "Disk quota exceeded")), Cause.DISK_FULL),
    ],
)
def test_cause_is_judged_by_what_a_model_has_left(error: MqiError | MemoryError, cause: Cause) -> None:
    assert cause_of(error) is cause


def test_last_line_of_a_log_alone_is_believed() -> None:
    told = JobFailure(cause=Cause.KILLED, reason="its program was ended by signal 9", infrastructure=False)
    assert failure_in(f"CUDA out of memory\n{told.line}\n") == told
    assert failure_in(f"{told.line}\nTraceback (most recent call last):\n") is None
    assert failure_in("mqi-model-failure {}\n") is failure_in("") is None


def test_interrupt_ends_the_model_and_frees_its_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_course(tmp_path / "dicom")
    hang = (
        "(here / 'part').write_text(str(os.getpid()))\n(here / 'part').rename(here / 'pid')\nsignal.pause()\n"
    )
    folder = write_program(tmp_path / "models", "hangs", hang)
    site = CourseSite.of(tmp_path, custom_models={"root": "models"})
    poll, told = LocalExecutor.poll, list[str]()

    def interrupted(executor: LocalExecutor, job: Job, handle: JobHandle) -> JobStatus:
        if (folder / "pid").exists() and not told:
            report = site.site.ledger.progress.get(site.key)
            assert report is not None
            told.append(f"{report.phase}: {report.message}")
            raise KeyboardInterrupt
        return poll(executor, job, handle)

    monkeypatch.setattr(LocalExecutor, "poll", interrupted)
    assert not site.run(CUSTOM).success
    assert len(told) == 1 and told[0].startswith("segmenting: hangs on S") and told[0].endswith(", 1 of 1")
    assert not Path("/proc", (folder / "pid").read_text()).exists()
    assert site.site.ledger.leases.all() == []
    assert [str(one.outcome) for one in site.site.ledger.attempts.history(site.key)] == ["lost"]
    assert list((tmp_path / "state" / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("level", "cause", "pieces", "fallback", "after"),
    [
        (Device.GPU, Cause.GPU_MEMORY, True, False, Device.GPU_IN_PIECES),
        (Device.GPU, Cause.GPU_MEMORY, False, True, Device.CPU),
        (Device.GPU, Cause.GPU_MEMORY, False, False, None),
        (Device.GPU_IN_PIECES, Cause.GPU_MEMORY, True, False, None),
        (Device.GPU, Cause.KILLED, False, True, Device.GPU),
        (Device.GPU, Cause.MEMORY, False, True, None),
        (Device.CPU, Cause.KILLED, True, True, Device.CPU),
        (Device.CPU, Cause.MEMORY, True, True, None),
        (Device.GPU, Cause.ERROR, True, True, None),
        (Device.GPU, Cause.TIME_LIMIT, True, True, Device.GPU),
    ],
)
def test_next_level_of_a_model(
    level: Device, cause: Cause, pieces: bool, fallback: bool, after: Device | None
) -> None:
    section = {"argv": ["/bin/true", "{input:CT}", "{output}"], "in_pieces": ["-p"] if pieces else []}
    model = ModelCard.model_validate(card("command", section))
    options = Segmentation.model_validate({"allow_fallback": fallback})
    found = segmentation_run.lower(Level(1, level), cause, model, options, retry=True)
    assert (None if found is None else found.device) is after


def test_gpu_of_a_mac_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="mps is the GPU of a Mac, and models run on Linux: gpu or cpu"):
        Segmentation.model_validate({"device": "mps"})
