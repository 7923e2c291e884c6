"""Which version of its program a model is run with, as far as this machine can tell.

A card names a program, and whoever installs it may exchange it under the same name. What is told here goes
into the digest of a segmentation; no place of a file does, so that a program may move.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.execution.processes import ask, resolve_program
from mqi_dagster.files import sha256_file
from mqi_dagster.imaging.models.card import CommandRuntime, Model, Program, filled
from mqi_dagster.imaging.models.isolation import isolation, within
from mqi_dagster.imaging.models.model_errors import ModelCardError

_DISTRIBUTIONS = {
    "totalsegmentator": ("totalsegmentator", "nnunetv2", "torch"),
    "nnunet": ("nnunetv2", "torch"),
}
"""What is asked of the environment of a program; the first is the program itself."""
_SITE_PACKAGES = ("lib*/python*/site-packages", "lib*/python*/dist-packages")
_LONGEST = 200
_SECONDS = 120.0


def program_version(model: Model) -> dict[str, str]:
    """What is known of the program of a model; empty where nothing is, or where it has none.

    Of TotalSegmentator and nnU-Net the versions that stand beside the program, without starting anything; of
    any other program the SHA-256 of its file, and of each file that its arguments name. Besides, the first
    line of what the card's ``version_command`` prints.

    Raises:
        ModelCardError: The ``version_command`` cannot be run, fails, or prints nothing.
    """
    section = model.card.program
    if section is None:
        return {}
    said = {} if section.version_command is None else {"version": _said(model, section.version_command)}
    try:
        program = resolve_program(filled([section.argv0], {"model": str(model.folder)})[0]).resolve()
    except ConfigurationError:
        # Told where it is started.
        return said
    return {**said, **(_installed(model.card.runtime, program) or _files(model, section, program))}


def version_words(known: Mapping[str, str]) -> str:
    """What `program_version` has found, for people."""
    digests = {name: text[:12] for name, text in sorted(known.items()) if name.startswith("sha256")}
    versions = {name: text for name, text in sorted(known.items()) if name not in digests}
    return ", ".join(f"{name} {text}" for name, text in {**versions, **digests}.items())


def _installed(runtime: str, program: Path) -> dict[str, str]:
    """Versions of the distributions in whose environment a program lies; empty where its own is not there."""
    wanted = _DISTRIBUTIONS.get(runtime, ())
    places = [str(one) for pattern in _SITE_PACKAGES for one in program.parent.parent.glob(pattern)]
    found: dict[str, set[str]] = {}
    for one in metadata.distributions(path=places) if wanted else ():
        # One that was removed by half has no name.
        name = canonicalize_name(str(one.metadata["Name"] or ""))
        if name in wanted:
            found.setdefault(name, set()).add(one.version)
    return {name: " or ".join(sorted(found[name])) for name in wanted if name in found and wanted[0] in found}


def _files(model: Model, section: Program, program: Path) -> dict[str, str]:
    """SHA-256 of the program's file and of those that its arguments name, each by its place among them."""
    words = section.argv[1:] if isinstance(section, CommandRuntime) else ()
    return {
        "sha256" if number == 0 else f"sha256 of argument {number}": digest
        for number, path in enumerate([program, *_named(model, words)])
        if (digest := _digest(path))
    }


def _named(model: Model, words: tuple[str, ...]) -> Iterator[Path]:
    for word in words:
        yield Path(word.replace("{model}", str(model.folder)))


def _digest(path: Path) -> str:
    try:
        return sha256_file(path) if path.is_absolute() and path.is_file() else ""
    except OSError:
        # It may be run and not read.
        return ""


def _said(model: Model, words: tuple[str, ...]) -> str:
    try:
        argv = filled(words, {"model": str(model.folder)})
        done = ask(within(isolation()[0], [str(resolve_program(argv[0])), *argv[1:]]), seconds=_SECONDS)
    except (ConfigurationError, OSError, subprocess.SubprocessError) as error:
        why = error.message if isinstance(error, ConfigurationError) else type(error).__name__
        raise ModelCardError(f"its version_command cannot be run: {why}", where=model.where) from None
    line = next(iter(done.stdout.splitlines()), "").strip()
    if done.returncode != 0 or not line:
        how = f"ended with exit code {done.returncode}" if done.returncode else "printed nothing"
        raise ModelCardError(f"its version_command {how}", where=model.where)
    return line[:_LONGEST]
