"""Accounts, tokens and the audit by command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mqi_dagster.cli.app import app
from mqi_dagster.errors import ConfigurationError, InputError, MqiError, StoreError
from mqi_dagster.operations.people import bearer, take_link
from mqi_dagster.people.passwords import matches
from mqi_dagster.people.rights import Right
from mqi_dagster.resources.site import Site

PASSWORD = "correct horse battery"
Run = Callable[..., Result]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "mqi.yaml").write_text("site: {timezone: Asia/Seoul}\n")
    return Site(tmp_path / "mqi.yaml")


@pytest.fixture
def mqi(site: Site) -> Run:
    """Runs a command of the site; an error of ours is raised as it is."""

    def run(*words: str, given: str = "", status: int = 0) -> Result:
        folder = str(site.settings_file.parent)
        done = CliRunner().invoke(app, [*words, "--site", folder], input=given, catch_exceptions=False)
        assert done.exit_code == status, done.output
        return done

    return run


@pytest.fixture
def answered(mqi: Run) -> Callable[..., Any]:
    return lambda *words: json.loads(mqi(*words, "--json").stdout)


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.touch(mode=0o600)
    path.write_text(f"{PASSWORD}\n")
    return path


def test_the_first_admin_is_made_with_a_link_and_no_password(
    mqi: Run, answered: Callable[..., Any], site: Site
) -> None:
    assert "nobody has an account: `mqi user add NAME --role admin` makes one" in mqi("user", "list").output
    said = mqi("user", "add", "anna", "--role", "admin").output.splitlines()
    assert said[:2] == ["the account anna is added", "signs in once, within 15 minutes:"]
    address, _, code = said[2].partition("?code=")
    assert address == "http://127.0.0.1:8000/login/link"
    assert take_link(site, code).name == "anna"
    (row,) = answered("user", "list")
    assert (row["name"], row["roles"], row["state"]) == ("anna", ["admin"], "without a password")
    assert "2026" not in code and len(code) == 43


def test_a_password_comes_from_a_file_or_a_prompt_and_never_from_the_command_line(
    mqi: Run, answered: Callable[..., Any], site: Site, password_file: Path
) -> None:
    made = answered("user", "add", "anna", "--role", "viewer", "--password-file", str(password_file))
    assert made == {"name": "anna", "roles": ["viewer"], "link": None}
    accounts = site.ledger.accounts
    assert matches(accounts.get("anna").password, PASSWORD)  # type: ignore[union-attr]
    other = "staple gun wallpaper"
    mqi("user", "password", "anna", "--prompt", given=f"{other}\n{other}\n")
    assert matches(accounts.get("anna").password, other)  # type: ignore[union-attr]
    assert PASSWORD not in mqi("user", "password", "--help").output
    mqi("user", "password", "anna", status=2)
    mqi("user", "add", "x", "--role", "viewer", "--password", PASSWORD, status=2)
    password_file.chmod(0o644)
    with pytest.raises(ConfigurationError, match="open to others; chmod 600"):
        mqi("user", "password", "anna", "--password-file", str(password_file))


def test_an_account_is_changed_disabled_and_enabled(mqi: Run, answered: Callable[..., Any]) -> None:
    mqi("user", "add", "anna", "--role", "viewer", "--full-name", "Anna Arnold", "--no-link")
    mqi("user", "change", "anna", "--role", "physicist", "--role", "approver")
    mqi("user", "disable", "anna")
    (row,) = answered("user", "list")
    assert (row["roles"], row["state"], row["full_name"]) == (
        ["approver", "physicist"],
        "disabled",
        "Anna Arnold",
    )
    with pytest.raises(InputError, match="the account 'anna' is disabled"):
        mqi("user", "link", "anna")
    mqi("user", "enable", "anna")
    assert answered("user", "link", "anna")["link"].startswith("http://127.0.0.1:8000/login/link?code=")
    mqi("user", "change", "anna", status=2)
    mqi("user", "add", "bert", "--role", "king", status=2)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("user", "add", "Anna", "--role", "viewer"), "small letters"),
        (("user", "add", "nobody", "--role", "viewer"), "small letters"),
        (("user", "add", "anna"), "an account needs a role"),
        (("user", "add", "there", "--role", "viewer"), "there is an account 'there' already"),
        (("user", "disable", "eve"), "there is no account 'eve'; `mqi user list` names them"),
        (("user", "link", "eve"), "there is no account 'eve'"),
        (("token", "make", "eve", "--for", "x", "--scope", "look"), "there is no account 'eve'"),
        (("token", "make", "there", "--for", "x", "--scope", "look", "--days", "400"), "1 to 366 days"),
        (("token", "revoke", "abcd"), "there is no token 'abcd'"),
        (("audit", "list", "--action", "dance"), "an action is one of"),
        (("audit", "list", "--from", "5 January"), "a day is written as 2026-01-31"),
        (("audit", "verify", "--number", "1"), "by its number and its hash"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(mqi: Run, words: tuple[str, ...], error: str) -> None:
    mqi("user", "add", "there", "--role", "viewer", "--no-link")
    with pytest.raises(MqiError) as caught:
        mqi(*words)
    assert error in caught.value.message


def test_a_token_is_made_listed_and_revoked(mqi: Run, answered: Callable[..., Any], site: Site) -> None:
    mqi("user", "add", "robot", "--role", "service")
    made = answered("token", "make", "robot", "--for", "tables", "--scope", "look", "--days", "7")
    actor = bearer(site, made["secret"])
    assert actor is not None and (actor.name, actor.rights) == ("robot", {Right.LOOK})
    (row,) = answered("token", "list", "robot")
    assert (row["id"], row["state"], row["scopes"]) == (made["id"], "valid", ["look"])
    assert made["secret"] not in mqi("token", "list").output
    mqi("token", "revoke", made["id"])
    assert bearer(site, made["secret"]) is None
    assert answered("token", "list")[0]["state"] == "revoked"


def test_the_audit_is_listed_exported_and_verified(
    mqi: Run, answered: Callable[..., Any], site: Site, tmp_path: Path
) -> None:
    mqi("user", "add", "anna", "--role", "viewer", "--no-link")
    listed = answered("audit", "list", "--action", "user_added", "--about", "anna")
    assert [row["outcome"] for row in listed] == ["done", "begun"]
    assert {row["actor"].partition(":")[0] for row in listed} == {"os"}
    noted = answered("audit", "verify")
    mqi("audit", "verify", "--number", str(noted["number"]), "--hash", noted["hash"])
    with pytest.raises(StoreError, match="is not the one that was noted"):
        mqi("audit", "verify", "--number", "1", "--hash", noted["hash"])
    file = tmp_path / "audit.jsonl"
    mqi("audit", "export", "--output", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["number"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[noted["number"] - 1]["hash"] == noted["hash"]
    assert mqi("audit", "export", "--format", "csv", "--about", "anna").output.count("user_added") == 2
    with pytest.raises(InputError, match="cannot be written"):
        mqi("audit", "export", "--output", str(tmp_path / "absent/audit.csv"))
