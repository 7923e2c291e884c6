"""What the server needs of the machine: Debian's PostgreSQL, without the database of the whole machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cluster.errors import NotPreparedError
from cluster.packages import absent, how_to_install, install_packages

_COMMON = "postgresql-common"
_WANTED = (_COMMON, "postgresql")
_SETTINGS = Path("/etc/postgresql-common/createcluster.conf")
_PROGRAMS = Path("/usr/lib/postgresql")


def missing_packages() -> list[str]:
    """Names of the Debian packages that are not installed."""
    return absent(_WANTED)


def install() -> list[str]:
    """Install what is missing; no server is started, and no database of the whole machine is made.

    Returns:
        What was installed; empty when everything was there.

    Raises:
        NotPreparedError: Something is missing and this is not root.
        ClusterError: apt says that it cannot.
    """
    missing = missing_packages()
    if not missing:
        return []
    if os.geteuid() != 0:
        raise NotPreparedError("\n".join(how_to_install(missing)))
    if _COMMON in missing:
        install_packages([_COMMON])
    # The server's maintainer script makes a database named main unless it reads here that it should not.
    before = _SETTINGS.read_text()
    line = "create_main_cluster = false"
    _SETTINGS.write_text(re.sub(r"(?m)^#? *create_main_cluster *=.*$", "", before) + f"{line}\n")
    try:
        install_packages([name for name in missing if name != _COMMON])
    finally:
        _SETTINGS.write_text(before)
    return missing


def programs() -> Path:
    """The folder of the newest server's programs; Debian puts them on nobody's PATH.

    Raises:
        NotPreparedError: There is none.
    """
    found = [path.parent.parent for path in _PROGRAMS.glob("*/bin/initdb")]
    if not found:
        raise NotPreparedError("PostgreSQL is not installed here: python3 deploy/postgres install")
    return max(found, key=lambda path: float(path.name)) / "bin"
