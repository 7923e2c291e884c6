"""A site's own program in place of a built-in conversion."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from mqi_dagster.errors import CommandError, ConfigurationError, InfrastructureError, Where
from mqi_dagster.execution.processes import end_group, exit_code, process_id, start_tied
from mqi_dagster.execution.scrub import Scrubber
from mqi_dagster.files import sha256_file
from mqi_dagster.settings import SiteCommand

_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.05
_LAST_BYTES = 4096
_COMMAND = Where(kind="site command")


def run_site_command(
    command: SiteCommand,
    placeholders: Mapping[str, Path | str],
    *,
    wanted: Path,
    scrubber: Scrubber | None = None,
) -> None:
    """Run a site's command and see that it did something where it should, and nothing where it should not.

    Args:
        command: From the settings; ``{name}`` in its arguments stands for a placeholder.
        placeholders: Values of the placeholders. Every path outside ``wanted`` is an input that the command
            must leave as it is.
        wanted: Folder that it has to fill; also its working directory.
        scrubber: Takes the case's identifiers out of what the command says.

    Raises:
        ConfigurationError: An argument names an unknown placeholder, or the program is missing.
        CommandError: It ran too long, failed, left nothing, or changed an input.
        InfrastructureError: The disk or the machine failed.
    """
    argv = [_filled(part, placeholders) for part in command.argv]
    scrub = scrubber or Scrubber(str(value) for value in placeholders.values() if isinstance(value, Path))
    try:
        target = wanted.resolve()
        inputs = [
            path
            for path in (value.resolve() for value in placeholders.values() if isinstance(value, Path))
            if not path.is_relative_to(target)
        ]
        inputs_before = [_content(path, target) for path in inputs]
        before = _content(target, None)
        with tempfile.TemporaryFile() as errors:
            _run(argv, command.timeout_seconds, target, errors, scrub)
        after = _content(target, None)
        if [_content(path, target) for path in inputs] != inputs_before:
            raise CommandError("the command has changed its inputs", where=_COMMAND)
        if not any(before.get(name) != digest for name, digest in after.items()):
            raise CommandError("the command has ended well but left nothing where it should", where=_COMMAND)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InfrastructureError(f"the command's work folder failed: {reason}", where=_COMMAND) from None


def _filled(part: str, placeholders: Mapping[str, Path | str]) -> str:
    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in placeholders:
            known = ", ".join(f"{{{name}}}" for name in sorted(placeholders))
            raise ConfigurationError(f"a site command names the placeholder {{{name}}}; known are {known}")
        return str(placeholders[name])

    return _PLACEHOLDER.sub(value, part)


def _run(argv: list[str], timeout: float, directory: Path, errors: IO[bytes], scrub: Scrubber) -> None:
    process = start_tied(argv, directory=directory, environment={}, stdout=subprocess.DEVNULL, stderr=errors)
    job_id = process_id(process.pid)
    limit = time.monotonic() + timeout
    try:
        while (code := exit_code(process)) is None:
            if time.monotonic() > limit:
                raise CommandError(
                    f"the command ran longer than {timeout:g} s (its timeout_seconds) and was ended",
                    where=_COMMAND,
                )
            time.sleep(_POLL_SECONDS)
    finally:
        # Also when this run is interrupted: nothing of the command may stay behind.
        if process.returncode is None:
            end_group(job_id, _GRACE_SECONDS)
            process.wait()
    if code != 0:
        how = f"exit code {code}" if code > 0 else f"signal {-code}"
        said = _last_line(errors, scrub)
        raise CommandError(
            f"the command has failed with {how}" + (f": {said}" if said else ""), where=_COMMAND
        )


def _last_line(errors: IO[bytes], scrub: Scrubber) -> str:
    errors.seek(0, 2)
    start = max(0, errors.tell() - _LAST_BYTES)
    errors.seek(start)
    # A line that begins before the part that was read might begin within an identifier.
    lines = errors.read().decode("utf-8", "replace").splitlines()[1 if start else 0 :]
    said = [line.strip() for line in lines if line.strip()]
    return scrub.text(said[-1]) if said else ""


def _content(path: Path, without: Path | None) -> dict[str, str]:
    """SHA-256 of a file, or of every file below a folder, by name; empty files do not count."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    found = {}
    for file in files:
        inside = without is not None and file.resolve().is_relative_to(without)
        if inside or not file.is_file() or file.stat().st_size == 0:
            continue
        found[file.relative_to(path).as_posix()] = sha256_file(file)
    return found
