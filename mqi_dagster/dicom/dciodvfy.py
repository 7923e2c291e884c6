"""What dciodvfy (Debian's package dicom3tools) has to say of a DICOM file, where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from mqi_dagster.errors import InfrastructureError, Where

_SECONDS = 300.0
_ATTRIBUTE = re.compile(r"<[^>]*?(\w+)\([0-9a-f]{4},[0-9a-f]{4}\)", re.IGNORECASE)


def complaints(path: Path) -> list[str] | None:
    """Its errors, each by the attribute alone, since its own words quote values; None where it is not there.

    Raises:
        InfrastructureError: It does not end.
    """
    program = shutil.which("dciodvfy")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "-new", str(path)], capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise InfrastructureError("dciodvfy does not end", where=Where(kind="dciodvfy")) from None
    said = (done.stdout + done.stderr).decode(errors="replace").splitlines()
    wrong = [line for line in said if line.startswith(("Error", "Abort"))]
    return [found[1] if (found := _ATTRIBUTE.search(line)) else "the whole object" for line in wrong]
