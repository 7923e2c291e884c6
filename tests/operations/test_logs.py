"""A log is followed through whatever happens to its file, and several are one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mqi_dagster.errors import ConfigurationError, InfrastructureError, InputError
from mqi_dagster.operations.engine_log import partition_tails
from mqi_dagster.operations.logs import Tail, last_lines, service_tails
from mqi_dagster.operations.service_locks import Service
from mqi_dagster.settings import Settings, parse_settings
from tests.chain.chain import PLAN, Chain


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "daemon.log"


def tail_of(path: Path) -> Tail:
    return Tail("service", path.stem, lambda: path)


def lines(found: list[object]) -> list[str]:
    return [line.line for line in found]  # type: ignore[attr-defined]


def test_the_last_lines_are_those_at_the_end_however_long_the_log_is(log: Path) -> None:
    log.write_text("".join(f"{number} {'x' * 90}\n" for number in range(20_000)))
    found = tail_of(log).last(1500)
    assert [line.line.split()[0] for line in found] == [str(number) for number in range(18_500, 20_000)]
    assert tail_of(log).last(0) == []
    assert len(tail_of(log).last(50_000)) == 20_000


def test_a_log_that_is_begun_anew_under_its_name_is_followed(log: Path) -> None:
    tail = tail_of(log)
    assert tail.last(5, whole=False) == tail.more() == []
    log.write_text("one\ntw")
    assert lines(tail.more()) == ["one"]
    with log.open("a") as stream:
        stream.write("o\nthree")
    assert lines(tail.more()) == ["two"]
    log.rename(log.with_suffix(".log.1"))
    with log.with_suffix(".log.1").open("a") as stream:
        stream.write(" and more\nlast words")
    assert lines(tail.more()) == ["three and more"]
    log.write_text("anew\n")
    assert lines(tail.more()) == ["last words", "anew"]
    log.write_text("")
    assert tail.more() == []
    log.write_text("emptied\n")
    assert lines(tail.more()) == ["emptied"]
    log.unlink()
    assert tail.more() == []


def test_a_line_moves_no_terminal(log: Path) -> None:
    log.write_bytes(b"\x1b[32m2026-03-01\x1b[0m\tdone\x07 \xff\r\n")
    assert lines(tail_of(log).last(1)) == ["2026-03-01      done  �"]


def test_several_logs_are_told_in_the_order_of_their_moments(tmp_path: Path) -> None:
    code, daemon = tmp_path / "code.log", tmp_path / "daemon.log"
    code.write_text("begins\n2026-03-01 12:00:03 +0000 - third\nTraceback\n2026-03-01 12:00:09 UTC fifth\n")
    daemon.write_text("2026-03-01 21:00:01 +0900 - second\n2026-03-01 12:00:04 +0000 - fourth\n")
    found = last_lines([tail_of(code), tail_of(daemon)], 10, whole=True)
    assert [(one.name, one.line.split(" - ")[-1]) for one in found] == [
        *(("code", "begins"), ("daemon", "second"), ("code", "third"), ("code", "Traceback")),
        *(("daemon", "fourth"), ("code", "2026-03-01 12:00:09 UTC fifth")),
    ]


def test_a_log_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match=rf"^the log of {tmp_path.stem} cannot be read: Is a"):
        tail_of(tmp_path).last(1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return parse_settings({"site": {"timezone": "Asia/Seoul"}}, tmp_path)


def test_of_a_service_under_a_service_manager_the_journal_is_named(settings: Settings) -> None:
    logs = settings.paths.state / "logs"
    logs.mkdir(parents=True)
    (logs / "code.log").write_text("of an earlier `mqi dev`\n")
    (logs / "daemon.log").write_text("the same\n")
    lock = "import sys; from pathlib import Path; from mqi_dagster.execution.locks import hold;"
    lock += "held = hold(Path(sys.argv[1])); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", lock, str(settings.paths.state / "service-daemon.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as manager:
        assert manager.stdout is not None and manager.stdout.readline()
        tails, elsewhere = service_tails(settings)
        assert [tail.name for tail in tails] == ["code", "pages", "viewer", "web", "watch"]
        said = (
            "a service manager keeps the logs of daemon: journalctl --follow --unit mqi-daemon,"
            " or in containers docker compose logs --follow daemon"
        )
        assert elsewhere == said
        with pytest.raises(ConfigurationError) as refused:
            service_tails(settings, [Service.DAEMON])
        assert refused.value.message == said
        manager.communicate()
    assert service_tails(settings)[1] == ""


def test_an_engines_log_names_no_patient_and_is_followed_into_its_next_run(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    chain.deliver(plan=PLAN, patient_name="Lee^Soon", patient_id="4711081")
    chain.tick("case_arrivals")
    (case,) = chain.runs_of("intake")
    beam = f"{case}__b02"
    kept = chain.site.engine_logs / beam / "abcd-1.log"
    kept.parent.mkdir(parents=True)
    kept.write_text("batch 1\nbatch 2\n")
    (tail, other) = partition_tails(chain.instance, chain.site, case)
    assert lines(tail.last(5, whole=False)) == ["batch 1", "batch 2"]
    assert (other.name, other.last(5, whole=False), tail.more()) == (f"{case}__b03", [], [])
    live = chain.site.work / f"{beam}.a-run" / "engine.log"
    live.parent.mkdir(parents=True)
    live.write_text("plan of LEE (4711081) in /srv/inbox/lee\n")
    assert [(one.content()) for one in tail.more()] == [
        {"partition": beam, "line": "plan of [redacted] ([redacted]) in [redacted]"}
    ]
    (tail,) = partition_tails(chain.instance, chain.site, beam)
    assert lines(tail.last(5)) == ["plan of [redacted] ([redacted]) in [redacted]"]
    for name, why in (("P000000000.fx0001", "not known here"), ("code.log", "no case key")):
        with pytest.raises(InputError, match=why):
            partition_tails(chain.instance, chain.site, name)
