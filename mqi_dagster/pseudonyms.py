"""Names that say nothing about a patient: keyed hashes of identifiers, under the secret of the site."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.files import write_whole

SECRET_BYTES = 32
PLAN_PREFIX = "P"
UNREADABLE_PREFIX = "X"
PATIENT_PREFIX = "R"
SERIES_PREFIX = "S"
DOSE_PREFIX = "D"


class Pseudonyms:
    """Keyed hashes of identifiers.

    Args:
        secret: The site's key, at least 16 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 16:
            raise ConfigurationError(
                "the site's secret is shorter than 16 bytes; run `mqi init` for a new one"
            )
        self._secret = secret

    def keyed(self, *parts: str) -> str:
        """Keyed SHA-256 of the parts, hexadecimal; a part may be a file name that is not UTF-8."""
        message = "\x1f".join(parts).encode("utf-8", "surrogateescape")
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()

    @property
    def check(self) -> str:
        """Key check value: tells this secret from another one, and nothing of it."""
        return self.keyed("key check")

    def _short(self, *parts: str) -> str:
        digest = bytes.fromhex(self.keyed(*parts))
        return base64.b32encode(digest).decode("ascii")[:9]

    def plan(self, sop_instance_uid: str) -> str:
        """``P`` and 9 base-32 characters for a plan's SOP Instance UID."""
        return PLAN_PREFIX + self._short("plan", sop_instance_uid)

    def patient(self, patient_id: str, issuer: str | None) -> str:
        """``R`` and 9 base-32 characters for a patient ID and who has issued it."""
        return PATIENT_PREFIX + self._short("patient", patient_id, issuer or "")

    def series(self, *series_uids: str) -> str:
        """``S`` and 9 base-32 characters for Series Instance UIDs, whatever their order."""
        return SERIES_PREFIX + self._short("series", *sorted(series_uids))

    def dose(self, *dose_uids: str) -> str:
        """``D`` and 9 base-32 characters for the SOP Instance UIDs of a dose, or of the parts of a sum."""
        return DOSE_PREFIX + self._short("dose", *sorted(dose_uids))

    def unreadable(self, relative_path: str) -> str:
        """``X`` and 9 base-32 characters for an arrival without exactly one readable plan."""
        return UNREADABLE_PREFIX + self._short("arrival", relative_path)


_LONGEST_NAME = 170
"""Characters of a folder name in a key: a cluster takes no longer names."""


def folder_name_key(name: str) -> str:
    """A folder name as the plan part of a case key.

    Every character outside ``[A-Za-z0-9.-]`` becomes ``-``, dots in a row become one, the ends lose dots and
    hyphens, and a long name is cut; 8 hexadecimal characters of the name's hash follow where anything was
    changed, so that different names stay different. Whoever calls has asked that it names nobody.
    """
    safe = re.sub(r"[^A-Za-z0-9.-]", "-", name)
    if safe != name or safe[:1] in ("", ".", "-") or ".." in safe or len(safe) > _LONGEST_NAME:
        safe = re.sub(r"\.{2,}", ".", safe)[:_LONGEST_NAME].strip(".-")
        safe = f"{safe or 'case'}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
    return safe


def read_secret(path: Path) -> bytes:
    """The site's secret.

    Raises:
        ConfigurationError: The file is missing, open to others, or too short.
    """
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            "the site's secret cannot be read: put it back from a backup"
            " (a new site has none yet: `mqi init`)"
        ) from error
    if mode & 0o077:
        raise ConfigurationError(f"the site's secret has mode {mode:04o}; make it 0600")
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise ConfigurationError("the site's secret is not hexadecimal") from error


def make_secret(path: Path) -> None:
    """Write a new secret with mode 0600; an existing one stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(path, f"{secrets.token_hex(SECRET_BYTES)}\n".encode("ascii"), replace=False)
