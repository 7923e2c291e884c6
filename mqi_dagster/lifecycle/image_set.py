"""An image set: which series of the PACS it is made of, and what its steps read of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import dagster as dg
from pydantic import BaseModel, ConfigDict, ValidationError

from mqi_dagster.dicom.pacs import Pacs, PacsSeries
from mqi_dagster.errors import ConfigurationError, InputError, UnknownSeriesError, Where
from mqi_dagster.files import private_folder, write_whole
from mqi_dagster.imaging.models.card import FoundModel, Model, ModelCard, find_models
from mqi_dagster.imaging.models.folders import model_folders
from mqi_dagster.imaging.models.suitability import ImageFacts
from mqi_dagster.lifecycle.lineage import resolve
from mqi_dagster.lifecycle.materialisations import IMAGES
from mqi_dagster.partitions import IMAGE_SET, image_set_key, model_of
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import LOCAL, Settings
from mqi_dagster.store.published import Published
from mqi_dagster.store.store import Store

FACTS = "image_set.json"
SEGMENTATION_FILE, REPORT_FILE = "SEG.dcm", "SR.dcm"
"""What is stored in the PACS, and its name in the store."""
RECEIPT = "receipt.json"


class ImageSetSource(BaseModel):
    """What was asked for: in a file of its own, since identifiers of a PACS stand in no ledger and no log."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    series: tuple[str, ...]
    """Identifiers in the PACS, in the order in which they were named: the first is the main one."""
    host: str | None = None
    """Where the model runs; None: where `on_request.host` says."""


class ImageSetFacts(BaseModel):
    """What was fetched, as it stands in the store."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    card: str
    """Digest of the model's card."""
    roles: dict[str, ImageFacts]
    """In the order of the card; the result lies on the grid of the first."""


class StoredObjects(BaseModel):
    """The receipt of what is in the PACS."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stored: dict[str, str]
    """Its identifier there, by its name in the store; nothing where nothing was found."""
    commitment: str
    """Whether the PACS has promised to keep it, in words."""

    def write(self, folder: Path) -> None:
        """Write it, for its owner alone."""
        write_whole(folder / RECEIPT, self.model_dump_json(indent=1).encode())


def read_stored(published: Published) -> StoredObjects:
    """The receipt in a published `segmentation_stored`."""
    return StoredObjects.model_validate_json(published.path(RECEIPT).read_bytes())


def sources_folder(settings: Settings) -> Path:
    """Where it stands what each image set is made of, a file each."""
    return settings.paths.state / "image_sets"


def _source_file(site: Site, key: str) -> Path:
    return sources_folder(site.settings) / f"{IMAGE_SET.key(key).text}.json"


def write_source(site: Site, key: str, source: ImageSetSource) -> None:
    """Write down what an image set is made of, for its owner alone."""
    path = _source_file(site, key)
    private_folder(path.parent)
    write_whole(path, source.model_dump_json(indent=1).encode())


def read_source(site: Site, key: str) -> ImageSetSource:
    """What an image set is made of.

    Raises:
        InputError: Nobody has asked for it here.
    """
    try:
        return ImageSetSource.model_validate_json(_source_file(site, key).read_bytes())
    except FileNotFoundError:
        raise InputError("nobody has asked for this image set here", where=Where(case=key)) from None
    except (OSError, ValidationError):
        raise InputError(
            "what it is made of cannot be read: ask for it again", where=Where(case=key)
        ) from None


def host_of(site: Site, key: str) -> str:
    """Where the model of an image set runs: `local`, or a host of `hosts`.

    Raises:
        ConfigurationError: It was asked for at a host that the settings do not name any more.
    """
    wanted = site.settings.on_request
    host = read_source(site, key).host or wanted.host
    if host not in (LOCAL, *site.settings.hosts):
        raise ConfigurationError(
            "it was asked for at a host that the settings do not name any more: ask for it again",
            where=Where(case=key),
        )
    return host


def image_sets_of(site: Site, identifiers: Sequence[str]) -> list[tuple[str, ImageSetSource]]:
    """Image sets that one of some series of the PACS is part of, by key; what cannot be read is none."""
    found = list[tuple[str, ImageSetSource]]()
    for path in sorted(sources_folder(site.settings).glob("*.json")):
        with suppress(InputError):
            source = read_source(site, path.stem)
            if not set(source.series).isdisjoint(identifiers):
                found.append((path.stem, source))
    return found


def asked_models(site: Site) -> list[FoundModel]:
    """The models that may be asked for, usable or with the reason why not.

    One whose weights are missing here can be used all the same where it runs elsewhere.
    """
    wanted = site.settings.on_request
    elsewhere = {wanted.host, wanted.laboratory or LOCAL} != {LOCAL}
    found = find_models(model_folders(site.settings.radiotherapy.custom_models.root))
    return [
        FoundModel(one.folder, one.name, one.card, "") if one.missing and elsewhere else one
        for one in found
        if wanted.models is None or one.name in wanted.models
    ]


def usable_model(site: Site, name: str) -> Model:
    """A model that may be asked for.

    Raises:
        InputError: There is none of this name, it may not be asked for, or it cannot be used.
    """
    named = sorted((one for one in asked_models(site) if one.name == name), key=lambda one: bool(one.reason))
    if not named:
        raise InputError(f"there is no model {name[:64]!a} to ask for; `mqi model list` names those that are")
    if named[0].card is None or named[0].reason:
        raise InputError(f"the model {name} cannot be used: {named[0].reason}")
    return Model(named[0].folder, named[0].card)


def with_roles(card: ModelCard, series: Sequence[PacsSeries]) -> dict[str, PacsSeries]:
    """Which series is what to a model, whatever the order in which they were named.

    A role whose card tells a Series Description takes the one series that has it; the others follow in the
    order of the card as the series do by the time of their acquisition.

    Raises:
        InputError: The number, a modality or the patient is not right, or roles cannot be told apart.
    """
    if len({one.series_uid for one in series}) != len(series):
        raise InputError("one series is named twice")
    if len(series) != len(card.inputs):
        roles = ", ".join(one.role for one in card.inputs)
        raise InputError(
            f"the model {card.name} takes {len(card.inputs)} series ({roles}), not {len(series)}"
        )
    if len({(one.patient_id, one.study_uid) for one in series}) != 1:
        raise InputError("the series are not all of one study of one patient")
    if other := next((one.modality for one in series if one.modality != card.modality), None):
        raise InputError(f"the model {card.name} is for {card.modality}, and a series is {other[:16]!a}")
    left, found = list(series), dict[str, PacsSeries]()
    for one in card.inputs:
        if one.series is None:
            continue
        matching = [
            series for series in left if re.fullmatch(one.series, series.description.strip(), re.IGNORECASE)
        ]
        if len(matching) != 1:
            raise InputError(f"{len(matching) or 'no'} series is {one.role} by the Series Description")
        found[one.role] = matching[0]
        left.remove(matching[0])
    rest = [one.role for one in card.inputs if one.role not in found]
    if len(rest) > 1 and len({one.acquired for one in left} - {""}) != len(left):
        raise InputError("which series came first cannot be told: two have one time of acquisition, or none")
    found |= dict(zip(rest, sorted(left, key=lambda one: one.acquired), strict=True))
    return {one.role: found[one.role] for one in card.inputs}


@dataclass(frozen=True, slots=True)
class PresentSeries:
    """Series for a model, as the PACS has them at this moment."""

    key: str
    """Of the image set."""
    roles: dict[str, PacsSeries]
    arrival: str
    """Keyed hash of which series they are."""


def present_series(site: Site, pacs: Pacs, card: ModelCard, identifiers: Sequence[str]) -> PresentSeries:
    """Look some series up in the PACS.

    Raises:
        UnknownSeriesError: It does not have one of them.
        InputError: They are not what the model takes; see `with_roles`.
        MqiError: The PACS is away; see `Pacs`.
    """
    found = list[PacsSeries]()
    # No more than a model can take, whatever a stranger names.
    for identifier in identifiers[: len(card.inputs) + 1]:
        one = pacs.series(identifier)
        if one is None:
            raise UnknownSeriesError("the PACS has no such series")
        found.append(one)
    roles = with_roles(card, found)
    uids = sorted(one.series_uid for one in found)
    key = image_set_key(site.pseudonyms.series(*uids), card.name)
    return PresentSeries(key, roles, site.pseudonyms.keyed("image set", *uids))


def fingerprint_of(site: Site, pacs: Pacs, present: PresentSeries) -> str:
    """Keyed hash of every image that the PACS has of some series: another one where one came late."""
    images = [image for series in present.roles.values() for image in pacs.images(series)]
    return site.pseudonyms.keyed("images", *sorted(f"{one.instance_uid} {one.md5}" for one in images))


@dataclass(frozen=True)
class ImageSetAtWork:
    """The images of a set as its steps read them."""

    key: str
    published: Published

    @cached_property
    def facts(self) -> ImageSetFacts:
        """What was fetched."""
        return ImageSetFacts.model_validate_json(self.published.path(FACTS).read_bytes())

    @property
    def main_role(self) -> str:
        """The role on whose grid the result lies."""
        return next(iter(self.facts.roles))

    def files(self, role: str) -> list[Path]:
        """The DICOM files of a role."""
        names = sorted(self.published.manifest.files)
        return [self.published.path(name) for name in names if name.startswith(f"dicom/{role}/")]

    def image(self, role: str) -> Path:
        """The NIfTI image of a role."""
        return self.published.path(f"{role}.nii.gz")


def load_image_set(instance: dg.DagsterInstance, store: Store, key: str) -> ImageSetAtWork:
    """The images of a set, verified; see `lineage.resolve`."""
    return ImageSetAtWork(key, resolve(instance, store, IMAGES, key))


def model_for(site: Site, key: str, card: str | None = None) -> Model:
    """The model that an image set is for.

    Args:
        site: The installation.
        key: Of the image set.
        card: Digest that its card has to have; None: whatever it is.

    Raises:
        InputError: It may not be asked for, or cannot be used.
        ConfigurationError: Its card has changed since the images were fetched.
    """
    model = usable_model(site, model_of(IMAGE_SET.key(key)))
    if card is not None and model.card.digest() != card:
        raise ConfigurationError(
            "the model's card has changed since the images were fetched: ask for the segmentation again",
            where=Where(case=key),
        )
    return model
