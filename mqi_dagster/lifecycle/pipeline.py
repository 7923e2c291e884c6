"""What a pipeline is: its kinds of partitions, the jobs that make its assets step by step, and its rules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import dagster as dg

from mqi_dagster.dagster_internals import UnresolvedAssetJobDefinition
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.ledger.arrivals import Arrival
from mqi_dagster.lifecycle.materialisations import Materialisations
from mqi_dagster.lifecycle.stages import Stage
from mqi_dagster.partitions import PartitionKind, find_key, root_of
from mqi_dagster.store.store import Store

Tags = Callable[[str, str, int], Mapping[str, str]]
"""Tags of a run by the key of its case or the like, the target of the hand-over, and the priority."""
Parts = Callable[[dg.DagsterInstance, Store, str], Mapping[int, str] | None]
"""Keys of all parts of a unit by number; None where it was not taken in yet, or that cannot be read."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What the present inventory of a unit says of its results; nothing where it has none."""

    partial: bool = False
    """Whether anything of it is missing."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Digest of the inputs of each of its parts, by key."""


Concluded = Callable[
    [Materialisations, str, Collection[str], Arrival | None, Callable[[], Inventory]],
    bool,
]
"""Whether a unit was concluded with the results that it has now, by what was made, the keys of the unit and
of its parts, its arrival, and its inventory, which is asked for only where that matters."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a job's runs."""

    name: str
    """Its key in Dagster."""
    assets: tuple[str, ...]
    """What it makes."""
    stage: Stage = Stage.IN_WORK
    """Where a partition is whose run begins with it, until the worker reports more."""


@dataclass(frozen=True, slots=True)
class AssetJob:
    """A job: a run of it makes the assets of one partition, step by step."""

    definition: UnresolvedAssetJobDefinition
    steps: tuple[Step, ...]
    """In their order: a run that goes on where another one ended begins with the step in which that was."""
    tags: Tags
    """Of a run that goes on."""
    concludes: bool
    """Whether nothing comes after it: that it has succeeded is told as the conclusion of its partition."""

    @property
    def name(self) -> str:
        """Its name in Dagster."""
        return self.definition.name

    @property
    def assets(self) -> tuple[str, ...]:
        """What its runs make, in their order."""
        return tuple(asset for step in self.steps for asset in step.assets)

    def stage(self, executed: Collection[str]) -> Stage:
        """Where a partition is whose run has begun.

        Args:
            executed: Steps that the run executes; empty where it is all of them.
        """
        first = (step.stage for step in self.steps if not executed or step.name in executed)
        return next(first, self.steps[-1].stage)


def asset_job(name: str, *steps: Step, description: str, tags: Tags, concludes: bool = False) -> AssetJob:
    """A job that makes the assets of some steps."""
    assets = dg.AssetSelection.assets(*(asset for step in steps for asset in step.assets))
    definition = dg.define_asset_job(name, selection=assets, description=description)
    return AssetJob(definition, steps, tags, concludes)


@dataclass(frozen=True, slots=True)
class Level:
    """The partitions of one kind."""

    kind: PartitionKind
    jobs: tuple[AssetJob, ...]
    """In the order in which they follow each other."""
    failed: AlarmKind = AlarmKind.PARTITION_FAILED
    """The alarm where one of them has failed for good."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One kind of work."""

    name: str
    sensors: tuple[str, ...]
    """Those that ask for its runs, by name."""
    units: Level
    """What arrives, is concluded and is listed: cases or the like."""
    status_assets: tuple[str, ...]
    """Those that tell where a partition is."""
    concluded: Concluded
    command: str = "case"
    """What follows `mqi` in the commands for its units."""
    room_of_its_own: bool = False
    """Whether its runs in the queue take no place from those of the other pipelines."""
    parts: Level | None = None
    """What each unit consists of, where it is worked on in parts."""
    parts_of: Parts | None = None

    @property
    def levels(self) -> tuple[Level, ...]:
        """The units, and their parts where there are any."""
        return (self.units,) if self.parts is None else (self.units, self.parts)


def levels_of(pipelines: Iterable[Pipeline]) -> Iterator[Level]:
    """Every level of some pipelines."""
    for pipeline in pipelines:
        yield from pipeline.levels


def find_job(
    pipelines: Collection[Pipeline], name: str, partition: str, assets: Collection[str]
) -> tuple[Level, AssetJob] | None:
    """The job of a run, and whose it is: where a page has started the run, the first one of its assets.

    Args:
        pipelines: Those of the site.
        name: Of the job in the run.
        partition: Of the run.
        assets: What the run was to make; empty where it does not say.
    """
    jobs = [(level, job) for level in levels_of(pipelines) for job in level.jobs]
    for level, job in jobs:
        if job.name == name:
            return level, job
    for level, job in jobs:
        if not set(job.assets).isdisjoint(assets):
            return level, job
    level = level_of(pipelines, name, partition)
    return (level, level.jobs[0]) if not assets and len(level.jobs) == 1 else None


def level_of(pipelines: Collection[Pipeline], job: str, partition: str) -> Level:
    """The level of a partition: by its job, else by its key, which a person may have invented."""
    levels = list(levels_of(pipelines))
    for level in levels:
        if any(one.name == job for one in level.jobs):
            return level
    key = find_key(partition, [level.kind for level in levels])
    if key is not None:
        return next(level for level in levels if level.kind is key.kind)
    is_part = partition != root_of(partition)
    return next((level for level in levels if (level.kind.parent is not None) is is_part), levels[0])


def command_of(pipelines: Collection[Pipeline], job: str, partition: str) -> str:
    """What follows `mqi` in the commands for a partition."""
    level = level_of(pipelines, job, partition)
    return next(pipeline.command for pipeline in pipelines if level in pipeline.levels)
