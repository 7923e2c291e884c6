"""What workers make is what this machine makes: a model's label map, and a beam's dose, bit for bit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pydicom
import pytest

from mqi_dagster.execution.local import LocalExecutor
from mqi_dagster.execution.work import Device, End, GpuNeed, Needs, Offer, Work
from mqi_dagster.imaging.models.job_files import JobOptions, ModelJob, write_job
from mqi_dagster.imaging.segmentation_files import SegmentationState
from mqi_dagster.worker.configuration import Configuration
from mqi_dagster.worker.programs import Programs
from tests.assets.radiotherapy.course_site import AUTO, CourseSite, write_course
from tests.assets.radiotherapy.test_segmentation import records
from tests.chain.chain import Chain, mcsquare_engine
from tests.pull.conftest import MakeLab
from tests.waiting import wait_for

ENGINE = [sys.executable, "-m", "mqi_dagster.embedded_engine.command"]
PULL = {"hosts": {"lab": {"pull": {"lease_seconds": 30}}}}
IDENTITY = ("IDENTIFYING-0815", "Doe", "Jane")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_course_is_segmented_by_a_worker_as_it_is_here(tmp_path: Path, make_lab: MakeLab) -> None:
    for name in ("here", "there"):
        write_course(tmp_path / name / "dicom")
    here = CourseSite.of(tmp_path / "here")
    assert here.run(AUTO).success
    there = CourseSite.of(tmp_path / "there", segmentation={"host": "lab"}, hosts=PULL["hosts"])
    lab = make_lab(settings_file=there.folder / "mqi.yaml")
    lab.serve()
    lab.work("one")
    assert there.run(AUTO).success, lab.report()
    found, wanted = records(there, "auto_segmentation"), records(here, "auto_segmentation")
    assert found["rules_ct"].state is SegmentationState.MADE
    assert found["rules_ct"].regions == wanted["rules_ct"].regions
    maps = [
        site.published("auto_segmentation").path(f"{found['rules_ct'].folder}/segmentation.nii.gz")
        for site in (here, there)
    ]
    assert maps[0].read_bytes() == maps[1].read_bytes()
    assert [row.worker for row in there.site.ledger.work.all()] == ["one"]
    assert there.site.ledger.leases.all() == []
    told = lab.said("one") + (lab.folder / "server.log").read_text()
    assert not any(word in told for word in IDENTITY)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_beam_that_a_worker_has_simulated_has_the_bits_of_one_simulated_here(
    tmp_path: Path, make_lab: MakeLab
) -> None:
    local = Chain(tmp_path / "here", {"engine": mcsquare_engine()})
    far = Chain(
        tmp_path / "there",
        {"engine": mcsquare_engine(), "execution": {"simulation": "lab"}, **PULL},
    )
    for chain in (local, far):
        chain.deliver(seed=5)
    lab = make_lab(settings_file=far.settings_file)
    lab.serve()
    seen = tmp_path / "seen"
    spy = tmp_path / "spy.py"
    spy.write_text(
        "import pathlib, shutil, subprocess, sys\n"
        f"shutil.copytree(pathlib.Path(sys.argv[1]).parent, {str(seen)!r}, dirs_exist_ok=True)\n"
        f"sys.exit(subprocess.run([*{ENGINE!r}, sys.argv[1]]).returncode)\n"
    )
    engine = {"command": [sys.executable, str(spy), "{tps}"], "version_command": [*ENGINE, "--version"]}
    lab.work("one", programs={"engine": engine})
    wait_for(lambda: lab.site.ledger.workers.all(), "the worker asks for work", report=lab.report)
    keys = []
    for chain in (local, far):
        chain.tick("case_arrivals")
        first = chain.tick("beams_to_simulate", launch=False)[0]
        keys.append(str(first.partition_key))
        outcome = chain.run("beam", keys[-1])
        assert outcome.success, f"{outcome.error}\n{lab.report()}"
    assert keys[0] == keys[1]
    key = keys[0]
    assert local.digest("raw_dose", key) == far.digest("raw_dose", key)
    doses = [
        {name: digest for name, digest in chain.published(key).items() if name.endswith(".raw")}
        for chain in (local, far)
    ]
    assert doses[0] == doses[1] and doses[0]
    assert [row.worker for row in lab.site.ledger.work.all()] == ["one"]
    content = b"".join(path.read_bytes() for path in sorted(seen.rglob("*")) if path.is_file())
    kept = (seen, lab.folder / "one", far.settings_file.parent / "state" / "pull")
    names = [str(path) for folder in kept for path in folder.rglob("*")]
    logs = [lab.said("one"), (lab.folder / "server.log").read_text()]
    content += "\n".join([*names, *logs, *(row.request for row in lab.site.ledger.work.all())]).encode()
    told = pydicom.dcmread(next(far.inbox.rglob("*.dcm")))
    for identity in (told.PatientID, str(told.PatientName), told.PatientBirthDate):
        assert identity and str(identity).encode() not in content
    assert not list((lab.folder / "one" / "work" / "jobs").glob("*"))


GPU = Device(kind="gpu", index=0, uuid="GPU-1", memory_mb=8000)
CPU = Device(kind="cpu", index=0)
STAND_IN = """\
import json, os, pathlib, sys
options = json.loads(pathlib.Path("job.json").read_text())["options"]
with open(sys.argv[1], "a") as stream:
    stream.write(json.dumps([options["device"], options["in_pieces"], options["gpu"],
                             os.environ["CUDA_VISIBLE_DEVICES"]]) + "\\n")
said = dict(pair.split("=") for pair in sys.argv[2:])
level = "pieces" if options["in_pieces"] else options["device"]
if level in said:
    print(said[level])
    sys.exit(1)
os.makedirs("outputs", exist_ok=True)
pathlib.Path("outputs/segmentation.nii.gz").write_text("made")
"""
CUDA = "CUDA out of memory"


@pytest.mark.parametrize(
    ("device", "gpu", "fails", "end", "levels"),
    [
        (GPU, GpuNeed.WANTED, {}, End.COMPLETE, ["gpu"]),
        (GPU, GpuNeed.WANTED, {"gpu": CUDA}, End.COMPLETE, ["gpu", "pieces"]),
        (GPU, GpuNeed.WANTED, {"gpu": CUDA, "pieces": CUDA}, End.COMPLETE, ["gpu", "pieces", "cpu"]),
        (GPU, GpuNeed.NEEDED, {"gpu": CUDA, "pieces": CUDA}, End.FAIL, ["gpu", "pieces"]),
        (GPU, GpuNeed.WANTED, {"gpu": "zoom factor must be positive"}, End.FAIL, ["gpu"]),
        (GPU, GpuNeed.NO, {}, End.COMPLETE, ["cpu"]),
        (CPU, GpuNeed.WANTED, {}, End.COMPLETE, ["cpu"]),
        (CPU, GpuNeed.WANTED, {"cpu": "MemoryError"}, End.FAIL, ["cpu"]),
    ],
)
def test_a_worker_goes_on_with_less_where_memory_did_not_suffice(
    tmp_path: Path, device: Device, gpu: GpuNeed, fails: dict[str, str], end: End, levels: list[str]
) -> None:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    trace, folder = tmp_path / "trace", tmp_path / "job"
    folder.mkdir()
    said = [f"{level}={words}" for level, words in fails.items()]
    command = [sys.executable, str(tmp_path / "stand_in.py"), str(trace), *said]
    write_model(tmp_path / "models")
    programs = Programs(
        Configuration.model_validate(
            {
                "folder": str(tmp_path),
                "device": "cpu",
                "models": str(tmp_path / "models"),
                "programs": {"segment": {"command": command}},
            }
        )
    )
    options: dict[str, Any] = dict.fromkeys(JobOptions.model_fields)
    options |= {"device": "cpu" if gpu is GpuNeed.NO else "gpu", "threads": 9, "in_pieces": False}
    options["require_isolation"] = False
    told = ModelJob(model="pieces", card_sha256="a" * 64, root=None, options=JobOptions(**options))
    write_job(told, folder)
    offer = Offer(
        id="0" * 32,
        lease="x",
        lease_seconds=1,
        work=Work(needs=Needs(program="segment", gpu=gpu)),
        manifest={},
        outputs=("outputs/segmentation.nii.gz",),
        timeout_seconds=60,
        success_exit_codes=(0,),
    )
    executor, lines = LocalExecutor(tmp_path / "state"), list[str]()

    def start(job: Any) -> Any:
        handle = executor.submit(job)
        wait_for(lambda: executor.poll(job, handle).state.ended, "the end of a try")
        return executor.poll(job, handle)

    found, ended = programs.run(offer, device, folder, start, lines.append)
    tried = [json.loads(line) for line in trace.read_text().splitlines()]
    assert ["pieces" if pieces else kind for kind, pieces, _, _ in tried] == levels
    assert found is end
    assert len(ended.steps) == len(levels) - 1
    assert ended.out_of_memory is (end is End.FAIL and "zoom" not in str(fails))
    assert {(one[2], one[3]) for one in tried} == {("GPU-1", "GPU-1") if device is GPU else (None, "")}
    if device is CPU:
        assert lines[0] == "there is no GPU here: the model runs on the processor"


def write_model(root: Path) -> None:
    """A model whose program can work in pieces."""
    from tests.imaging.models.model_folders import card, write_card

    argv = ["true", "{inputs}", "{output}"]
    content = card("command", {"argv": argv, "in_pieces": ["--less"]}, name="pieces")
    write_card(root / "pieces", content)
