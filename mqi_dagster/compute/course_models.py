"""The models of a course: which are run on which series, and the segmentations that they make."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from mqi_dagster.compute.segmentation_run import ModelRuns, ModelTask
from mqi_dagster.courses.inventory import ImageSeries
from mqi_dagster.errors import DicomError, ImageError, StoreError, shown
from mqi_dagster.imaging.image_volume import read_volume
from mqi_dagster.imaging.models.applicable import Application, applications
from mqi_dagster.imaging.models.card import PACKAGED_MODELS, FoundModel, Model, find_models
from mqi_dagster.imaging.models.folders import model_folders
from mqi_dagster.imaging.models.job_files import write_series_image
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
from mqi_dagster.processes.progress import Progress
from mqi_dagster.processes.worker_counts import processors
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
"""In what is kept with a result: the digest of each segmentation, by its folder."""
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
    """Of what would be made."""
    model: Model | None = None
    """None where nothing is run."""
    inputs: Mapping[str, ImageSeries] | None = None
    """The series of each role."""


def planned(
    course: CourseAtWork,
    models: Sequence[FoundModel],
    options: SegmentationSettings,
    pseudonyms: Pseudonyms,
) -> list[Planned]:
    """Every model and every series of a course that is analysed.

    Args:
        course: The course.
        models: Usable and other ones.
        options: How they are run.
        pseudonyms: Of the site.
    """
    return [one for found in models for one in _of_model(course, found, options, pseudonyms)]


def _of_model(
    course: CourseAtWork,
    found: FoundModel,
    options: SegmentationSettings,
    pseudonyms: Pseudonyms,
) -> Iterator[Planned]:
    card, name = found.card, shown(found.name)
    # Of a model whose card cannot be read nobody knows what it is for: it is told once.
    unknown = [Application(series) for series in course.analysed[:1]]
    for one in unknown if card is None else applications(card, course.analysed):
        record = Segmentation(
            series=series_pseudonym(pseudonyms, course, one.series),
            model=name,
            version="" if card is None else card.version,
            state=SegmentationState.FAILED,
            reason=found.reason,
            limits=() if card is None else card.limits,
            family=_RULES if card is not None and card.rules is not None else _NETWORKS,
        )
        if card is not None and not one.inputs:
            record = record.model_copy(
                update={"state": SegmentationState.NOT_APPLICABLE, "reason": one.reason}
            )
        given = one.inputs or {"": one.series}
        digest = digest_of(
            model=name,
            card=None if card is None else card.digest(),
            series={role: course.digests_of(series) for role, series in given.items()},
            # In pieces a network gives slightly other voxels.
            in_pieces=options.force_split and card is not None and card.in_pieces,
            reason=record.reason,
        )
        runs = card is not None and bool(one.inputs) and not found.reason
        model = Model(found.folder, card) if card is not None and runs else None
        yield Planned(record, digest, model, one.inputs if runs else None)


def segmentations_digest(asset: str, plan: Sequence[Planned], failed: Sequence[str] = ()) -> str:
    """Digest of the segmentations of a course.

    Args:
        asset: Name of the asset.
        plan: Every model and series.
        failed: Digests of those that have failed: a result with a gap is another one, and is not found again
            where nothing has failed.
    """
    items = sorted(one.digest for one in plan)
    gaps = {"failed": sorted(failed)} if failed else {}
    return digest_of(asset=asset, code=CODE, items=items, **gaps)


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
        runs = self._runs()
        with self.store.stage(self.course.key, None, self.asset) as staging, self._kept() as kept:
            images = _Images(self.course, self.site, kept)
            for number, one in enumerate(self.plan, start=1):
                record = self._copied(one, before, staging)
                if record is None:
                    which = f"{number} of {len(self.plan)}"
                    idle = one.model is None
                    record = one.record if idle else self._run(runs, images, one, which, staging)
                if record.state is SegmentationState.FAILED:
                    failed.append(one.digest)
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
            digest = segmentations_digest(self.asset, self.plan, failed)
            published = self.store.publish(
                staging,
                self.course.key,
                None,
                self.asset,
                digest,
                meta={ITEMS: made, **made_of(self.course, series=self._read)},
            )
        return published, read_segmentations(published.folder)

    @property
    def _read(self) -> list[ImageSeries] | None:
        """The series that models are given; None where the result is the same whatever images there are."""
        given = [series for one in self.plan for series in (one.inputs or {}).values()]
        return given if self.plan else None

    def _runs(self) -> ModelRuns:
        options = self.site.settings.radiotherapy.segmentation
        cluster = self.site.settings.slurm_of(options.host)
        share = max(1, processors() // self.at_once.most) if cluster is None else cluster[1].cpus
        return ModelRuns(
            self.context,
            self.site,
            self.site.model_executor,
            self.pool,
            options,
            options.proc_threads or share,
            self.at_once,
        )

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
        digest = latest_digest(self.context.instance, self.asset, self.course.key)
        found = None if digest is None else reusable(self.store, self.asset, self.course.key, digest)
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
    ) -> Segmentation:
        assert one.model is not None and one.inputs is not None
        try:
            given = {role: images.of(series) for role, series in one.inputs.items()}
        except (DicomError, ImageError) as error:
            return one.record.model_copy(update={"reason": f"its images cannot be used: {error.message}"})
        name = f"{one.record.model} on {one.record.series}"
        task = ModelTask(self.course.key, name, which, one.digest, one.model, given)
        tried = runs.run(task, staging / one.record.folder)
        steps = tuple(str(step) for step in tried.steps)
        if tried.record is None:
            return one.record.model_copy(update={"reason": tried.reason, "steps": steps})
        return one.record.model_copy(
            update={
                "state": SegmentationState.MADE,
                "regions": tried.regions,
                "steps": steps,
                "device": tried.record.device,
            }
        )

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
