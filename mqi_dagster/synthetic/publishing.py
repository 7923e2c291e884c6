"""A finished case moves into the inbox in one step, its marker last."""

from __future__ import annotations

from pathlib import Path

from mqi_dagster.errors import ConfigurationError


def publish(case: Path, inbox: Path, relative: Path, marker: str | None, *, grouped: bool) -> Path:
    """Rename a finished case folder into an inbox, or add its deliveries to the case that is there.

    Args:
        case: The finished folder, on the inbox's file system.
        inbox: The folder that sites watch.
        relative: Where the case belongs below it.
        marker: Name of the marker file, if the site waits for one.
        grouped: Whether the marker stands in the patient's folder above the study.

    Returns:
        The case folder in its place.

    Raises:
        ConfigurationError: A folder of that name, or another plan, is there already.
    """
    final = inbox / relative
    inbox.mkdir(parents=True, exist_ok=True)
    if marker is not None and not grouped and not final.exists():
        (case / marker).touch()
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        _add(case, final)
    else:
        case.rename(final)
    if marker is not None:
        (final.parent if grouped else final).joinpath(marker).touch()
    return final


def _add(case: Path, final: Path) -> None:
    """Move what is new into the case that is there; refuse to replace anything."""
    if {path.name for path in final.glob("RP.*.dcm")} - {path.name for path in case.glob("RP.*.dcm")}:
        raise ConfigurationError("another plan of this study is there already: give another target or layout")
    new = []
    for entry in sorted(case.iterdir()):
        present = final / entry.name
        if entry.is_file() and present.is_file() and entry.read_bytes() == present.read_bytes():
            continue
        if present.exists() and not (entry.name == "CT" and present.is_dir()):
            raise ConfigurationError("the case is there already, with a delivery or plan of this name")
        if not present.exists():
            new.append(entry)
    for entry in new:
        entry.rename(final / entry.name)
