"""Passwords of people, and secrets that programs are given."""

from __future__ import annotations

import hashlib
import secrets
import threading
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from mqi_dagster.errors import InputError

SHORTEST, LONGEST = 12, 200
"""Characters of a password: NIST SP 800-63B asks for length, and that it is none of the common ones."""
_COMMON = ("password", "qwerty", "asdf", "1234", "abcd", "letmein", "welcome", "admin", "iloveyou")
_UNCOMMON = 8
"""Characters that are left of a password without its account's name and the words that everybody tries."""
_AT_ONCE = threading.Semaphore(2)
"""Each hash takes 64 MB while it is made."""
_HASHER = PasswordHasher()
"""Argon2id with the parameters of RFC 9106 for little memory, as the library has them."""


@cache
def _nobody() -> str:
    """A hash that no password has."""
    return _HASHER.hash(secrets.token_hex(16))


def require_good(password: str, name: str) -> None:
    """Check a password that somebody wants to have.

    Raises:
        InputError: It is too short or too long, or the name of the account.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise InputError(f"a password has from {SHORTEST} to {LONGEST} characters")
    rest = password.casefold()
    for word in (name.casefold(), *_COMMON):
        rest = rest.replace(word, "")
    if len(set(password)) < 5 or len(rest) < _UNCOMMON:
        raise InputError("this password is guessed easily: take some words that do not belong together")


def hashed(password: str) -> str:
    """The Argon2id hash of a password, with its salt and parameters."""
    with _AT_ONCE:
        return _HASHER.hash(password)


def matches(stored: str | None, password: str) -> bool:
    """Whether a password is the one that was hashed.

    Args:
        stored: Its hash; None of an account that has none, or that is not there: it takes as long.
        password: What somebody says.
    """
    if len(password) > LONGEST:
        return False
    try:
        with _AT_ONCE:
            return _HASHER.verify(stored or _nobody(), password) and stored is not None
    except (VerificationError, InvalidHashError):
        return False


def is_dated(stored: str) -> bool:
    """Whether a hash was made with other parameters than those in use."""
    return _HASHER.check_needs_rehash(stored)


def new_secret() -> str:
    """256 random bits as text that may stand in a cookie, a header or an address."""
    return secrets.token_urlsafe(32)


def fingerprint(secret: str) -> str:
    """What is kept of a secret with so many random bits: its SHA-256."""
    return hashlib.sha256(secret.encode()).hexdigest()
