"""Courses in containers: the limits of each profile, what the image copies, and a notebook that runs."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import polars as pl
import pytest
import yaml

from mqi_dagster import __version__

ROOT = Path(__file__).resolve().parents[2]
COURSES = ROOT / "deploy" / "courses"
COMPOSE = yaml.safe_load((COURSES / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]


def test_the_processor_profile_has_the_limits_of_the_requirement() -> None:
    service = SERVICES["courses-cpu"]
    assert service["profiles"] == ["cpu-only"]
    assert service["deploy"]["resources"] == {
        "limits": {"cpus": "16.0", "memory": "32G"},
        "reservations": {"cpus": "4.0", "memory": "8G"},
    }
    assert service["command"][-2:] == ["--totalseg-device", "cpu"]


def test_the_gpu_profile_sees_every_gpu_and_has_room_for_shared_arrays() -> None:
    service = SERVICES["courses"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert service["environment"] == {"NVIDIA_VISIBLE_DEVICES": "all"}
    assert service["shm_size"] == "4gb"


def test_files_are_only_read_and_the_notebook_is_on_this_machine_alone_with_a_token_from_outside() -> None:
    for name in ("courses", "courses-cpu"):
        assert [one for one in SERVICES[name]["volumes"] if one.endswith(":/dicom:ro")]
    notebook = SERVICES["notebook"]
    assert notebook["ports"] == ["127.0.0.1:8888:8888"]
    assert notebook["environment"]["JUPYTER_TOKEN"].startswith("${MQI_NOTEBOOK_TOKEN:?")
    assert all(one.endswith(":ro") for one in notebook["volumes"])


def test_every_service_is_unprivileged_and_of_this_version() -> None:
    for service in SERVICES.values():
        assert service["image"].endswith(f":{__version__}")
        assert service["user"] == "mqi"
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_image_is_made_of_what_the_repository_has() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (COURSES / "Dockerfile").read_text(), re.MULTILINE)
    assert [name for line in copied for name in line.split() if not (ROOT / name).exists()] == []


def cells() -> list[str]:
    notebook = json.loads((COURSES / "courses.ipynb").read_text(encoding="utf-8"))
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_reads_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    courses = tmp_path / "data" / "courses"
    tables = courses / "_cohort" / "_course" / "cohort_tables" / "current"
    curves = courses / "RAAAAAAAAA.c01" / "_course" / "dvh" / "current"
    for folder in (tables, curves):
        folder.mkdir(parents=True)
    key = {"course": ["RAAAAAAAAA.c01"], "structure_id": ["s1"]}
    written = {
        "courses": {
            **key,
            "state": "complete",
            "verdict": "PASS",
            "plans": 1,
            "doses": 1,
            "prescription_gy": 60,
        },
        "qc_reports": {**key, "check": "coverage", "verdict": "FAIL", "text": "seen", "advice": "done"},
        "dvh_metrics": {
            **key,
            "ROI_Name": "Lungs",
            "Segmentation_Source": "clinical",
            "dose_metric_status": "measured",
            "Volume (cm³)": 1000.0,
            "DmeanGy": 12.5,
            "D95Gy": 0.5,
            "D2Gy": 55.0,
        },
        "columns": {"table": "dvh_metrics", "name": "DmeanGy", "unit": "Gy", "meaning": "mean dose"},
        "radiomics": {
            **key,
            "status": "computed",
            "roi_name": "Lungs",
            "morph_volume": 1.0e6,
            "morph_sphericity": 0.5,
        },
    }
    for name, columns in written.items():
        pl.DataFrame(columns).write_parquet(tables / f"{name}.parquet")
    curve = {"structure_id": ["s1", "s1"], "dose_gy": [0.0, 60.0], "volume_percent": [100.0, 0.0]}
    pl.DataFrame(curve).write_parquet(curves / "dvh_curves.parquet")
    monkeypatch.setenv("MQI_COURSES", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, object] = {}
    shown: list[object] = []
    for source in cells():
        module = ast.parse(source)
        last = module.body.pop() if isinstance(module.body[-1], ast.Expr) else None
        exec(compile(module, "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
    frames = [one for one in shown if isinstance(one, pl.DataFrame)]
    assert [frame.height for frame in frames] == [1, 1, 1, 1, 1]
    assert frames[2]["DmeanGy"].to_list() == [12.5]
    (line,) = names["axes"].lines  # type: ignore[attr-defined]
    assert line.get_label() == "RAAAAAAAAA.c01"
    assert list(line.get_ydata()) == [100.0, 0.0]
