"""`mqi init`: a folder becomes a site, and stays what a person made of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.compute.run_launcher import RunLauncher
from mqi_dagster.compute.run_workers import fail_orphaned_runs
from mqi_dagster.errors import ConfigurationError
from mqi_dagster.operations.instance import open_instance, pool_limit_of, write_instance
from mqi_dagster.operations.settings_text import settings_file
from mqi_dagster.settings import parse_settings, read_settings


def init(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["init", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("init") / "clinic"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mqi_dagster.processes.worker_counts.processors", lambda: 6)
        init(str(folder), "--timezone", "Asia/Seoul")
        yield folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "history" not in path.parts and "schedules" not in path.parts
    }


def test_everything_stands_in_the_folder(site: Path) -> None:
    assert sorted(path.name for path in site.iterdir()) == [
        "config",
        "dagster",
        "data",
        "handover",
        "inbox",
        "mqi.yaml",
        "secret",
        "state",
    ]
    assert sorted(path.name for path in (site / "config/machines").iterdir()) == [
        "g1.yaml",
        "g2.yaml",
        "generic.yaml",
    ]
    assert [path.name for path in (site / "config/hu").iterdir()] == ["typical_120kv.yaml"]
    assert (site / "secret").stat().st_mode & 0o777 == 0o600
    assert len((site / "secret").read_text().strip()) == 64


def test_a_second_call_changes_nothing(site: Path) -> None:
    before = contents(site)
    assert "nothing to do" in init(str(site))
    assert contents(site) == before


def test_what_is_missing_is_completed_and_what_a_person_wrote_stays(tmp_path: Path) -> None:
    init(str(tmp_path), "--timezone", "Asia/Seoul")
    secret = (tmp_path / "secret").read_text()
    mine = "site: {timezone: Europe/Zurich}\nexecution: {slots: 3}\n"
    (tmp_path / "mqi.yaml").write_text(mine)
    machine = tmp_path / "config/machines/g1.yaml"
    machine.unlink()
    (tmp_path / "inbox").rmdir()
    output = init(str(tmp_path))
    assert "made inbox/" in output
    assert (tmp_path / "inbox").is_dir()
    assert (tmp_path / "mqi.yaml").read_text() == mine
    assert (tmp_path / "secret").read_text() == secret
    # A machine that a site has taken away is not brought back.
    assert not machine.exists()
    with open_instance(read_settings(tmp_path / "mqi.yaml")) as instance:
        assert pool_limit_of(instance) == 5


def test_options_are_refused_where_settings_exist(site: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"is a site already: change its mqi\.yaml"):
        CliRunner().invoke(app, ["init", str(site), "--histories", "5e5"], catch_exceptions=False)


def test_the_same_call_once_more_is_no_mistake(site: Path) -> None:
    assert "nothing to do" in init(str(site), "--timezone", "Asia/Seoul", "--histories", "1e6")
    with pytest.raises(
        ConfigurationError, match=r"change its mqi\.yaml \(site\.timezone is Asia/Seoul there\)"
    ):
        CliRunner().invoke(app, ["init", str(site), "--timezone", "UTC"], catch_exceptions=False)


def test_a_wrong_zone_leaves_no_site_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"site\.timezone: 'Mars/Base' is no IANA time zone"):
        CliRunner().invoke(
            app, ["init", str(tmp_path / "site"), "--timezone", "Mars/Base"], catch_exceptions=False
        )
    assert not (tmp_path / "site").exists()


def test_the_zone_of_the_computer_is_taken_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/Lima")
    assert "time zone of the machines: America/Lima" in init(str(tmp_path))
    assert read_settings(tmp_path / "mqi.yaml").site.timezone == "America/Lima"


def test_the_instance_has_the_limits(site: Path) -> None:
    content = yaml.safe_load((site / "dagster/dagster.yaml").read_text())
    assert content["telemetry"] == {"enabled": False}
    assert content["nux"] == {"enabled": False}
    assert content["concurrency"] == {
        "runs": {
            "max_concurrent_runs": 10,
            "tag_concurrency_limits": [
                {"key": "mqi/gpu", "limit": 3},
                {"key": "mqi/case", "value": {"applyLimitPerUniqueValue": True}, "limit": 4},
                {"key": "mqi/course", "limit": 5},
                {"key": "mqi/image_set", "limit": 4},
            ],
        },
        "pools": {"granularity": "run"},
    }
    assert content["run_retries"] == {"enabled": False}
    with open_instance(read_settings(site / "mqi.yaml")) as instance:
        assert isinstance(instance.run_launcher, RunLauncher)
        assert instance.run_launcher.supports_check_run_worker_health
        assert instance.run_monitoring_poll_interval_seconds == 10
        assert pool_limit_of(instance) == 3
        assert not instance.telemetry_enabled
        assert not instance.run_retries_enabled
        assert instance.run_monitoring_enabled


@pytest.mark.parametrize(
    ("workers", "max_runs", "at_once"), [("2", 10, 2), ("15", 10, 6), ("15", 20, 15), ("15", 3, 1)]
)
def test_courses_leave_runs_to_the_simulations_and_to_an_intake(
    tmp_path: Path, workers: str, max_runs: int, at_once: int
) -> None:
    (tmp_path / "mqi.yaml").write_text(
        "site: {timezone: Asia/Seoul}\n"
        f"execution: {{max_runs: {max_runs}}}\nradiotherapy: {{workers: {workers}}}\n"
    )
    init(str(tmp_path))
    written = yaml.safe_load((tmp_path / "dagster/dagster.yaml").read_text())
    assert {"key": "mqi/course", "limit": at_once} in written["concurrency"]["runs"]["tag_concurrency_limits"]


def test_a_storage_of_the_site_s_own_survives_new_limits(tmp_path: Path) -> None:
    init(str(tmp_path), "--timezone", "Asia/Seoul")
    path = tmp_path / "dagster/dagster.yaml"
    content = yaml.safe_load(path.read_text())
    content["python_logs"] = {"python_log_level": "ERROR"}
    path.write_text(yaml.safe_dump(content))
    (tmp_path / "mqi.yaml").write_text("site: {timezone: Asia/Seoul}\nexecution: {max_runs: 4}\n")
    init(str(tmp_path))
    written = yaml.safe_load(path.read_text())
    assert written["concurrency"]["runs"]["max_concurrent_runs"] == 4
    assert written["python_logs"] == {"python_log_level": "ERROR"}


def test_an_instance_of_an_earlier_version_gets_the_launcher_that_sees_dead_workers(tmp_path: Path) -> None:
    init(str(tmp_path), "--timezone", "Asia/Seoul")
    path = tmp_path / "dagster/dagster.yaml"
    content = yaml.safe_load(path.read_text())
    del content["run_launcher"]
    monitoring = {"enabled": False, "poll_interval_seconds": 120, "cancel_timeout_seconds": 300}
    monitoring["max_resume_run_attempts"] = 2
    content["run_monitoring"] = monitoring
    path.write_text(yaml.safe_dump(content))
    (tmp_path / "mqi.yaml").write_text("site: {timezone: UTC}\nintake: {scan_interval_seconds: 2}\n")
    init(str(tmp_path))
    with open_instance(read_settings(tmp_path / "mqi.yaml")) as instance:
        assert isinstance(instance.run_launcher, RunLauncher)
        assert instance.run_monitoring_enabled, "else nobody would end the run of a killed worker"
        assert instance.run_monitoring_poll_interval_seconds == 2
        assert instance.run_monitoring_cancel_timeout_seconds == 300


def test_a_launcher_of_the_site_s_own_stays(tmp_path: Path) -> None:
    init(str(tmp_path), "--timezone", "Asia/Seoul")
    path = tmp_path / "dagster/dagster.yaml"
    mine = {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": {"job_image": "mqi"}}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "run_launcher": mine}))
    assert write_instance(read_settings(tmp_path / "mqi.yaml")) is False
    assert yaml.safe_load(path.read_text())["run_launcher"] == mine


def test_every_commented_line_is_a_setting_at_its_default() -> None:
    text = settings_file({"site.timezone": "Asia/Seoul"})
    as_written = parse_settings(yaml.safe_load(text), Path("/site"))
    uncommented = re.sub(r"(?m)^(\s*)#(?=\S)", r"\1", text)
    assert uncommented.count("\n") == text.count("\n")
    content = yaml.safe_load(uncommented)
    assert content["intake"]["stable_seconds"] == 60.0
    assert content["engine"]["phantom"]["dimension"] == [200, 200, 200]
    assert parse_settings(content, Path("/site")) == as_written


def test_settings_given_are_not_commented() -> None:
    text = settings_file({"site.timezone": "Asia/Seoul", "engine.histories": 2e5})
    assert "\n  timezone: Asia/Seoul\n" in text
    assert "\n  histories: 200000.0\n" in text
    assert "\n  #profile: embedded\n" in text
    with pytest.raises(KeyError, match=r"engine\.history"):
        settings_file({"engine.history": 1})


def test_runs_of_a_code_server_that_is_gone_are_failed_and_others_left(site: Path) -> None:
    @dg.job
    def one() -> None:
        pass

    with open_instance(read_settings(site / "mqi.yaml")) as instance:
        started, cancelling, foreign, waiting = (
            instance.create_run_for_job(one, status=status, tags=tags).run_id
            for status, tags in (
                (dg.DagsterRunStatus.STARTED, {".dagster/grpc_info": "{}"}),
                (dg.DagsterRunStatus.CANCELING, {".dagster/grpc_info": "{}"}),
                (dg.DagsterRunStatus.STARTED, {}),
                (dg.DagsterRunStatus.NOT_STARTED, {}),
            )
        )
        assert fail_orphaned_runs(instance) == 2
        states = [instance.get_run_by_id(run) for run in (started, cancelling, foreign, waiting)]
        assert [run.status.value for run in states if run] == [
            "FAILURE",
            "CANCELED",
            "STARTED",
            "NOT_STARTED",
        ]
