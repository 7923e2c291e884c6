"""Who else on this machine may read or change what belongs to a site."""

from __future__ import annotations

import stat
from pathlib import Path

from mqi_dagster.cli.findings import Finding, Verdict
from mqi_dagster.errors import ConfigurationError
from mqi_dagster.handover.access import access_of
from mqi_dagster.ledger.place import LEDGER_FILE
from mqi_dagster.settings import LOCAL, HandoverAccess, Settings


def examine_modes(file: Path, settings: Settings) -> Finding:
    """Whether a site is its account's alone.

    Args:
        file: The settings.
        settings: Their content.
    """
    paths = settings.paths
    places = {
        "the site's folder": file.parent,
        "mqi.yaml": file,
        "machines": paths.machines,
        "data": paths.data,
        "state": paths.state,
        "the ledger": paths.state / LEDGER_FILE,
        "dagster_home": paths.dagster_home,
    }
    try:
        handover = access_of(settings.handover)
    except ConfigurationError as error:
        return Finding("modes", Verdict.FAULT, error.message, "make the group, or name another")
    local = settings.handover.target == LOCAL
    modes = {name: _mode(path) for name, path in places.items()}
    changed = [name for name, mode in modes.items() if mode & 0o022]
    shown = _mode(settings.handover.folder) if local else 0
    if shown & 0o002:
        changed.append("handover")
    if changed:
        found = f"others may change: {', '.join(changed)}"
        return Finding("modes", Verdict.FAULT, found, "chmod go-w on each of them")
    read = [name for name in ("data", "state", "the ledger", "dagster_home") if modes[name] & 0o077]
    if read:
        return Finding("modes", Verdict.WARNING, f"open to others: {', '.join(read)}", "chmod -R go= on them")
    if local and shown & 0o077 & ~handover.folder_mode:
        owner = settings.handover.access is HandoverAccess.OWNER
        found = f"others may enter handover, and read nothing new there ({shown:04o})"
        advice = "set handover.access and handover.group for them, or chmod go= on it"
        return Finding("modes", Verdict.WARNING, found, advice if owner else "chmod o= on it")
    return Finding("modes", Verdict.OK, "others read and change nothing of this site")


def _mode(path: Path) -> int:
    """Permissions of a place; none where there is no such place."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0
