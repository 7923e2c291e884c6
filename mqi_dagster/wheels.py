"""Wheels as containers of data: fetched by name and version, known by SHA-256, never installed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mqi_dagster.errors import InfrastructureError
from mqi_dagster.files import sha256_file

_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel as it was published."""

    package: str
    version: str
    sha256: str

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.package} {self.version}"

    def fault(self, path: Path) -> str:
        """What is wrong with a file that should be this wheel; empty where it is."""
        if not path.is_file():
            return f"the wheel of {self.words} is not there"
        found = sha256_file(path)
        if found == self.sha256:
            return ""
        digests = f"{found[:8]}…, not {self.sha256[:8]}…"
        return f"the wheel has SHA-256 {digests}: it must be {self.words} as published"

    def download(self, folder: Path) -> Path:
        """Fetch it from the package index that pip is configured for; whether it is this one is asked after.

        Args:
            folder: Where to; made where it is missing.

        Raises:
            InfrastructureError: pip cannot fetch it.
        """
        arguments = ["--no-deps", "--python-version", "3.12", "--only-binary=:all:", "--no-input"]
        command = [sys.executable, "-m", "pip", "download", *arguments, "--disable-pip-version-check"]
        command += ["--quiet", "--dest", str(folder), f"{self.package}=={self.version}"]
        # pip's own words can hold the address and the credentials of an index, so they are not repeated.
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise InfrastructureError(f"pip did not fetch {self.words} within {_SECONDS} s") from None
        wheels = sorted(folder.glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            raise InfrastructureError(
                f"pip could not fetch {self.words} (exit code {done.returncode});"
                " without a network give the wheel as a file"
            )
        return wheels[0]
