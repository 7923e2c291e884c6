"""A segmentation model as a job of a real cluster; its program is a stand-in that keeps the contract."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mqi_dagster.imaging.segmentation_files import SegmentationState
from tests.assets.radiotherapy.course_site import CUSTOM, CourseSite, write_course, write_program
from tests.assets.radiotherapy.test_segmentation import records
from tests.slurm.beams import PYTHON
from tests.slurm.site_on_slurm import HOST, sections

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

STAND_IN = """\
import json, os, pathlib, shutil, sys
here = pathlib.Path(__file__).parent
job = json.loads(pathlib.Path("job.json").read_text())
assert sorted(os.listdir("inputs")) == ["CT.nii.gz"] and job["root"] == "/opt/site/models"
options = job["options"]
if options["device"] == "gpu" and not options["in_pieces"]:
    print("RuntimeError: CUDA out of memory")
    told = {"cause": "GPU memory", "reason": "its program ended", "infrastructure": False}
    print("mqi-model-failure " + json.dumps(told))
    sys.exit(3)
shutil.copy(here / "answer.nii.gz", "outputs/segmentation.nii.gz")
remarks = [os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]]
record = {"device_used": "gpu", "in_pieces": True, "seconds": 1.5, "remarks": remarks}
pathlib.Path("outputs/segmentation.json").write_text(json.dumps(record))
"""


def test_model_runs_on_the_cluster_and_steps_down_there(cluster: Any, shared: Path, tmp_path: Path) -> None:
    write_course(tmp_path / "dicom")
    folder = write_program(tmp_path / "models", "made", "")
    there = shared / tmp_path.name
    there.mkdir()
    (there / "program.py").write_text(STAND_IN)
    shutil.copy(folder / "answer.nii.gz", there)
    for one in (there, *there.iterdir()):
        one.chmod(0o755)
    command = [PYTHON, str(there / "program.py")]
    on_slurm = sections(
        cluster.connection(),
        shared,
        f"{tmp_path.name}.jobs",
        model_command=command,
        models="/opt/site/models",
    )
    site = CourseSite.of(
        tmp_path,
        hosts=on_slurm["hosts"],
        custom_models={"root": "models"},
        segmentation={"host": HOST, "device": "gpu"},
    )

    assert site.run(CUSTOM).success

    found = records(site)["made"]
    assert (found.state, found.device) == (SegmentationState.MADE, "gpu in pieces")
    assert [step.split(": ")[-1] for step in found.steps] == ["again at 1 worker on gpu in pieces"]
    record = json.loads(
        site.published("custom_segmentation").path(f"{found.folder}/segmentation.json").read_text()
    )
    gpu, threads = record["remarks"]
    assert gpu in {"0", "1", "2", "3"} and threads == "1"
    assert site.site.ledger.leases.all() == []
    states = [job.state for job in site.site.ledger.jobs.all(HOST)]
    assert sorted(map(str, states)) == ["failed", "succeeded"]
