"""The secret of a site that has named cases is never replaced in silence."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from alembic import command
from typer.testing import CliRunner

from mqi_dagster.cli.app import app
from mqi_dagster.errors import ConfigurationError, MqiError
from mqi_dagster.ledger.database import revision_of
from mqi_dagster.ledger.location import ledger_url
from mqi_dagster.operations.site_folder import RunOptions, make_run_site, require_own_secret
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import read_settings
from tests.chain.chain import ONE_BEAM, Chain
from tests.ledger.revisions import moved


def init(site: Path, *options: str) -> None:
    result = CliRunner().invoke(app, ["init", str(site), *options])
    if isinstance(result.exception, MqiError):
        raise result.exception
    assert result.exit_code == 0, result.output


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site that has named a case."""
    init(tmp_path, "--timezone", "Asia/Seoul")
    opened = Site(tmp_path / "mqi.yaml")
    assert opened.ledger.fractions.number(opened.pseudonyms.plan("1.2.3"), ["d1"]) == 1
    return tmp_path


def of_earlier_code(site: Path) -> None:
    """The ledger as it was before secrets had key check values."""
    moved(ledger_url(read_settings(site / "mqi.yaml")), command.downgrade, "0006").dispose()


@pytest.mark.parametrize("earlier", [False, True], ids=["", "of earlier code"])
def test_a_lost_secret_is_not_made_anew(site: Path, earlier: bool) -> None:
    secret = (site / "secret").read_text()
    if earlier:
        of_earlier_code(site)
    (site / "secret").unlink()
    with pytest.raises(ConfigurationError, match="put it back"):
        init(site)
    with pytest.raises(ConfigurationError, match="put it back"):
        make_run_site(site, RunOptions())
    assert not (site / "secret").exists()
    (site / "secret").touch(mode=0o600)
    (site / "secret").write_text(secret)
    init(site)
    assert Site(site / "mqi.yaml").pseudonyms.plan("1.2.3")


@pytest.mark.parametrize("revision", ["0007", "0008", "0009", "0010"])
def test_another_secret_is_found_before_the_ledger_is_migrated(site: Path, revision: str) -> None:
    settings = read_settings(site / "mqi.yaml")
    moved(ledger_url(settings), command.downgrade, revision).dispose()
    require_own_secret(settings)
    (site / "secret").write_text("5b" * 32)
    with pytest.raises(ConfigurationError, match="cases were named with"):
        require_own_secret(settings)
    assert revision_of(ledger_url(settings)) == revision


def test_another_secret_names_no_case(site: Path) -> None:
    (site / "secret").write_text("5b" * 32)
    with pytest.raises(ConfigurationError, match="cases were named with"):
        Site(site / "mqi.yaml").pseudonyms  # noqa: B018 - reading it is what is refused
    with pytest.raises(ConfigurationError, match="cases were named with"):
        require_own_secret(read_settings(site / "mqi.yaml"))
    with pytest.raises(ConfigurationError, match="cases were named with"):
        init(site)


def test_a_person_can_give_the_old_secret_up(site: Path) -> None:
    before = Site(site / "mqi.yaml").pseudonyms.plan("1.2.3")
    (site / "secret").unlink()
    init(site, "--new-secret")
    assert Site(site / "mqi.yaml").pseudonyms.plan("1.2.3") != before
    init(site)


def test_a_site_of_earlier_code_gets_its_check_at_first_use(site: Path) -> None:
    of_earlier_code(site)
    assert Site(site / "mqi.yaml").ledger.key_check.value() is None
    first = Site(site / "mqi.yaml").pseudonyms.plan("1.2.3")
    known = Site(site / "mqi.yaml").ledger.key_check.value()
    assert known is not None and len(known) == 64
    assert (site / "secret").read_text().strip() not in known
    assert Site(site / "mqi.yaml").pseudonyms.plan("1.2.3") == first


def test_no_case_is_named_anew_while_the_secret_is_another_one(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "site")
    chain.deliver(plan=ONE_BEAM)
    chain.tick("case_arrivals")
    (case,) = chain.runs_of("intake")
    (chain.folder / "secret").write_text("5b" * 32)
    chain.reopen()
    chain.cursors = dict.fromkeys(chain.cursors)
    with suppress(ConfigurationError):
        chain.tick("case_arrivals")
    assert chain.runs_of("intake") == [case]
    assert [row.case for row in chain.site.ledger.arrivals.all()] == [case]
