"""The files that the settings of the radiotherapy pipeline name: whether each can be used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from mqi_dagster.errors import MqiError
from mqi_dagster.settings import Settings


def file_problems(settings: Settings, assets: Collection[str] | None = None) -> Iterator[tuple[str, str]]:
    """Of each file that the section names: its key, and everything for which it cannot be used.

    Args:
        settings: Of the site.
        assets: Which are to be made: files that none of them reads are left out. None: every file counts.
    """
    courses = settings.radiotherapy
    structures, dvh, radiomics = courses.structures, courses.dvh, courses.radiomics
    made = {
        "structures": True,
        "dvh": assets is None or dvh.enabled,
        "radiomics": assets is None or radiomics.enabled,
    }
    files: tuple[tuple[str, Path | None, Callable[[Path], Iterable[str]], tuple[str, ...]], ...] = (
        ("structures.custom_structures", structures.custom_structures, _structures, ("structures",)),
        ("structures.names", structures.names, _names, ("structures", "radiomics")),
        ("dvh.goals", dvh.goals, _goals, ("dvh",)),
        ("radiomics.params_file", radiomics.params_file, _profile, ("radiomics",)),
        ("radiomics.mr_params_file", radiomics.mr_params_file, _profile, ("radiomics",)),
    )
    for name, path, faults_of, readers in files:
        wanted = any(made[one] and (assets is None or one in assets) for one in readers)
        if path is None or not wanted:
            continue
        key = f"radiotherapy.{name}"
        try:
            yield from ((key, fault) for fault in faults_of(path))
        except MqiError as error:
            yield key, error.message
        except ImportError as error:
            yield key, f"cannot be read without the extra imaging: {error.name} is not installed"


# What reads them loads numerical libraries, which a site without courses need not have.


def _structures(path: Path) -> Iterable[str]:
    from mqi_dagster.imaging.derived import read_custom_structures

    return read_custom_structures(path).certain_faults


def _names(path: Path) -> Iterable[str]:
    from mqi_dagster.imaging.structure_names import read_structure_names

    read_structure_names(path)
    return ()


def _goals(path: Path) -> Iterable[str]:
    from mqi_dagster.imaging.clinical_goals import read_protocol

    read_protocol(path)
    return ()


def _profile(path: Path) -> Iterable[str]:
    from mqi_dagster.imaging.radiomics_profile import read_profile

    read_profile(path)
    return ()
