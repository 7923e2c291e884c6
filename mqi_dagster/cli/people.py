"""``mqi user``, ``mqi token`` and ``mqi audit``: who may use a site, by what, and what was done."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from mqi_dagster.cli.options import JsonOption, SiteOption
from mqi_dagster.cli.screen import output, print_json, show_rows
from mqi_dagster.errors import InputError
from mqi_dagster.files import whole_file
from mqi_dagster.moments import in_zone, local
from mqi_dagster.operations.sites import DEFAULT_SITE, open_site
from mqi_dagster.people.rights import PROGRAMS, Actor, Right, Role
from mqi_dagster.settings.passwords import read_password

if TYPE_CHECKING:
    from mqi_dagster.resources.site import Site

# What opens the ledger is imported by the command that needs it: `mqi --help` answers at once.

user_app = typer.Typer(help="The accounts of the pages.", no_args_is_help=True)
token_app = typer.Typer(help="Tokens with which programs sign in.", no_args_is_help=True)
audit_app = typer.Typer(help="Who did what: a record that is only added to.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Login of the account.")]
RoleOption = Annotated[list[Role] | None, typer.Option("--role", help="What it is for; once for each role.")]
FullNameOption = Annotated[str | None, typer.Option("--full-name", help="As signatures show it.")]
FileOption = Annotated[
    Path | None, typer.Option("--password-file", help="File that holds the password, mode 0600.")
]
PromptOption = Annotated[bool, typer.Option("--prompt", help="Ask for the password here.")]
_ACCOUNTS = {"name": "login", "full_name": "name", "roles": "roles", "state": "state", "created": "since"}
_TOKENS = {
    **{"id": "id", "user": "of", "for": "for", "scopes": "may", "state": "state"},
    **{"expires": "valid until", "used": "used last"},
}
_AUDIT = {
    **{"number": "row", "at": "when", "actor": "who", "via": "by", "action": "what"},
    **{"subject": "about", "outcome": "outcome", "details": "more"},
}


def _password(file: Path | None, prompt: bool) -> str | None:
    if file is not None and prompt:
        raise typer.BadParameter("--password-file or --prompt, not both")
    if file is not None:
        return read_password(file, "the password file")
    if prompt:
        return str(typer.prompt("password", hide_input=True, confirmation_prompt="the same again", err=True))
    return None


def _tell(as_json: bool, content: Mapping[str, Any], *words: str) -> None:
    if as_json:
        print_json(content)
    else:
        for line in words:
            output().print(Text(line), soft_wrap=True)


def _link(site: Site, name: str) -> str:
    from mqi_dagster.operations.people import make_link
    from mqi_dagster.operations.running import web_address

    code = make_link(site, Actor.of_this_account(), name)
    return f"{web_address(site.settings)}/login/link?code={code}"


def _about_link() -> str:
    from mqi_dagster.operations.people import LINK_VALID

    return f"signs in once, within {LINK_VALID // timedelta(minutes=1)} minutes:"


@user_app.command("add")
def add_user(
    name: NameArgument,
    role: RoleOption = None,
    full_name: FullNameOption = None,
    password_file: FileOption = None,
    prompt: PromptOption = False,
    link: Annotated[
        bool | None,
        typer.Option(
            "--link/--no-link", help="Make a link that signs in once; as a rule where there is no password."
        ),
    ] = None,
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Add an account. The first one, an admin, is made in this way; there is no default password."""
    from mqi_dagster.operations import people

    opened = open_site(site)
    password = _password(password_file, prompt)
    roles = people.roles_in(role or ())
    people.add_user(
        opened, Actor.of_this_account(), name, roles, full_name=full_name or "", password=password
    )
    elsewhere = opened.settings.web.openid is not None or opened.settings.web.proxy_login is not None
    wanted = password is None and not set(roles) <= PROGRAMS and not elsewhere if link is None else link
    address = _link(opened, name) if wanted else None
    words = [f"the account {name} is added"] + ([_about_link(), address] if address else [])
    _tell(as_json, {"name": name, "roles": sorted(roles), "link": address}, *words)


@user_app.command("list")
def list_users(site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False) -> None:
    """List every account: what it is for, and how it stands."""
    from mqi_dagster.operations.people import people

    opened = open_site(site)
    now = opened.ledger.database.clock()
    rows = []
    for one in people(opened, Actor.of_this_account()):
        state = "has a password" if one.password is not None else "without a password"
        if one.disabled_at is not None:
            state = "disabled"
        elif one.locked_until is not None and one.locked_until > now:
            state = f"locked until {local(one.locked_until, opened.timezone)}"
        rows.append(
            {
                **{"name": one.name, "full_name": one.full_name, "state": state},
                "roles": sorted(one.roles) if as_json else ", ".join(sorted(one.roles)),
                "created": one.created_at if as_json else local(one.created_at, opened.timezone),
            }
        )
    show_rows(rows, as_json, _ACCOUNTS, "nobody has an account: `mqi user add NAME --role admin` makes one")


@user_app.command("change")
def change_user(
    name: NameArgument,
    role: RoleOption = None,
    full_name: FullNameOption = None,
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Give an account other roles in place of those that it has, or another name."""
    from mqi_dagster.operations import people

    if role is None and full_name is None:
        raise typer.BadParameter("give --role or --full-name")
    roles = None if role is None else people.roles_in(role)
    people.change_user(open_site(site), Actor.of_this_account(), name, roles=roles, full_name=full_name)
    _tell(as_json, {"name": name}, f"the account {name} is changed")


@user_app.command("password")
def set_password(
    name: NameArgument,
    password_file: FileOption = None,
    prompt: PromptOption = False,
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Give an account another password, which signs it out everywhere."""
    from mqi_dagster.operations import people

    password = _password(password_file, prompt)
    if password is None:
        raise typer.BadParameter("give --password-file or --prompt; `mqi user link` needs no password")
    people.set_password(open_site(site), Actor.of_this_account(), name, password)
    _tell(as_json, {"name": name}, f"the password of {name} is set, and {name} is signed out everywhere")


@user_app.command("link")
def link_user(name: NameArgument, site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False) -> None:
    """Make a link that signs a browser in once as an account, for who has no password or forgot it."""
    address = _link(open_site(site), name)
    _tell(as_json, {"name": name, "link": address}, _about_link(), address)


@user_app.command("disable")
def disable_user(name: NameArgument, site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False) -> None:
    """Keep an account out: signed out at once, its tokens worthless, and nothing of it is lost."""
    _disable(site, name, True, as_json)


@user_app.command("enable")
def enable_user(name: NameArgument, site: SiteOption = DEFAULT_SITE, as_json: JsonOption = False) -> None:
    """Let a disabled account in again."""
    _disable(site, name, False, as_json)


def _disable(site: Path, name: str, disabled: bool, as_json: bool) -> None:
    from mqi_dagster.operations import people

    people.change_user(open_site(site), Actor.of_this_account(), name, disabled=disabled)
    state = "disabled" if disabled else "enabled"
    _tell(as_json, {"name": name, "state": state}, f"the account {name} is {state}")


@token_app.command("make")
def make_token(
    name: NameArgument,
    purpose: Annotated[str, typer.Option("--for", help="What it is for, in one line.")],
    scope: Annotated[list[Right], typer.Option("--scope", help="What it may do; once for each right.")],
    days: Annotated[int, typer.Option(help="For how many days it is valid.", min=1)] = 90,
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Make a token with which a program acts for an account; it is shown once, and kept nowhere."""
    from mqi_dagster.operations import people

    opened = open_site(site)
    scopes = people.scopes_in(scope)
    made = people.make_token(opened, Actor.of_this_account(), name, purpose, scopes, timedelta(days=days))
    until = local(made.token.expires_at, opened.timezone)
    content = {"id": made.token.id, "secret": made.secret, "expires": made.token.expires_at}
    _tell(as_json, content, f"the token {made.token.id}, valid until {until}:", made.secret)


@token_app.command("list")
def list_tokens(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of this account alone.")] = None,
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """List tokens, the newest first."""
    from mqi_dagster.operations import people

    opened = open_site(site)
    now = opened.ledger.database.clock()
    rows = []
    for one in people.tokens_of(opened, Actor.of_this_account(), name):
        state = "revoked" if one.revoked_at else "expired" if people.expired(one, now) else "valid"
        used = None if one.used_at is None else local(one.used_at, opened.timezone)
        rows.append(
            {
                **{"id": one.id, "user": one.user, "for": one.name, "state": state},
                "scopes": sorted(one.scopes) if as_json else ", ".join(sorted(one.scopes)),
                "expires": one.expires_at if as_json else local(one.expires_at, opened.timezone),
                "used": one.used_at if as_json else used or "never",
            }
        )
    show_rows(rows, as_json, _TOKENS, "there is no token")


@token_app.command("revoke")
def revoke_token(
    token: Annotated[str, typer.Argument(metavar="ID", help="As `mqi token list` shows it.")],
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Make a token worthless."""
    from mqi_dagster.operations import people

    people.revoke_token(open_site(site), Actor.of_this_account(), token)
    _tell(as_json, {"id": token, "state": "revoked"}, f"the token {token} is revoked")


ActorOption = Annotated[str, typer.Option("--actor", help="Only what this login did.")]
AboutOption = Annotated[str, typer.Option("--about", help="Only about this case, course, account or GPU.")]
ActionOption = Annotated[str, typer.Option("--action", help="Only this action, such as signed_in.")]
FirstOption = Annotated[str, typer.Option("--from", help="From this day on, YYYY-MM-DD, in the site's zone.")]
LastOption = Annotated[str, typer.Option("--until", help="Until this day, which counts.")]


@audit_app.command("list")
def list_audit(
    actor: ActorOption = "",
    about: AboutOption = "",
    action: ActionOption = "",
    first: FirstOption = "",
    last: LastOption = "",
    limit: Annotated[int, typer.Option(help="Rows at most.", min=1, max=10_000)] = 50,
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """List what was done, the newest first; that it was read stands there, too."""
    from mqi_dagster.operations import audit

    opened = open_site(site)
    wanted = audit.selection(opened, actor, about, action, first, last)
    rows = []
    for row in audit.read_audit(opened, Actor.of_this_account(), wanted, limit):
        details = audit.details_of(row)
        words = "; ".join(f"{key} {value}" for key, value in details.items())
        rows.append(
            {
                **{"number": row.number, "actor": row.actor, "via": row.via, "action": row.action.value},
                **{"subject": row.subject, "outcome": row.outcome.value, "hash": row.hash},
                "at": row.at if as_json else local(row.at, opened.timezone, seconds=True),
                "details": details if as_json else words,
            }
        )
    show_rows(rows, as_json, _AUDIT, "no row fits", lambda text: in_zone(text, opened.timezone))


@audit_app.command("export")
def export_audit(
    actor: ActorOption = "",
    about: AboutOption = "",
    action: ActionOption = "",
    first: FirstOption = "",
    last: LastOption = "",
    kind: Annotated[
        str,
        typer.Option("--format", help="jsonl: one JSON object a line, with its hash; csv: for spreadsheets."),
    ] = "jsonl",
    file: Annotated[
        Path | None, typer.Option("--output", help="File to write, mode 0600; else standard output.")
    ] = None,
    site: SiteOption = DEFAULT_SITE,
) -> None:
    """Write out every row that fits, the oldest first; that it was exported stands in the audit."""
    from mqi_dagster.operations import audit

    if kind not in tuple(audit.ExportFormat):
        raise typer.BadParameter(f"--format is one of {', '.join(audit.ExportFormat)}")
    opened = open_site(site)
    wanted = audit.selection(opened, actor, about, action, first, last)
    lines = audit.export_audit(opened, Actor.of_this_account(), wanted, audit.ExportFormat(kind))
    if file is None:
        for line in lines:
            sys.stdout.write(line)
        return
    try:
        with whole_file(file) as stream:
            for line in lines:
                stream.write(line.encode())
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from None


@audit_app.command("verify")
def verify_audit(
    number: Annotated[int | None, typer.Option(help="A row that was noted elsewhere.", min=1)] = None,
    noted: Annotated[str | None, typer.Option("--hash", help="Its hash.")] = None,
    site: SiteOption = DEFAULT_SITE,
    as_json: JsonOption = False,
) -> None:
    """Recompute every hash, and say which row to note elsewhere; exit 1 where one was changed."""
    from mqi_dagster.operations import audit

    newest = audit.verify_audit(open_site(site), Actor.of_this_account(), number=number, expected=noted)
    if newest is None:
        _tell(as_json, {"whole": True, "number": 0, "hash": None}, "the audit is empty")
        return
    _tell(
        as_json,
        {"whole": True, "number": newest.number, "hash": newest.hash},
        "the audit is whole; note its newest row outside of this machine:",
        f"mqi audit verify --number {newest.number} --hash {newest.hash}",
    )
