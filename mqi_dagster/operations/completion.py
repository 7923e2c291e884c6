"""Words of a site for a shell that completes one: read only, and without what loads for long."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mqi_dagster.ledger import glance
from mqi_dagster.operations.sites import require_site

# Each raises what its reading raises: whoever completes a word says nothing of it.


def cases(site: Path | None, begin: str) -> Iterable[str]:
    """Keys of cases, the latest first."""
    return [] if site is None else glance.case_keys(require_site(site)[1], begin)


def courses(site: Path | None, begin: str) -> Iterable[str]:
    """Keys of courses, the latest first."""
    return [] if site is None else glance.case_keys(require_site(site)[1], begin, "course")


def image_sets(site: Path | None, begin: str) -> Iterable[str]:
    """Keys of image sets, the latest first."""
    return [] if site is None else glance.case_keys(require_site(site)[1], begin, "image_set")


def beams(site: Path | None, begin: str) -> Iterable[str]:
    """Keys of beams that have been in work, the latest first."""
    return [] if site is None else glance.beam_keys(require_site(site)[1], begin)


def slots(site: Path | None, begin: str) -> Iterable[str]:
    """Host and GPU, or CPU slot, of all that the pool knows."""
    return [] if site is None else glance.slot_names(require_site(site)[1])


def models(site: Path | None, begin: str) -> Iterable[str]:
    """Names of all segmentation models."""
    from mqi_dagster.imaging.models.card import find_models
    from mqi_dagster.imaging.models.folders import model_folders

    root = None if site is None else require_site(site)[1].radiotherapy.custom_models.root
    return [one.name for one in find_models(model_folders(root))]
