"""The files that the settings of the radiotherapy pipeline name: whether each can be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from mqi_dagster.errors import MqiError
from mqi_dagster.settings import Settings


def file_problems(settings: Settings) -> Iterator[tuple[str, str]]:
    """Of each file that the section names: its key, and why it cannot be used."""
    courses = settings.radiotherapy
    files: tuple[tuple[str, Path | None, Callable[[Path], object]], ...] = (
        ("radiotherapy.structures.custom_structures", courses.structures.custom_structures, _structures),
        ("radiotherapy.structures.names", courses.structures.names, _names),
        ("radiotherapy.dvh.goals", courses.dvh.goals, _goals),
        ("radiotherapy.radiomics.params_file", courses.radiomics.params_file, _profile),
        ("radiotherapy.radiomics.mr_params_file", courses.radiomics.mr_params_file, _profile),
    )
    for key, path, read in files:
        if path is None:
            continue
        try:
            read(path)
        except MqiError as error:
            yield key, error.message
        except ImportError as error:
            yield key, f"cannot be read without the extra imaging: {error.name} is not installed"


# What reads them loads numerical libraries, which a site without courses need not have.


def _structures(path: Path) -> object:
    from mqi_dagster.imaging.derived import read_custom_structures

    return read_custom_structures(path)


def _names(path: Path) -> object:
    from mqi_dagster.imaging.structure_names import read_structure_names

    return read_structure_names(path)


def _goals(path: Path) -> object:
    from mqi_dagster.imaging.clinical_goals import read_protocol

    return read_protocol(path)


def _profile(path: Path) -> object:
    from mqi_dagster.imaging.radiomics_profile import read_profile

    return read_profile(path)
