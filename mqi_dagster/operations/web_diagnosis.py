"""What `mqi doctor` looks at of our own pages: where they listen, their certificate, and who gets in."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.operations.certificate import end_of, require_certificate
from mqi_dagster.operations.people import actor_of
from mqi_dagster.operations.probes import ProbeFinding, fault, finding, ok, warning
from mqi_dagster.operations.running import web_address
from mqi_dagster.operations.single_sign_on import OpenIdSignIn
from mqi_dagster.people.rights import Right
from mqi_dagster.settings import Settings
from mqi_dagster.settings.web import Web

_SOON = timedelta(days=21)
_ADD = "mqi user add NAME --role admin"


def examine_web(settings: Settings, ledger: Ledger | None) -> Iterator[ProbeFinding]:
    """Our own pages.

    Args:
        settings: Of the site.
        ledger: Where the accounts are; None where it cannot be read.
    """
    web = settings.web
    if web.in_clear:
        yield fault("pages", web.in_clear, "see docs/production.md")
    else:
        how = "behind a proxy" if web.behind_proxy else "with TLS" if web.tls_certificate else "without TLS"
        where = "this machine alone" if web.only_here else "others, too"
        yield ok("pages", f"{web_address(settings)}, {how}, for {where}")
    if web.tls_certificate is not None and web.tls_key is not None:
        yield _certificate(web, web.tls_certificate, web.tls_key)
    if web.openid is not None:
        provider = OpenIdSignIn(web.openid)
        advice = "see web.openid: issuer, and the file of the secret with mode 0600"
        yield finding("single sign-on", advice, lambda: f"{provider.check()} answers")
    if ledger is not None:
        yield _accounts(web, ledger)


def _certificate(web: Web, certificate: Path, key: Path) -> ProbeFinding:
    subject = "certificate"
    try:
        require_certificate(web)
        ends = end_of(certificate)
    except ConfigurationError as error:
        return fault(subject, error.message, "see web.tls_certificate")
    found = f"valid until {ends:%Y-%m-%d %H:%M} UTC"
    if ends <= datetime.now(UTC):
        return fault(subject, f"it was {found}", "renew it, and start the pages again")
    if stat.S_IMODE(key.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
        return warning(subject, f"{found}; others can read its key", "chmod 600 web.tls_key")
    if ends - datetime.now(UTC) < _SOON:
        return warning(subject, found, "renew it, and start the pages again")
    return ok(subject, found)


def _accounts(web: Web, ledger: Ledger) -> ProbeFinding:
    every = ledger.accounts.all()
    let_in = [one for one in every if one.disabled_at is None]
    if not let_in:
        if web.only_here and not web.behind_proxy:
            return ok("accounts", "none yet; `mqi dev` makes the first one")
        return fault("accounts", "nobody gets in", _ADD)
    admins = [one for one in let_in if actor_of(one, "").may(Right.PEOPLE)]
    found = f"{len(let_in)} of {len(every)} may sign in, {len(admins)} of them administer"
    if not admins:
        return warning("accounts", found, _ADD)
    without = [one.name for one in let_in if one.password is None and one.roles != {"service"}]
    if without and web.openid is None and web.proxy_login is None:
        found += f"; without a password, and in by links alone: {', '.join(without)}"
    return ok("accounts", found)
