"""Accounts and tokens: who may use a site, and how they sign in."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mqi_dagster.errors import InputError, NotAllowedError, SignInError
from mqi_dagster.ledger.accounts import Account, Session, Token
from mqi_dagster.ledger.audit import Action, Outcome
from mqi_dagster.moments import local
from mqi_dagster.operations.audited import audited
from mqi_dagster.people import passwords
from mqi_dagster.people.rights import Actor, Right, Role, rights_of
from mqi_dagster.people.tries import SignInTries, lock_of
from mqi_dagster.resources.site import Site
from mqi_dagster.settings.web import Language

_NAME = re.compile(r"[a-z][a-z0-9._@-]{0,99}")
_FORGOTTEN = timedelta(minutes=15)
"""For so long whoever came by a link sets a password without the present one."""
LINK_VALID = timedelta(minutes=15)
TOKEN_PREFIX = "mqi_"
LONGEST_TOKEN = timedelta(days=366)
_WRONG = "name or password is wrong"
_CHECKING = threading.Lock()
NOBODY = "nobody"
"""Stands in the audit for a name that has no account; no account has this one."""


def roles_in(names: Iterable[str]) -> frozenset[Role]:
    """The roles of these names.

    Raises:
        InputError: One is none, or there is none.
    """
    try:
        roles = frozenset(Role(name) for name in names)
    except ValueError:
        raise InputError(f"a role is one of {', '.join(Role)}") from None
    if not roles:
        raise InputError("an account needs a role")
    return roles


def scopes_in(names: Iterable[str]) -> frozenset[Right]:
    """The rights of these names; see `roles_in`."""
    try:
        scopes = frozenset(Right(name) for name in names)
    except ValueError:
        raise InputError(f"a scope is one of {', '.join(Right)}") from None
    if not scopes:
        raise InputError("a token needs a scope")
    return scopes


def actor_of(account: Account, via: str, scopes: Collection[Right] | None = None) -> Actor:
    """An account as an actor.

    Args:
        account: Whose.
        via: See `Actor.via`.
        scopes: To which a token is limited.
    """
    # A role that a later version has written gives nothing here.
    rights = rights_of([role for role in Role if role.value in account.roles])
    return Actor(account.name, rights if scopes is None else rights & frozenset(scopes), via)


def add_user(
    site: Site,
    actor: Actor,
    name: str,
    roles: Collection[Role],
    *,
    full_name: str = "",
    password: str | None = None,
) -> Account:
    """Add an account.

    Args:
        site: The site.
        actor: Who adds it.
        name: Its login: small letters, digits, ``.``, ``_``, ``@``, ``-``.
        roles: What it is for.
        full_name: As signatures show it; the login where it is empty.
        password: None of one who signs in by a link first, or elsewhere.

    Raises:
        InputError: The name or the password is not good, or there is such an account.
        NotAllowedError: The actor does not have the right ``people``.
    """
    if not _NAME.fullmatch(name) or name == NOBODY:
        raise InputError("a login has small letters, digits and . _ @ -, and begins with a letter")
    if password is not None:
        passwords.require_good(password, name)
    _require_full_name(full_name)
    with audited(site, actor, Right.PEOPLE, Action.USER_ADDED, name, roles=" ".join(sorted(roles))):
        stored = None if password is None else passwords.hashed(password)
        site.ledger.accounts.add(name, full_name or name, roles, stored)
    return require_account(site, name)


def people(site: Site, actor: Actor) -> list[Account]:
    """Every account, by login.

    Raises:
        NotAllowedError: The actor does not have the right ``people``.
    """
    actor.require(Right.PEOPLE)
    return site.ledger.accounts.all()


def change_user(
    site: Site,
    actor: Actor,
    name: str,
    *,
    roles: Collection[Role] | None = None,
    full_name: str | None = None,
    disabled: bool | None = None,
) -> Account:
    """Change an account; see `add_user`. One that is disabled is signed out everywhere.

    Raises:
        InputError: There is no such account, or nobody could administer the site any more.
        NotAllowedError: The actor does not have the right ``people``.
    """
    wanted = {
        "roles": None if roles is None else " ".join(sorted(roles)),
        "disabled": None if disabled is None else str(disabled).lower(),
    }
    details = {key: value for key, value in wanted.items() if value is not None}
    _require_full_name(full_name or "")
    with audited(site, actor, Right.PEOPLE, Action.USER_CHANGED, name, **details):
        require_account(site, name)
        if name == actor.name and (disabled or (roles is not None and Role.ADMIN not in roles)):
            raise InputError("nobody takes the administration from themselves: another admin does")
        site.ledger.accounts.change(name, roles=roles, full_name=full_name, disabled=disabled)
    return require_account(site, name)


def _require_full_name(full_name: str) -> None:
    """A signature shows it: it holds nothing that makes a line be read otherwise than it is written."""
    if len(full_name) > 200 or not full_name.isprintable():
        raise InputError("a full name is one line of at most 200 characters that can be printed")


def set_password(
    site: Site,
    actor: Actor,
    name: str,
    password: str,
    *,
    present: str | None = None,
    session: Session | None = None,
) -> None:
    """Give an account another password, which signs it out everywhere.

    Args:
        site: The site.
        actor: Who does it.
        name: Whose; one's own with the present password, or with the right ``people``.
        password: The new one.
        present: The present one, where it is one's own.
        session: In which it is done: whoever has just come by a link need not know the present one.

    Raises:
        InputError: The new password is not good, or there is no such account.
        SignInError: The present one is wrong.
        NotAllowedError: It is another's, and the actor does not have the right ``people``; or it is a token.
    """
    _require_person(actor)
    own = name == actor.name
    account = require_account(site, name)
    passwords.require_good(password, name)
    right = Right.LOOK if own else Right.PEOPLE
    with audited(site, actor, right, Action.PASSWORD_CHANGED, name) as told:
        if own and account.password is not None:
            if session is not None and may_forget(session, site.ledger.database.clock()):
                told["by"] = "link"
            else:
                require_password(site, account, present or "")
        site.ledger.accounts.change(name, password=passwords.hashed(password))


def may_forget(session: Session, now: datetime) -> bool:
    """Whether a session lets its account set a password without the present one: a link began it of late."""
    return session.via == "link" and now - session.created_at <= _FORGOTTEN


def require_account(site: Site, name: str) -> Account:
    """An account; InputError where there is none."""
    account = site.ledger.accounts.get(name)
    if account is None:
        raise InputError(f"there is no account {name!r}; `mqi user list` names them")
    return account


def require_password(site: Site, account: Account, password: str) -> None:
    """Check a password, and count wrong ones.

    Raises:
        SignInError: It is wrong, or the account is locked for a while.
    """
    # One after the other: beside each other wrong ones would pass the lock.
    with _CHECKING:
        account = require_account(site, account.name)
        _require_unlocked(site, account.locked_until)
        if not passwords.matches(account.password, password):
            site.ledger.accounts.failed(account.name, lock_of)
            raise SignInError(_WRONG)
    if account.failures:
        site.ledger.accounts.succeeded(account.name)
    if account.password is not None and passwords.is_dated(account.password):
        site.ledger.accounts.rehash(account.name, passwords.hashed(password))


def _require_unlocked(site: Site, until: datetime | None) -> None:
    if until is not None and until > site.ledger.database.clock():
        raise SignInError(f"too many wrong passwords: locked until {local(until, site.timezone)}")


def check_password(site: Site, name: str, password: str, tries: SignInTries, address: str) -> Account:
    """The account that a name and a password belong to; every failure is in the audit.

    A name without an account is refused as one with an account is, and takes as long.

    Args:
        site: The site.
        name: As it was typed; what may be a password in the wrong field is written down nowhere.
        password: As it was typed.
        tries: Those that have failed before.
        address: Of whoever asks.

    Raises:
        SignInError: They belong to none, or the account is disabled or locked.
        TooManyTriesError: Too many tries from this address have failed, or many are made at this moment.
    """
    name = name.strip().lower()
    tries.require_few(address, site.ledger.database.clock())
    with tries.turn():
        account = site.ledger.accounts.get(name)
        try:
            if account is None or account.disabled_at is not None:
                _require_unlocked(site, tries.locked_until(name))
                passwords.matches(None, password)
                tries.unknown(name, site.ledger.database.clock())
                raise SignInError(_WRONG)
            require_password(site, account, password)
        except SignInError as error:
            tries.failed(address, site.ledger.database.clock())
            refused_sign_in(site, NOBODY if account is None else name, "password", error.message, address)
            raise
    return account


def refused_sign_in(site: Site, name: str, via: str, cause: str, address: str) -> None:
    """Write into the audit that somebody was not let in."""
    details = {"by": via, "from": address, "cause": cause}
    site.ledger.audit.add(name, "pages", Action.SIGNED_IN, name, Outcome.REFUSED, details)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A new session and the secret of its cookie, which is kept nowhere."""

    secret: str
    session: Session


def sign_in(site: Site, account: Account, via: str, address: str = "") -> SignedIn:
    """Sign a browser in as an account that has proved itself; sessions that are over are removed.

    Args:
        site: The site.
        account: Whose.
        via: ``password``, ``link``, ``oidc`` or ``proxy``.
        address: Of the browser.

    Raises:
        SignInError: The account is disabled.
    """
    if account.disabled_at is not None:
        refused_sign_in(site, account.name, via, "disabled", address)
        raise SignInError("this account is disabled: an admin enables it")
    web, sessions = site.settings.web, site.ledger.sessions
    sessions.remove_ended(timedelta(minutes=web.idle_minutes), timedelta(hours=web.session_hours))
    secret = passwords.new_secret()
    session = sessions.begin(passwords.fingerprint(secret), account.name, passwords.new_secret(), via)
    details = {"by": via, **({"from": address} if address else {})}
    site.ledger.audit.add(account.name, "pages", Action.SIGNED_IN, account.name, details=details)
    return SignedIn(secret, session)


def sign_out(site: Site, session: Session) -> None:
    """Sign a browser out."""
    site.ledger.sessions.end(session.fingerprint)
    site.ledger.audit.add(session.user, "pages", Action.SIGNED_OUT, session.user)


def sessions_of(site: Site, actor: Actor, name: str) -> list[Session]:
    """Where an account is signed in, the browser that was used last first.

    Raises:
        NotAllowedError: It is another's, and the actor does not have the right ``people``.
    """
    actor.require(Right.LOOK if name == actor.name else Right.PEOPLE)
    web = site.settings.web
    idle, longest = timedelta(minutes=web.idle_minutes), timedelta(hours=web.session_hours)
    return site.ledger.sessions.of(name, idle, longest)


def end_sessions(site: Site, actor: Actor, name: str, *, but: str = "") -> int:
    """Sign an account out of every browser.

    Args:
        site: The site.
        actor: Who does it.
        name: Whose; one's own, or with the right ``people``.
        but: Fingerprint of one that goes on.

    Returns:
        How many there were.

    Raises:
        NotAllowedError: It is another's, and the actor does not have the right ``people``.
    """
    right = Right.LOOK if name == actor.name else Right.PEOPLE
    with audited(site, actor, right, Action.SIGNED_OUT, name, where="everywhere") as told:
        count = site.ledger.sessions.end_of(name, but=but)
        told["browsers"] = str(count)
    return count


def choose_language(site: Site, actor: Actor, language: Language | None) -> None:
    """Set the language of one's own pages; None: the browser's."""
    chosen = "" if language is None else language.value
    with audited(site, actor, Right.LOOK, Action.USER_CHANGED, actor.name, language=chosen):
        site.ledger.accounts.change(actor.name, language=chosen)


def _require_person(actor: Actor) -> None:
    """What a token could give itself would be more than its scopes."""
    if actor.via.startswith("token:"):
        raise NotAllowedError("a token makes no tokens and no links, and sets no passwords: a person does")


def make_link(site: Site, actor: Actor, name: str) -> str:
    """A secret that signs a browser in once as an account, within `LINK_VALID`.

    Raises:
        InputError: There is no such account, or it is disabled.
        NotAllowedError: The actor does not have the right ``people``, or is a token.
    """
    _require_person(actor)
    with audited(site, actor, Right.PEOPLE, Action.LINK_MADE, name):
        if require_account(site, name).disabled_at is not None:
            raise InputError(f"the account {name!r} is disabled")
        secret = passwords.new_secret()
        site.ledger.sessions.add_link(passwords.fingerprint(secret), name, LINK_VALID)
    return secret


def take_link(site: Site, secret: str, *, use: bool = True) -> Account:
    """The account that a link is for.

    Args:
        site: The site.
        secret: Of the link.
        use: Whether it is used up; else it is only looked at, as programs that read mails do.

    Raises:
        SignInError: It is used, expired or invented.
    """
    name = site.ledger.sessions.of_link(passwords.fingerprint(secret), use=use)
    account = None if name is None else site.ledger.accounts.get(name)
    if account is None:
        raise SignInError("this link was used, or has expired: `mqi user link NAME` makes another")
    return account


@dataclass(frozen=True, slots=True)
class WayIn:
    """How whoever has started the services signs in."""

    name: str
    """Login of an account; empty where theirs is unknown."""
    code: str = ""
    """Of a link that signs in once; empty where there is a password, or another way."""


_OWNER = frozenset({Role.ADMIN, Role.APPROVER, Role.PHYSICIST, Role.ENGINEER})


def way_in(site: Site) -> WayIn:
    """How this account of the machine signs in: the site's first account is made for it."""
    actor = Actor.of_this_account()
    login = actor.name.partition(":")[2].lower()
    name = login if _NAME.fullmatch(login) else "owner"
    accounts = {account.name: account for account in site.ledger.accounts.all()}
    if not accounts:
        account = add_user(site, actor, name, _OWNER)
    elif name in accounts:
        account = accounts[name]
    else:
        return WayIn("")
    web = site.settings.web
    elsewhere = web.openid is not None or web.proxy_login is not None
    if account.password is not None or account.disabled_at is not None or elsewhere:
        return WayIn(name)
    return WayIn(name, make_link(site, actor, name))


@dataclass(frozen=True, slots=True)
class MadeToken:
    """A new token and its secret, which is shown once."""

    secret: str
    token: Token


def make_token(
    site: Site, actor: Actor, name: str, purpose: str, scopes: Collection[Right], valid: timedelta
) -> MadeToken:
    """Make a token for a program.

    Args:
        site: The site.
        actor: Who makes it.
        name: The account that it acts for; one's own, or with the right ``people``.
        purpose: What it is for, one line.
        scopes: What it may do, as far as the account may.
        valid: For how long, at most `LONGEST_TOKEN`.

    Raises:
        InputError: There is no such account, or purpose or time are not usable.
        NotAllowedError: It is another's account and the actor does not have the right ``people``, or the
            actor has come by a token.
    """
    if not timedelta() < valid <= LONGEST_TOKEN:
        raise InputError(f"a token is valid for 1 to {LONGEST_TOKEN.days} days")
    if not purpose.isprintable() or not 0 < len(purpose) <= 100:
        raise InputError("say in one line of at most 100 characters what the token is for")
    _require_person(actor)
    account = require_account(site, name)
    secret, identity = TOKEN_PREFIX + passwords.new_secret(), secrets.token_hex(6)
    right = Right.LOOK if name == actor.name else Right.PEOPLE
    details = {"of": name, "scopes": " ".join(sorted(scopes)), "for": purpose}
    with audited(site, actor, right, Action.TOKEN_MADE, identity, **details):
        token = site.ledger.tokens.add(
            identity, passwords.fingerprint(secret), account.name, purpose, scopes, valid
        )
    return MadeToken(secret, token)


def revoke_token(site: Site, actor: Actor, identity: str) -> None:
    """Make a token worthless.

    Raises:
        InputError: There is no such token.
        NotAllowedError: It is another's, and the actor does not have the right ``people``.
    """
    token = site.ledger.tokens.get(identity)
    if token is None:
        raise InputError(f"there is no token {identity!r}")
    right = Right.LOOK if token.user == actor.name else Right.PEOPLE
    with audited(site, actor, right, Action.TOKEN_REVOKED, identity):
        site.ledger.tokens.revoke(identity)


def tokens_of(site: Site, actor: Actor, name: str | None = None) -> list[Token]:
    """The tokens of an account, or of all, the newest first; also those that are worth nothing any more.

    Raises:
        NotAllowedError: They are another's, and the actor does not have the right ``people``.
    """
    actor.require(Right.LOOK if name == actor.name else Right.PEOPLE)
    return site.ledger.tokens.all(name)


def bearer(site: Site, secret: str) -> Actor | None:
    """Whom a token stands for; None where it is expired, revoked or invented."""
    found = site.ledger.tokens.find(passwords.fingerprint(secret))
    if found is None:
        return None
    token, account = found
    scopes = [right for right in Right if right.value in token.scopes]
    return actor_of(account, f"token:{token.id}", scopes)


def expired(token: Token, now: datetime | None = None) -> bool:
    """Whether a token is worth nothing any more."""
    return token.revoked_at is not None or token.expires_at <= (now or datetime.now(UTC))
