"""The models of a course: which are run on which series, and the segmentations that they make."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import dagster as dg

from mqi_dagster.compute.segmentation_run import ModelRuns, ModelTask, begins_at
from mqi_dagster.courses.inventory import ImageSeries
from mqi_dagster.errors import DicomError, ImageError, StoreError, shown
from mqi_dagster.imaging.image_volume import read_volume
from mqi_dagster.imaging.models.applicable import Application, applications
from mqi_dagster.imaging.models.card import PACKAGED_MODELS, FoundModel, Model, ModelCard, find_models
from mqi_dagster.imaging.models.folders import model_folders
from mqi_dagster.imaging.models.job_files import write_series_image
from mqi_dagster.imaging.models.model_errors import ModelCardError
from mqi_dagster.imaging.models.program_version import program_version, version_words
from mqi_dagster.imaging.segmentation_files import (
    CourseSegmentations,
    Segmentation,
    SegmentationState,
    read_segmentations,
    write_segmentations,
)
from mqi_dagster.ledger.leases import AtOnce
from mqi_dagster.lifecycle.course import CourseAtWork, series_pseudonym
from mqi_dagster.lifecycle.course_results import made_of
from mqi_dagster.lifecycle.lineage import latest_digest, reusable
from mqi_dagster.processes.levels import Device
from mqi_dagster.processes.progress import Progress
from mqi_dagster.pseudonyms import Pseudonyms
from mqi_dagster.resources.gpu_pool import GpuPool
from mqi_dagster.resources.site import Site
from mqi_dagster.settings import Settings
from mqi_dagster.settings.radiotherapy import Segmentation as SegmentationSettings
from mqi_dagster.store.digests import digest_of
from mqi_dagster.store.published import Published
from mqi_dagster.store.store import Store

CODE = "1"
ITEMS = "items"
"""In what is kept with a result: the digest of each segmentation as it was asked for, by its folder."""
AS_MADE = "as made"
"""The same of those that were made otherwise than they were asked for: with less, or another program."""
_RULES, _NETWORKS = "Rule-based", "Artificial Intelligence"


def automatic_models(settings: Settings) -> list[FoundModel]:
    """The models of ``radiotherapy.segmentation``, each usable or with the reason why not."""
    courses = settings.radiotherapy
    return _named(courses.segmentation.models, _all_models(settings)) if courses.segmentation.enabled else []


def custom_models(settings: Settings) -> list[FoundModel]:
    """The models of ``radiotherapy.custom_models``, each usable or with the reason why not."""
    courses = settings.radiotherapy
    if not courses.custom_models.enabled:
        return []
    found = [one for one in _all_models(settings) if one.folder.parent != PACKAGED_MODELS]
    if courses.custom_models.models is not None:
        return _named(courses.custom_models.models, found)
    return [one for one in found if one.name not in courses.segmentation.models]


def _all_models(settings: Settings) -> list[FoundModel]:
    return find_models(model_folders(settings.radiotherapy.custom_models.root))


def _named(names: Sequence[str], found: Sequence[FoundModel]) -> list[FoundModel]:
    known = {one.name: one for one in sorted(found, key=lambda one: not one.reason)}
    missing = "there is no model of this name; `mqi model list` shows those that there are"
    return [known.get(name) or FoundModel(Path(), name, None, missing) for name in names]


@dataclass(frozen=True, slots=True)
class Planned:
    """A model and a series, before anything is computed."""

    record: Segmentation
    """As it stands where nothing is run."""
    digest: str
    """Of what would be made if it is made as asked."""
    way: "Way | None" = None
    """In which it is asked for; None where nothing is run."""
    model: Model | None = None
    """None where nothing is run."""
    inputs: Mapping[str, ImageSeries] | None = None
    """The series of each role."""


def planned(
    course: CourseAtWork,
    models: Sequence[FoundModel],
    options: SegmentationSettings,
    pseudonyms: Pseudonyms,
    *,
    here: bool,
) -> list[Planned]:
    """Every model and every series of a course that is analysed.

    Args:
        course: The course.
        models: Usable and other ones.
        options: How they are run.
        pseudonyms: Of the site.
        here: Whether the models run on this machine, which then knows the versions of their programs.
    """
    return [one for found in models for one in _of_model(course, found, options, pseudonyms, here)]


def _of_model(
    course: CourseAtWork,
    found: FoundModel,
    options: SegmentationSettings,
    pseudonyms: Pseudonyms,
    here: bool,
) -> Iterator[Planned]:
    card, name, reason = found.card, shown(found.name), found.reason
    program = dict[str, str]()
    if here and card is not None and not reason:
        try:
            program = program_version(Model(found.folder, card))
        except ModelCardError as error:
            reason = error.message
    # Of a model whose card cannot be read nobody knows what it is for: it is told once.
    unknown = [Application(series) for series in course.analysed[:1]]
    for one in unknown if card is None else applications(card, course.analysed):
        record = Segmentation(
            series=series_pseudonym(pseudonyms, course, one.series),
            model=name,
            version="" if card is None else card.version,
            state=SegmentationState.FAILED,
            reason=reason,
            program="" if card is None or card.program is None else _words(card, program),
            limits=() if card is None else card.limits,
            family=_RULES if card is not None and card.rules is not None else _NETWORKS,
        )
        if card is not None and not one.inputs:
            record = record.model_copy(
                update={"state": SegmentationState.NOT_APPLICABLE, "reason": one.reason}
            )
        given = one.inputs or {"": one.series}
        runs = card is not None and bool(one.inputs) and not reason
        way = None if card is None or not runs else way_asked(card, options, program)
        digest = digest_of(
            model=name,
            card=None if card is None else card.digest(),
            series={role: course.digests_of(series) for role, series in given.items()},
            way=way and asdict(way),
            reason=record.reason,
        )
        model = Model(found.folder, card) if card is not None and runs else None
        yield Planned(record, digest, way, model, one.inputs if runs else None)


@dataclass(frozen=True, slots=True)
class Way:
    """How a model is run, as far as its voxels depend on it: other ways give slightly other ones."""

    device: str
    in_pieces: bool
    program: Mapping[str, str]
    """What is known of the version of its program."""


def way_asked(card: ModelCard, options: SegmentationSettings, program: Mapping[str, str]) -> Way:
    """How a model is run where nothing is in the way."""
    gpu = begins_at(card, options).device is not Device.CPU
    always = card.totalsegmentator is not None and card.totalsegmentator.force_split
    return Way("gpu" if gpu else "cpu", always or (options.force_split and card.in_pieces), program)


def _words(card: ModelCard, program: Mapping[str, str]) -> str:
    return version_words(program) or f"not known; {card.version} on its card stands for it"


def segmentations_digest(
    asset: str, plan: Sequence[Planned], as_made: Mapping[str, str], failed: Sequence[str] = ()
) -> str:
    """Digest of the segmentations of a course.

    Args:
        asset: Name of the asset.
        plan: Every model and series.
        as_made: Digests of those that were made otherwise than they were asked for, by their folders. What
            was made with less is a result for good, and another one than the whole.
        failed: Digests of those that have failed, and why: a result with a gap is another one, and is not
            found again where nothing has failed.
    """
    items = sorted(as_made.get(one.record.folder, one.digest) for one in plan)
    gaps = {"failed": sorted(failed)} if failed else {}
    return digest_of(asset=asset, code=CODE, items=items, **gaps)


def made_otherwise(plan: Sequence[Planned], before: Published | None) -> dict[str, str]:
    """Digests, by folder, of what the latest result holds of what is asked for now, and made otherwise.

    Args:
        plan: What is asked for now.
        before: The latest result.
    """
    if before is None:
        return {}
    asked, made = before.meta.get(ITEMS, {}), before.meta.get(AS_MADE, {})
    folders = [one.record.folder for one in plan if asked.get(one.record.folder) == one.digest]
    return {folder: made[folder] for folder in folders if folder in made}


def found_segmentations(
    instance: dg.DagsterInstance, store: Store, asset: str, course: str, plan: Sequence[Planned]
) -> Published | None:
    """The segmentations of a course, where all were made before, whether with less or not."""
    as_made = made_otherwise(plan, _latest(instance, store, asset, course))
    return reusable(store, asset, course, segmentations_digest(asset, plan, as_made))


def _latest(instance: dg.DagsterInstance, store: Store, asset: str, course: str) -> Published | None:
    digest = latest_digest(instance, asset, course)
    return None if digest is None else reusable(store, asset, course, digest)


@dataclass(frozen=True, slots=True)
class CourseModels:
    """The work of one asset of segmentations on one course."""

    context: dg.AssetExecutionContext
    site: Site
    pool: GpuPool
    store: Store
    course: CourseAtWork
    asset: str
    plan: Sequence[Planned]
    at_once: AtOnce

    def make(self) -> tuple[Published, CourseSegmentations]:
        """Run what was not made before, and publish all of it. A model that fails stops no other.

        Raises:
            MqiError: Infrastructure was lost, a file has changed, or the settings are wrong.
        """
        self._remove_leftovers()
        begin, records, failed = time.monotonic(), list[Segmentation](), list[str]()
        before = self._before()
        as_made = made_otherwise(self.plan, None if before is None else before[0])
        options = self.site.settings.radiotherapy.segmentation
        runs = ModelRuns.of(self.context, self.site, self.pool, options, self.at_once)
        with self.store.stage(self.course.key, None, self.asset) as staging, self._kept() as kept:
            images = _Images(self.course, self.site, kept)
            for number, one in enumerate(self.plan, start=1):
                record = self._copied(one, before, staging)
                if record is None:
                    which = f"{number} of {len(self.plan)}"
                    idle = one.model is None
                    as_made.pop(one.record.folder, None)
                    record, way = (
                        (one.record, one.way) if idle else self._run(runs, images, one, which, staging)
                    )
                    if way != one.way:
                        as_made[record.folder] = digest_of(asked=one.digest, way=way and asdict(way))
                if record.state is SegmentationState.FAILED:
                    # With its reason: another failure of the same model is another result.
                    failed.append(digest_of(asked=one.digest, reason=record.reason))
                records.append(record)
                told = Progress("Segmentation", number, len(self.plan), time.monotonic() - begin)
                self.context.log.info("%s", told)
            content = CourseSegmentations(segmentations=tuple(records))
            write_segmentations(content, staging)
            made = {
                record.folder: one.digest
                for record, one in zip(records, self.plan, strict=True)
                if record.state is SegmentationState.MADE
            }
            digest = segmentations_digest(self.asset, self.plan, as_made, failed)
            published = self.store.publish(
                staging,
                self.course.key,
                None,
                self.asset,
                digest,
                meta={ITEMS: made, AS_MADE: as_made, **made_of(self.course, series=self._read)},
            )
        return published, read_segmentations(published.folder)

    @property
    def _read(self) -> list[ImageSeries] | None:
        """The series that models are given; None where the result is the same whatever images there are."""
        given = [series for one in self.plan for series in (one.inputs or {}).values()]
        return given if self.plan else None

    @contextmanager
    def _kept(self) -> Iterator[Path]:
        """Folder of the images that models are given, which stays from one to the next."""
        folder = self.site.work / f"{self.course.key}.{self.context.run.run_id}.series"
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _before(self) -> tuple[Published, CourseSegmentations] | None:
        """What was made last, of which what is still right is taken over."""
        found = _latest(self.context.instance, self.store, self.asset, self.course.key)
        if found is None:
            return None
        try:
            return found, read_segmentations(found.folder)
        except StoreError:
            return None

    def _copied(
        self, one: Planned, before: tuple[Published, CourseSegmentations] | None, staging: Path
    ) -> Segmentation | None:
        if before is None or one.model is None:
            return None
        published, content = before
        if published.meta.get(ITEMS, {}).get(one.record.folder) != one.digest:
            return None
        record = next(old for old in content.segmentations if old.folder == one.record.folder)
        shutil.copytree(published.folder / record.folder, staging / record.folder)
        return record

    def _run(
        self, runs: ModelRuns, images: "_Images", one: Planned, which: str, staging: Path
    ) -> tuple[Segmentation, Way | None]:
        assert one.model is not None and one.inputs is not None
        try:
            given = {role: images.of(series) for role, series in one.inputs.items()}
        except (DicomError, ImageError) as error:
            reason = f"its images cannot be used: {error.message}"
            return one.record.model_copy(update={"reason": reason}), one.way
        name = f"{one.record.model} on {one.record.series}"
        task = ModelTask(self.course.key, name, which, one.digest, one.model, given)
        tried = runs.run(task, staging / one.record.folder)
        steps = tuple(str(step) for step in tried.steps)
        if tried.record is None:
            return one.record.model_copy(update={"reason": tried.reason, "steps": steps}), one.way
        found = tried.record
        made = one.record.model_copy(
            update={
                "state": SegmentationState.MADE,
                "regions": tried.regions,
                "steps": steps,
                "device": found.device,
                "program": _words(one.model.card, found.program) if one.model.card.program else "",
                "isolated": found.isolated,
            }
        )
        return made, Way(found.device_used, found.in_pieces, found.program)

    def _remove_leftovers(self) -> None:
        """Remove what runs of this course that have ended left behind."""
        for left in self.site.work.glob(f"{self.course.key}.*"):
            run_id = left.name.removeprefix(f"{self.course.key}.").partition(".")[0]
            run = self.context.instance.get_run_by_id(run_id)
            if run is None or run.is_finished:
                shutil.rmtree(left, ignore_errors=True)


class _Images:
    """The series of a course as NIfTI images, each written when a model first asks for it.

    Args:
        course: The course.
        site: The installation, which names them.
        folder: Where they go.
    """

    def __init__(self, course: CourseAtWork, site: Site, folder: Path) -> None:
        self._course = course
        self._site = site
        self._folder = folder
        self._written: dict[str, Path | DicomError | ImageError] = {}

    def of(self, series: ImageSeries) -> Path:
        """The image of a series.

        Raises:
            DicomError: An image of it is damaged.
            ImageError: Its images lie in no regular grid.
            InputError: A file has changed since the course was organised.
        """
        name = series_pseudonym(self._site.pseudonyms, self._course, series)
        if name not in self._written:
            self._written[name] = self._write(series, self._folder / f"{name}.nii.gz")
        found = self._written[name]
        if isinstance(found, Path):
            return found
        raise found

    def _write(self, series: ImageSeries, path: Path) -> Path | DicomError | ImageError:
        try:
            volume = read_volume(self._course.images(series))
        except (DicomError, ImageError) as error:
            return error
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_series_image(volume, path)
        return path
