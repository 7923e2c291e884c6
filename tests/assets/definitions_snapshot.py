"""What the code location declares, as text that a reviewer reads: assets, checks, jobs, sensors, resources.

    python -m tests.assets.definitions_snapshot

writes `definitions.txt` anew; `make snapshot` does the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import dagster as dg

from mqi_dagster.definitions import build_definitions
from mqi_dagster.resources.site import Site

SNAPSHOT = Path(__file__).with_name("definitions.txt")
_LINE = 80
"""A longer list stands one below the other, so that a diff shows what has changed."""
_NOBODY_S = "io_manager"
"""Dagster adds it to every asset; no asset here returns a value."""


def snapshot(definitions: dg.Definitions) -> str:
    """A paragraph for everything that is declared, in alphabetical order."""
    sections = (_assets, _checks, _jobs, _sensors, _resources)
    return "\n\n".join(part for section in sections for part in section(definitions)) + "\n"


def _paragraph(title: str, **fields: object) -> str:
    """What is declared of one thing, a line for each field that says something."""
    lines = [
        f"  {name.replace('_', ' '):12}  {text}" for name, value in fields.items() for text in _texts(value)
    ]
    return "\n".join([title, *lines])


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [", ".join(f"{key}={said}" for key, said in sorted(value.items()))] if value else []
    if isinstance(value, list):
        text = ", ".join(value)
        return value if len(text) > _LINE else [text] if text else []
    return [] if value is None else [str(value)]


def _partition(partitions: dg.PartitionsDefinition[str] | None) -> str | None:
    if isinstance(partitions, dg.DynamicPartitionsDefinition):
        return partitions.name
    return None if partitions is None else str(partitions)


def _needed(keys: Iterable[str]) -> list[str]:
    return sorted(set(keys) - {_NOBODY_S})


def _assets(definitions: dg.Definitions) -> Iterator[str]:
    for spec in sorted(definitions.resolve_all_asset_specs(), key=lambda one: one.key):
        made = definitions.resolve_assets_def(spec.key)
        yield _paragraph(
            f"asset {spec.key.to_user_string()}",
            deps=sorted(dep.asset_key.to_user_string() for dep in spec.deps),
            partition=_partition(spec.partitions_def),
            group=spec.group_name,
            kinds=sorted(spec.kinds),
            code_version=spec.code_version,
            owners=sorted(spec.owners),
            tags={key: said for key, said in spec.tags.items() if not key.startswith("dagster/kind/")},
            metadata=sorted(spec.metadata),
            automation=spec.automation_condition,
            step=made.op.name,
            pool=made.op.pool,
            step_tags=dict(made.op.tags),
            step_retries=made.op.retry_policy,
            resources=_needed(made.required_resource_keys),
        )


def _checks(definitions: dg.Definitions) -> Iterator[str]:
    found = definitions.get_repository_def().asset_checks_defs_by_key
    for key, check in sorted(found.items(), key=lambda item: (item[0].asset_key, item[0].name)):
        spec = check.get_spec_for_check_key(key)
        yield _paragraph(
            f"check {key.asset_key.to_user_string()}.{key.name}",
            blocking="yes" if spec.blocking else "no",
            partition=_partition(spec.partitions_def),
            automation=spec.automation_condition,
            step=check.op.name,
            pool=check.op.pool,
            resources=_needed(check.required_resource_keys),
        )


def _jobs(definitions: dg.Definitions) -> Iterator[str]:
    for job in sorted(definitions.get_repository_def().get_all_jobs(), key=lambda one: one.name):
        yield _paragraph(
            f"job {job.name}",
            steps=sorted(node.name for node in job.nodes),
            partition=_partition(job.partitions_def),
            executor=job.executor_def.name,
            tags=dict(job.tags),
            run_tags=dict(job.run_tags),
        )


def _sensors(definitions: dg.Definitions) -> Iterator[str]:
    for sensor in sorted(definitions.get_repository_def().sensor_defs, key=lambda one: one.name):
        yield _paragraph(
            f"sensor {sensor.name}",
            kind=sensor.sensor_type.value.lower(),
            every=f"{sensor.minimum_interval_seconds} s",
            starts_as=sensor.default_status.value.lower(),
            asks_for=sorted(target.job_name for target in sensor.targets),
            resources=_needed(sensor.required_resource_keys),
        )


def _resources(definitions: dg.Definitions) -> Iterator[str]:
    for name, resource in sorted((definitions.resources or {}).items()):
        yield _paragraph(f"resource {name}", made_by=type(resource).__name__)


def main() -> None:
    """Write the snapshot of a site that has no settings, whose intervals are the defaults."""
    SNAPSHOT.write_text(snapshot(build_definitions(Site(Path("no site") / "mqi.yaml"))), encoding="utf-8")


if __name__ == "__main__":
    main()
