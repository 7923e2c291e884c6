"""The secret of a site: made once, and never replaced in silence."""

from __future__ import annotations

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.ledger.database import revision_of
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.place import ledger_url
from mqi_dagster.ledger.tables import REVISION
from mqi_dagster.pseudonyms import Pseudonyms, make_secret, read_secret
from mqi_dagster.settings import Settings


def ensure_secret(settings: Settings, *, new: bool = False) -> bool:
    """Make the secret of a site that has named nothing with one yet.

    Args:
        settings: Of the site.
        new: Whether the secret of then is given up: every case gets another name, and is simulated anew.

    Returns:
        Whether one was made.

    Raises:
        ConfigurationError: The site has cases, and their secret is lost or another one.
    """
    path = settings.site.secret_file
    url = ledger_url(settings)
    ledger = Ledger.open(url) if revision_of(url) is not None else None
    try:
        missing = not path.exists()
        if missing and ledger is not None and ledger.names_cases() and not new:
            raise ConfigurationError(
                f"the secret of this site is lost ({path.name}), and its cases were named with it: put it"
                " back from a backup. Where there is none, `mqi init --new-secret` makes another, under which"
                " every case is named and simulated anew"
            )
        if missing:
            make_secret(path)
        if ledger is not None:
            if new:
                ledger.forget_key()
            ledger.require_key(Pseudonyms(read_secret(path)).check)
        return missing
    finally:
        if ledger is not None:
            ledger.close()


def require_own_secret(settings: Settings) -> None:
    """Check that the secret can be read and is that of the site's cases; nothing is written.

    Raises:
        ConfigurationError: It is not.
        InfrastructureError: The ledger cannot be read.
    """
    check = Pseudonyms(read_secret(settings.site.secret_file)).check
    url = ledger_url(settings)
    if revision_of(url) != REVISION:
        # Of earlier code, or none: it knows no key check value.
        return
    ledger = Ledger.open_reading(url)
    try:
        known = ledger.key_check()
    finally:
        ledger.close()
    if known is not None and known != check:
        raise ConfigurationError("it is not the one that this site's cases were named with")
