"""The open board on a PostgreSQL server: what it holds there, that it only reads, what it says meanwhile."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.errors import InfrastructureError
from mqi_dagster.operations.board_reader import BoardReader
from mqi_dagster.resources.site import Site
from tests.postgres.postgres_server import Server, running_postgres
from tests.waiting import wait_for
from tests.worklist.terminal import MQI, Terminal

pytestmark = [pytest.mark.slow, pytest.mark.postgres]
BACKENDS = "SELECT pid FROM pg_stat_activity WHERE datname = 'board'"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_postgres() as started:
        yield started


@pytest.fixture(scope="module")
def site(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site on the server, with its ledger."""
    folder = tmp_path_factory.mktemp("on") / "site"
    runner = CliRunner()
    runner.invoke(app, ["init", str(folder), "--timezone", "UTC"], catch_exceptions=False)
    server.new_database("board")
    content = yaml.safe_load((folder / "mqi.yaml").read_text())
    content["database"] = {**server.section, "name": "board"}
    (folder / "mqi.yaml").write_text(yaml.safe_dump(content))
    runner.invoke(app, ["init", str(folder)], catch_exceptions=False)
    return folder


def backends(server: Server) -> set[str]:
    return set(server.sql(BACKENDS, as_superuser=True).split())


def test_an_open_board_keeps_three_connections_and_opens_no_more(server: Server, site: Path) -> None:
    others = backends(server)
    with Terminal("top", "--site", str(site), "--interval", "0.2", columns=140) as terminal:
        terminal.see("beams")
        terminal.wait_for(lambda _: terminal.output.count(b"\x1b[H") > 5, "some looks")
        seen = [backends(server) - others]
        for _ in range(5):
            frames = terminal.output.count(b"\x1b[H")
            terminal.wait_for(lambda _, frames=frames: terminal.output.count(b"\x1b[H") > frames, "a look")
            seen.append(backends(server) - others)
        assert all(pids == seen[0] for pids in seen)
        assert len(seen[0]) == 3
        terminal.press("q")
        assert terminal.end() == 0
    wait_for(lambda: not backends(server) & seen[0], "its connections are gone")


def test_a_server_that_falls_silent_is_told_with_the_age_of_what_is_shown(server: Server, site: Path) -> None:
    with Terminal("top", "--site", str(site), columns=140) as terminal:
        terminal.see("beams")
        server.freeze()
        try:
            lines = terminal.see(" old: ", seconds=30)
            assert any("old: the records have not answered since" in line for line in lines)
            terminal.see("0:10 old: ", seconds=60)
        finally:
            server.thaw()
        terminal.wait_for(lambda lines: not any(" old: " in line for line in lines), "the records are back")
        terminal.press("q")
        assert terminal.end() == 0


def test_a_server_that_was_killed_is_read_again_by_the_first_look_after_it(
    server: Server, site: Path
) -> None:
    reader = BoardReader(Site(site / "mqi.yaml"), timedelta(hours=1), again=True)
    before = reader.snapshot().at
    server.kill(backends=True)
    server.start()
    with pytest.raises(InfrastructureError):
        reader.snapshot()
    assert reader.snapshot().at > before


def test_no_write_of_an_open_board_gets_through(server: Server, site: Path) -> None:
    script = (
        "from mqi_dagster.worklist.reading import read_only_process; read_only_process();"
        "from mqi_dagster.operations.board_reader import BoardReader;"
        "from mqi_dagster.resources.site import Site;"
        "import sys, pathlib, datetime;"
        "reader = BoardReader(Site(pathlib.Path(sys.argv[1])), datetime.timedelta(hours=1), again=True);"
        "reader.snapshot(); reader.instance.add_dynamic_partitions('case', ['P1.fx0001'])"
    )
    done = subprocess.run(
        [str(MQI.with_name("python")), "-c", script, str(site / "mqi.yaml")], capture_output=True, text=True
    )
    assert done.returncode != 0 and "read-only transaction" in done.stderr
    assert server.sql("SELECT count(*) FROM dynamic_partitions", database="board").strip() == "0"
