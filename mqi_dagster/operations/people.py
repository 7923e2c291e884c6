"""Accounts and tokens: who may use a site, and how they sign in."""

from __future__ import annotations

import re
import secrets
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
from mqi_dagster.resources.site import Site

_NAME = re.compile(r"[a-z][a-z0-9._@-]{0,99}")
_FREE_FAILURES = 5
_LONGEST_LOCK = timedelta(hours=1)
LINK_VALID = timedelta(minutes=15)
TOKEN_PREFIX = "mqi_"
LONGEST_TOKEN = timedelta(days=366)
_WRONG = "name or password is wrong"


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
    if not _NAME.fullmatch(name):
        raise InputError("a login has small letters, digits and . _ @ -, and begins with a letter")
    if password is not None:
        passwords.require_good(password, name)
    with audited(site, actor, Right.PEOPLE, Action.USER_ADDED, name, roles=" ".join(sorted(roles))):
        stored = None if password is None else passwords.hashed(password)
        site.ledger.accounts.add(name, full_name[:200] or name, roles, stored)
    return require_account(site, name)


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
    with audited(site, actor, Right.PEOPLE, Action.USER_CHANGED, name, **details):
        if name == actor.name and (disabled or (roles is not None and Role.ADMIN not in roles)):
            raise InputError("nobody takes the administration from themselves: another admin does")
        site.ledger.accounts.change(name, roles=roles, full_name=full_name, disabled=disabled)
    return require_account(site, name)


def set_password(site: Site, actor: Actor, name: str, password: str, *, present: str | None = None) -> None:
    """Give an account another password, which signs it out everywhere.

    Args:
        site: The site.
        actor: Who does it.
        name: Whose; one's own with the present password, or with the right ``people``.
        password: The new one.
        present: The present one, where it is one's own.

    Raises:
        InputError: The new password is not good, or there is no such account.
        SignInError: The present one is wrong.
        NotAllowedError: It is another's, and the actor does not have the right ``people``.
    """
    own = name == actor.name
    account = require_account(site, name)
    if own and account.password is not None:
        require_password(site, account, present or "")
    passwords.require_good(password, name)
    right = Right.LOOK if own else Right.PEOPLE
    with audited(site, actor, right, Action.PASSWORD_CHANGED, name):
        site.ledger.accounts.change(name, password=passwords.hashed(password))


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
    now = site.ledger.database.clock()
    if account.locked_until is not None and account.locked_until > now:
        raise SignInError(
            f"too many wrong passwords: locked until {local(account.locked_until, site.timezone)}"
        )
    if not passwords.matches(account.password, password):
        site.ledger.accounts.failed(account.name, _FREE_FAILURES, _LONGEST_LOCK)
        raise SignInError(_WRONG)
    if account.failures:
        site.ledger.accounts.succeeded(account.name)
    if account.password is not None and passwords.is_dated(account.password):
        site.ledger.accounts.change(account.name, password=passwords.hashed(password))


def check_password(site: Site, name: str, password: str) -> Account:
    """The account that a name and a password belong to; every try is in the audit.

    Raises:
        SignInError: They belong to none, or the account is disabled or locked.
    """
    account = site.ledger.accounts.get(name)
    try:
        if account is None or account.disabled_at is not None:
            passwords.matches(None, password)
            raise SignInError(_WRONG)
        require_password(site, account, password)
    except SignInError as error:
        site.ledger.audit.add(
            name, "pages", Action.SIGNED_IN, name, Outcome.REFUSED, {"cause": error.message}
        )
        raise
    return account


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A new session and the secret of its cookie, which is kept nowhere."""

    secret: str
    session: Session


def sign_in(site: Site, account: Account, via: str) -> SignedIn:
    """Sign a browser in as an account that has proved itself.

    Args:
        site: The site.
        account: Whose.
        via: ``password``, ``link``, ``oidc`` or ``proxy``.

    Raises:
        SignInError: The account is disabled.
    """
    if account.disabled_at is not None:
        raise SignInError("this account is disabled: an admin enables it")
    secret = passwords.new_secret()
    session = site.ledger.sessions.begin(
        passwords.fingerprint(secret), account.name, passwords.new_secret(), via
    )
    site.ledger.audit.add(account.name, "pages", Action.SIGNED_IN, account.name, details={"by": via})
    return SignedIn(secret, session)


def sign_out(site: Site, session: Session) -> None:
    """Sign a browser out."""
    site.ledger.sessions.end(session.fingerprint)
    site.ledger.audit.add(session.user, "pages", Action.SIGNED_OUT, session.user)


def make_link(site: Site, actor: Actor, name: str) -> str:
    """A secret that signs a browser in once as an account, within `LINK_VALID`.

    Raises:
        InputError: There is no such account, or it is disabled.
        NotAllowedError: The actor does not have the right ``people``.
    """
    with audited(site, actor, Right.PEOPLE, Action.LINK_MADE, name):
        if require_account(site, name).disabled_at is not None:
            raise InputError(f"the account {name!r} is disabled")
        secret = passwords.new_secret()
        site.ledger.sessions.add_link(passwords.fingerprint(secret), name, LINK_VALID)
    return secret


def take_link(site: Site, secret: str) -> Account:
    """The account that a link is for; it is used up.

    Raises:
        SignInError: It is used, expired or invented.
    """
    name = site.ledger.sessions.take_link(passwords.fingerprint(secret))
    account = None if name is None else site.ledger.accounts.get(name)
    if account is None:
        raise SignInError("this link was used, or has expired: `mqi user link NAME` makes another")
    return account


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
    if actor.via.startswith("token:"):
        raise NotAllowedError("a token makes no tokens")
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


def bearer(site: Site, secret: str) -> Actor | None:
    """Whom a token stands for; None where it is expired, revoked or invented."""
    found = site.ledger.tokens.find(passwords.fingerprint(secret))
    if found is None:
        return None
    token, account = found
    scopes = [right for right in Right if right.value in token.scopes]
    return actor_of(account, f"token:{token.id}", scopes)


def expired(token: Token) -> bool:
    """Whether a token is worth nothing any more."""
    return token.revoked_at is not None or token.expires_at <= datetime.now(UTC)
