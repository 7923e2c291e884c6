"""What users of rtpipeline write does what it says here, or is refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.operations.site_folder import RunOptions, make_run_site
from mqi_dagster.settings.rtpipeline import (
    KNOWN,
    Asked,
    asked_for,
    field_at,
    from_configuration,
    from_environment,
    read_configuration,
    refused_option,
)

BASE = Path("/conf")

SET: dict[str, tuple[object, str, object]] = {
    "dicom_root": ("in", "dicom_root", "/conf/in"),
    "max_workers": (6, "workers", 6),
    "workers": ("auto", "workers", "auto"),
    "scheduler.parallel_courses": (3, "workers", 3),
    "segmentation.device": ("gpu", "segmentation.device", "gpu"),
    "segmentation.max_workers": (2, "segmentation.workers", 2),
    "segmentation.workers": (2, "segmentation.workers", 2),
    "segmentation.force_split": (True, "segmentation.force_split", True),
    "segmentation.nr_threads_resample": (1, "segmentation.nr_threads_resample", 1),
    "segmentation.nr_threads_save": (2, "segmentation.nr_threads_save", 2),
    "segmentation.num_proc_preprocessing": (3, "segmentation.num_proc_preprocessing", 3),
    "segmentation.num_proc_export": (4, "segmentation.num_proc_export", 4),
    "custom_models.enabled": (False, "custom_models.enabled", False),
    "custom_models.root": ("models", "custom_models.root", "/conf/models"),
    "custom_models.models": (["one"], "custom_models.models", ["one"]),
    "custom_models.workers": (2, "custom_models.workers", 2),
    "custom_structures": ("s.yaml", "structures.custom_structures", "/conf/s.yaml"),
    "radiomics.enabled": (False, "radiomics.enabled", False),
    "radiomics.sequential": (True, "radiomics.sequential", True),
    "radiomics.params_file": ("/abs/ct.yaml", "radiomics.params_file", "/abs/ct.yaml"),
    "radiomics.mr_params_file": ("mr.yaml", "radiomics.mr_params_file", "/conf/mr.yaml"),
    "radiomics.thread_limit": (4, "radiomics.thread_limit", 4),
    "radiomics.skip_rois": (["body"], "radiomics.skip_rois", ["body"]),
    "radiomics.max_voxels": (100, "radiomics.max_voxels", 100),
    "radiomics.min_voxels": (10, "radiomics.min_voxels", 10),
    "ct_cropping.enabled": (False, "ct_cropping.enabled", False),
    "ct_cropping.region": ("pelvis", "ct_cropping.region", "pelvis"),
    "ct_cropping.superior_margin_cm": (1.5, "ct_cropping.superior_margin_cm", 1.5),
    "ct_cropping.inferior_margin_cm": (10, "ct_cropping.inferior_margin_cm", 10),
    "ct_cropping.use_cropped_for_dvh": (False, "ct_cropping.use_cropped_for_dvh", False),
    "ct_cropping.use_cropped_for_radiomics": (False, "ct_cropping.use_cropped_for_radiomics", False),
    "qc.minimum_images": (5, "qc.minimum_images", 5),
    "dvh.curve_step_gy": (0.2, "dvh.curve_step_gy", 0.2),
}
"""By key of the original, and last two keys of ours: what is written, the field, and what it gets."""
REFUSED: dict[str, tuple[object, str]] = {
    "logs_dir": ("logs", "`state/logs`"),
    "scheduler.reserved_cores": (2, "give `max_workers`"),
    "scheduler.segmentation_threads_per_job": (4, "Snakemake"),
    "scheduler.radiomics_threads_per_job": (4, "Snakemake"),
    "scheduler.dvh_threads_per_job": (4, "Snakemake"),
    "scheduler.prioritize_short_courses": (True, "order of their keys"),
    "segmentation.fast": (True, "the card of a model says it"),
    "segmentation.force": (True, "nothing is forced"),
    "segmentation.roi_subset": (["liver"], "the card of a model says it"),
    "segmentation.extra_models": (["total_mr"], "`segmentation.models`"),
    "custom_models.force": (True, "nothing is forced"),
    "ct_cropping.keep_original": (False, "always kept"),
    "radiomics_robustness.enabled": (True, "are not computed"),
    "environments.main": ("rtpipeline", "one environment"),
    "environments.radiomics": ("rtpipeline-radiomics", "one environment"),
}
VARIABLES: dict[str, tuple[str, str, object]] = {
    "RTPIPELINE_MAX_WORKERS": ("6", "workers", 6),
    "RTPIPELINE_RADIOMICS_WORKERS": ("3", "radiomics.workers", 3),
    "RTPIPELINE_RADIOMICS_THREAD_LIMIT": ("2", "radiomics.thread_limit", 2),
    "RTPIPELINE_RADIOMICS_TASK_TIMEOUT": ("12.5", "radiomics.task_timeout", 12.5),
    "RTPIPELINE_RADIOMICS_SEQUENTIAL": ("1", "radiomics.sequential", True),
    "RTPIPELINE_USE_PARALLEL_RADIOMICS": ("0", "radiomics.sequential", True),
}


def nested(key: str, value: object) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("key", SET)
def test_a_key_sets_its_field(key: str, tmp_path: Path) -> None:
    value, field, got = SET[key]
    asked = from_configuration(nested(key, value), BASE)
    assert asked.values == {field: got}
    # The types of the settings take it.
    make_run_site(tmp_path / "out", RunOptions(radiotherapy=asked.section()))


def test_the_gpu_of_a_mac_is_refused_with_the_reason(tmp_path: Path) -> None:
    asked = from_configuration({"segmentation": {"device": "mps"}}, BASE)
    with pytest.raises(ConfigurationError, match=r"segmentation\.device: mps is .* a Mac.*: gpu or cpu"):
        make_run_site(tmp_path / "out", RunOptions(radiotherapy=asked.section()))
    assert not (tmp_path / "out" / "mqi.yaml").exists()


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_can_do_nothing_is_refused_with_the_reason(key: str) -> None:
    value, why = REFUSED[key]
    with pytest.raises(ConfigurationError) as refused:
        from_configuration(nested(key, value), BASE)
    assert f"{key}: refused: " in str(refused.value) and why in str(refused.value)


def test_every_key_of_the_table_is_tried_here() -> None:
    tried = {*SET, *REFUSED}
    told = {key for known in KNOWN for key in known.keys if "*" not in key}
    ours = {key for key in told if field_at(key) is not None}
    rest = {"output_dir", "merge_criteria", "segmentation.threads_per_worker", "radiomics.max_workers"}
    rest |= {f"custom_models.{name}" for name in ("nnunet_predict", "conda_activate", "retain_weights")}
    assert told - ours - tried == rest
    assert {known.variable for known in KNOWN if known.variable} == {*VARIABLES, "RTPIPELINE_CONFIGFILE"}


@pytest.mark.parametrize("known", [known for known in KNOWN if known.field], ids=lambda known: known.field)
def test_every_field_of_the_table_is_there(known: Any) -> None:
    assert field_at(known.field) is not None


def test_what_is_off_is_not_refused() -> None:
    content = {
        "output_dir": "results",
        "workers": None,
        "scheduler": {"reserved_cores": 1, "prioritize_short_courses": False},
        "segmentation": {"fast": False, "force": False, "roi_subset": None, "extra_models": []},
        "radiomics_robustness": {"enabled": False, "modes": ["noise"], "thresholds": {"icc": 0.9}},
        "environments": None,
        "ct_cropping": {"keep_original": True},
    }
    assert from_configuration(content, BASE) == Asked({}, Path("/conf/results"))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"segmentaton": {"device": "cpu"}}, ["segmentaton.device: unknown key"]),
        ({"radiomics": {"theads": 1}, "a": 1}, ["radiomics.theads: unknown key", "a: unknown key"]),
        ({"segmentation": 3}, ["segmentation: unknown key"]),
        ({"radiomics": {"enabled": {"ct": True}}}, ["radiomics.enabled.ct: unknown key"]),
        ({"max_workers": 2, "workers": 3}, ["say different things of radiotherapy.workers"]),
        ({"segmentation": {"force": 0}}, ["segmentation.force: refused"]),
    ],
)
def test_what_is_wrong_is_named_all_at_once(content: Mapping[str, Any], named: list[str]) -> None:
    with pytest.raises(ConfigurationError) as wrong:
        from_configuration(content, BASE)
    assert all(text in str(wrong.value) for text in named)


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_sets_its_field(name: str, tmp_path: Path) -> None:
    text, field, got = VARIABLES[name]
    asked = from_environment({name: text, "HOME": "/home", "RTPIPELINE_CONFIGFILE": "x"})
    assert asked.values == {field: got}
    make_run_site(tmp_path / "out", RunOptions(radiotherapy=asked.section()))


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"RTPIPELINE_MAXWORKERS": "2"}, "RTPIPELINE_MAXWORKERS: unknown variable"),
        ({"RTPIPELINE_RADIOMICS_SEQUENTIAL": "maybe"}, "RTPIPELINE_RADIOMICS_SEQUENTIAL: is 1 or 0"),
        (
            {"RTPIPELINE_RADIOMICS_SEQUENTIAL": "1", "RTPIPELINE_USE_PARALLEL_RADIOMICS": "1"},
            "say different things of radiotherapy.radiomics.sequential",
        ),
    ],
)
def test_a_variable_that_says_nothing_is_named(environment: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        from_environment(environment)


def test_the_command_counts_before_variables_and_these_before_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "dicom_root: in\noutput_dir: out\nmax_workers: 1\n"
        "radiomics: {thread_limit: 1, workers: 1}\nsegmentation: {device: gpu}\n"
    )
    environment = {"RTPIPELINE_MAX_WORKERS": "2", "RTPIPELINE_RADIOMICS_WORKERS": "2"}
    command = Asked({"workers": 3})
    wanted = {
        "workers": 3,
        "radiomics.workers": 2,
        "radiomics.thread_limit": 1,
        "segmentation.device": "gpu",
        "dicom_root": f"{tmp_path}/in",
    }
    for asked in (
        asked_for(command, environment, file),
        asked_for(command, {**environment, "RTPIPELINE_CONFIGFILE": str(file)}, None),
    ):
        assert asked.values == wanted
        assert asked.out == tmp_path / "out"
    assert asked_for(Asked({}, Path("/there")), {}, file).out == Path("/there")


def test_settings_of_a_site_count_before_defaults_and_after_all_else(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    content = {
        "site": {"timezone": "UTC"},
        "radiotherapy": {
            "workers": 7,
            "segmentation": {"workers": 5, "device": "gpu"},
            "dvh": {"goals": "goals.yaml"},
        },
    }
    (site / "mqi.yaml").write_text(yaml.safe_dump(content))
    (site / "config" / "models").mkdir(parents=True)
    asked = Asked({"segmentation.device": "cpu"})
    options = RunOptions(site / "mqi.yaml", radiotherapy=asked.section())
    found = make_run_site(tmp_path / "out", options).radiotherapy
    assert (found.workers, found.segmentation.workers, found.segmentation.device) == (7, 5, "cpu")
    assert found.radiomics.workers == "auto"
    # Files of the site that is copied stay where they are.
    assert found.dvh.goals == site / "goals.yaml"
    assert found.custom_models.root == site / "config" / "models"
    later = make_run_site(tmp_path / "out", RunOptions(radiotherapy={"workers": 2})).radiotherapy
    assert (later.workers, later.segmentation.workers, later.dvh.goals) == (2, 5, site / "goals.yaml")


def test_a_site_of_a_person_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "mqi.yaml").write_text("site: {timezone: UTC}\nradiotherapy: {workers: 2}\n")
    make_run_site(tmp_path, RunOptions(radiotherapy={"workers": 2}))
    with pytest.raises(ConfigurationError, match="the folder is a site of its own"):
        make_run_site(tmp_path, RunOptions(radiotherapy={"workers": 3}))
    assert "workers: 2" in (tmp_path / "mqi.yaml").read_text()


def test_yaml_that_makes_objects_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("max_workers: !!python/object/apply:os.getpid []\n")
    with pytest.raises(ConfigurationError):
        read_configuration(file)


def test_an_option_is_refused_only_where_it_sets_nothing() -> None:
    assert refused_option("--totalseg-fast") is not None
    assert refused_option("--workers") is None and refused_option("--out") is None
    assert refused_option("--nonsense") is None
