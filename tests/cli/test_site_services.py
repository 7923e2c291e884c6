"""Starting and stopping a site's services: what is refused, and who is never ended."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner

from mqi_dagster.cli import demo
from mqi_dagster.cli import site as site_commands
from mqi_dagster.cli.app import app
from mqi_dagster.cli.screen import output
from mqi_dagster.errors import ConfigurationError, InfrastructureError
from mqi_dagster.execution.processes import end_group, process_alive, process_id
from mqi_dagster.operations import services as cli_services
from mqi_dagster.operations.service_locks import held
from mqi_dagster.operations.services import Keeper, Running, Services, port_is_free
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import parse_settings, read_settings
from tests.cli.mqi_command import mqi
from tests.waiting import wait_for


@pytest.fixture
def services(tmp_path: Path) -> Services:
    settings = parse_settings({"site": {"timezone": "Asia/Seoul"}}, tmp_path)
    settings.paths.state.mkdir()
    return Services(tmp_path / "mqi.yaml", settings)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def record(folder: Path, **processes: str) -> None:
    content = {"host": "127.0.0.1", "port": 3999, "processes": processes}
    (folder / "state/services.json").write_text(json.dumps(content))


def test_a_taken_port_is_refused_by_the_name_of_its_key(services: Services) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert not port_is_free("127.0.0.1", port)
        with pytest.raises(
            ConfigurationError, match=rf"{port} .*set another ui\.port in mqi\.yaml, or give --port"
        ):
            services.start(port)
    assert services.recorded() is None


def test_nothing_recorded_is_nothing_to_stop(services: Services) -> None:
    assert services.running() is None
    assert services.stop() is False


def test_a_recorded_process_is_ended(
    services: Services, tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    job = process_id(sleeper.pid)
    record(tmp_path, daemon=job)
    assert services.running() == Running("127.0.0.1", 3999, {"daemon": job})
    assert services.stop() is True
    assert not process_alive(job)
    assert services.recorded() is None
    assert services.stop() is False


def test_a_code_location_that_version_0_1_has_started_is_ended(
    services: Services, tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    job = process_id(sleeper.pid)
    record(tmp_path, **{"code-location": job})
    assert services.stop() is True
    assert not process_alive(job)


def test_nothing_joins_services_of_version_0_1_which_hold_no_locks(
    services: Services, tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    (tmp_path / "mqi.yaml").write_text("site: {timezone: Asia/Seoul}\n")
    record(tmp_path, **{"code-location": process_id(sleeper.pid), "daemon": "4194303:1"})
    with pytest.raises(ConfigurationError, match="`mqi dev` runs this site: mqi stop ends it"):
        CliRunner().invoke(app, ["service", "daemon", "--site", str(tmp_path)], catch_exceptions=False)


def test_a_pid_given_out_again_is_left_alone(
    services: Services, tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    pid, started = process_id(sleeper.pid).split(":")
    record(tmp_path, daemon=f"{pid}:{int(started) - 1}")
    assert services.running() is None
    assert services.stop() is False
    assert sleeper.poll() is None


def test_one_dead_service_means_not_running_and_its_last_words_are_told(
    services: Services, tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    record(tmp_path, pages=process_id(sleeper.pid), daemon="4194303:1")
    services.logs.mkdir()
    (services.logs / "daemon.log").write_text("started\nthe disk is full\n\n")
    found = services.recorded()
    assert found is not None and found.dead() == ["daemon"]
    assert services.running() is None
    with pytest.raises(InfrastructureError, match="the service daemon has ended: the disk is full"):
        services.require_alive(found)


def test_of_a_service_that_was_killed_the_signal_is_told_and_not_what_it_said_before(
    services: Services, tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    job = process_id(sleeper.pid)
    record(tmp_path, daemon=job)
    services.logs.mkdir()
    (services.logs / "daemon.log").write_text("\x1b[34mINFO\x1b[0m - all is well\n")
    found = services.recorded()
    assert found is not None
    sleeper.kill()
    wait_for(lambda: not process_alive(job), "its end")
    with pytest.raises(InfrastructureError, match="the service daemon was ended by SIGKILL; its log: "):
        services.require_alive(found)
    # Nobody knows it any more, as of a service that another process has started.
    with pytest.raises(InfrastructureError, match="daemon has ended: INFO - all is well; its log"):
        services.require_alive(found)


def test_services_of_a_site_whose_settings_are_wrong_meanwhile_are_ended(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    site = tmp_path / "site"
    assert mqi("init", site, "--timezone", "Asia/Seoul").returncode == 0
    settings = site / "mqi.yaml"
    settings.write_text(settings.read_text().replace("Asia/Seoul", "Asia/Seol"))
    job = process_id(sleeper.pid)
    record(site, daemon=job)
    done = CliRunner().invoke(app, ["stop", "--site", str(site)], catch_exceptions=False)
    assert done.output.endswith("\nended\n")
    assert "'Asia/Seol' is no IANA time zone" in " ".join(done.output.split())
    assert not process_alive(job)


def test_where_the_services_run_wrong_settings_have_to_say(services: Services, tmp_path: Path) -> None:
    (tmp_path / "mqi.yaml").write_text("site: {timezone: Asia/Seoul}\npaths: {stat: elsewhere}\n")
    with pytest.raises(ConfigurationError, match=r"paths\.stat"):
        CliRunner().invoke(app, ["stop", "--site", str(tmp_path)], catch_exceptions=False)


def test_a_port_that_running_services_cannot_take_is_not_passed_over_in_silence(
    services: Services, tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    (tmp_path / "mqi.yaml").write_text("site: {timezone: Asia/Seoul}\n")
    record(tmp_path, daemon=process_id(sleeper.pid))
    for port, told in (("3999", ""), ("3952", "; --port counts once they were stopped")):
        done = CliRunner().invoke(
            app, ["dev", "--site", str(tmp_path), "--port", port], catch_exceptions=False
        )
        assert done.output == f"already running: http://127.0.0.1:3999{told}\n"


@pytest.fixture
def without_watch(
    services: Services, tmp_path: Path, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Running]:
    """Services whose watch has ended, and is a process that sleeps once it is started again."""
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(cli_services, "command_of", lambda *_: command)
    record(tmp_path, daemon=process_id(sleeper.pid), watch="4194303:1")
    services.logs.mkdir()
    (services.logs / "watch.log").write_text("out of memory\n")
    found = services.recorded()
    assert found is not None
    yield found
    services.stop()


def by_dev(keeper: Keeper, settings_file: Path) -> None:
    site_commands._watch(keeper)


def by_demo(keeper: Keeper, settings_file: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        site, logs = Site(settings_file), settings_file.parent / "state/logs"
        demo._watch(instance, site, "P.fx0001", keeper, logs, 600.0, output(file=io.StringIO()))


@pytest.fixture(params=[by_dev, by_demo])
def look_after(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Keeper, Path], None]:
    """What `mqi dev` or `mqi demo` does once the services are ready."""
    (tmp_path / "mqi.yaml").write_text("site: {timezone: Asia/Seoul}\n")
    monkeypatch.setattr(site_commands, "_WATCH_SECONDS", 0.01)
    monkeypatch.setattr(demo, "_POLL_SECONDS", 0.01)
    call: Callable[[Keeper, Path], None] = request.param
    return call


def test_a_watch_that_has_ended_ends_no_other_service_and_is_started_again(
    services: Services, without_watch: Running, look_after: Callable[[Keeper, Path], None]
) -> None:
    said: list[str] = []
    keeper = Keeper(services, without_watch, said.append)
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(look_after, keeper, services.settings_file)
        wait_for(lambda: services.running() or watching.done(), "every service lives")
        found = services.recorded()
        assert found is not None and found.dead() == []
        assert found.processes["daemon"] == without_watch.processes["daemon"]
        assert not watching.done()
        end_group(found.processes["daemon"], 0)
        with pytest.raises(InfrastructureError, match="the service daemon was ended by SIGKILL"):
            watching.result()
    assert said == ["the service watch has ended (out of memory) and is started again"]


def test_services_that_somebody_has_stopped_did_not_die(
    services: Services, without_watch: Running, look_after: Callable[[Keeper, Path], None]
) -> None:
    services.start_again(without_watch)
    keeper = Keeper(services, without_watch, print)
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(look_after, keeper, services.settings_file)
        with services.alone():
            services.stop()
        error = watching.exception()
    told = "`mqi stop` has ended the services; type `mqi demo` again to go on"
    assert str(error) == {by_dev: "None", by_demo: told}[look_after]


def test_a_watch_that_ends_at_once_is_started_every_five_seconds(
    services: Services, without_watch: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_services, "command_of", lambda *_: ["/bin/false"])
    said: list[str] = []
    now = [1000.0]
    keeper = Keeper(services, without_watch, said.append, lambda: now[0])
    for seconds, starts in ((0, 1), (4, 1), (1, 2), (4, 2), (1, 3)):
        now[0] += seconds
        assert keeper.check()
        assert len(said) == starts
        wait_for(lambda: (found := services.recorded()) and found.dead() == ["watch"], "its end")


def test_mqi_dev_starts_a_watch_that_is_missing_and_nothing_else(
    services: Services, tmp_path: Path, without_watch: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mqi.yaml").write_text("site: {timezone: Asia/Seoul}\n")
    monkeypatch.setattr(Services, "await_ready", lambda *_: None)
    done = CliRunner().invoke(app, ["dev", "--site", str(tmp_path)], catch_exceptions=False)
    assert done.output == "already running: http://127.0.0.1:3999; started again: watch\n"
    found = services.running()
    assert found is not None and found.processes["daemon"] == without_watch.processes["daemon"]


@pytest.mark.parametrize("content", ['{"host": "127', '{"host": "127.0.0.1", "port": 1, "processes": ["x"]}'])
def test_a_damaged_record_is_an_error_and_not_an_empty_one(
    services: Services, tmp_path: Path, content: str
) -> None:
    (tmp_path / "state/services.json").write_text(content)
    with pytest.raises(InfrastructureError, match=r"services\.json"):
        services.stop()


def test_a_folder_that_is_no_site_is_refused(tmp_path: Path) -> None:
    for command in ("dev", "stop"):
        done = mqi(command, "--site", tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"mqi: {tmp_path} is no site: it has no mqi.yaml; name one by --site or MQI_SITE,"
            f" or make one: mqi init {tmp_path}\n"
        )


@pytest.mark.slow
def test_a_site_starts_once_answers_and_ends_without_a_trace(tmp_path: Path) -> None:
    site = tmp_path / "site"
    assert mqi("init", site, "--timezone", "Asia/Seoul").returncode == 0
    started = mqi("dev", "--site", site, "--detach", "--port", "0")
    try:
        assert started.returncode == 0, started.stderr
        running = json.loads((site / "state/services.json").read_text())
        address = f"http://127.0.0.1:{running['port']}"
        assert f"Dagster's pages: {address}\n" in started.stdout
        query = json.dumps(
            {"query": "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"}
        )
        request = urllib.request.Request(
            f"{address}/graphql", query.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert len(json.load(answer)["data"]["repositoriesOrError"]["nodes"]) == 1
        ours = f"http://127.0.0.1:{running['web_port']}"
        head, link, *_ = started.stdout.splitlines()
        assert head == f"pages: {ours}"
        assert link.startswith(f"sign in: {ours}/login/link?code=")
        with urllib.request.urlopen(link.removeprefix("sign in: "), timeout=20) as answer:
            assert "Sign in as " in answer.read().decode()
        again = mqi("dev", "--site", site, "--detach")
        assert again.returncode == 0
        assert again.stdout.splitlines()[:2] == [f"already running: {address}", f"pages: {ours}"]
        os.kill(int(running["processes"]["web"].partition(":")[0]), signal.SIGKILL)
        wait_for(lambda: not process_alive(running["processes"]["web"]), "its end")
        again = mqi("dev", "--site", site, "--detach")
        assert again.stdout.splitlines()[0] == f"already running: {address}; started again: web"
        running = json.loads((site / "state/services.json").read_text())
        joining = mqi("service", "viewer", "--site", site)
        assert (joining.returncode, joining.stderr) == (
            1,
            "mqi: `mqi dev` runs this site: mqi stop ends it\n",
        )
        assert held(read_settings(site / "mqi.yaml")) == ["code", "daemon", "pages", "web", "watch"]
    finally:
        ended = mqi("stop", "--site", site)
    assert (ended.returncode, ended.stdout) == (0, "ended\n")
    assert sorted(running["processes"]) == ["code", "daemon", "pages", "watch", "web"]
    assert not any(process_alive(job) for job in running["processes"].values())
    assert mqi("stop", "--site", site).stdout == "nothing was running\n"
    logs = "".join(path.read_text() for path in (site / "state/logs").glob("*.log"))
    assert "Warning:" not in logs and "Traceback" not in logs
