"""Dagster's instance of a site: its folder and its limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from mqi_dagster.dagster_internals import InstanceRef
from mqi_dagster.errors import ConfigurationError, InfrastructureError
from mqi_dagster.files import private_folder, write_whole
from mqi_dagster.ledger.ledger import Ledger
from mqi_dagster.ledger.location import DATABASE_VARIABLE, announce_server, database_lost, server_url
from mqi_dagster.lifecycle.jobs import CASE_TAG, COURSE_TAG, GPU_TAG, IMAGE_SET_TAG, POOL, UPLOAD_TAG
from mqi_dagster.processes.worker_counts import courses_at_once
from mqi_dagster.resources.gpu_pool import model_slots, simulation_slots, slots_of_a_beam, this_host
from mqi_dagster.settings import LOCAL, Settings
from mqi_dagster.yaml_file import read_yaml

INSTANCE_FILE = "dagster.yaml"
RUNS_PER_CASE = 4
MONITORED_SECONDS = 10
"""How often, at least, it is asked whether the workers of started runs live."""
_LAUNCHER = {"module": "mqi_dagster.compute.run_launcher", "class": "RunLauncher"}
_HEAD = """\
# Dagster's instance of this site. Whatever starts the services keeps the limits in step with mqi.yaml, and
# run monitoring on and as quick as the sensors; what else you write here (storage, for example) stays.
"""
_URL = {"postgres_url": {"env": DATABASE_VARIABLE}}
"""It holds the password, so it comes from the environment and stands in no file of Dagster."""
_ON_THE_SERVER = {
    "custom": {
        "module": "mqi_dagster.resources.server_records",
        "class": "ServerRecords",
        "config": _URL,
    }
}
_BY_DAGSTER_ALONE = {"postgres": _URL}
"""What stands there since an earlier version."""
_IN_FILES = {
    "custom": {
        "module": "mqi_dagster.resources.file_records",
        "class": "FileRecords",
        # Not the path itself: a site that is copied or moved must not write into the one that it was.
        "config": {"base_dir": {"env": "DAGSTER_HOME"}},
    }
}


def simulations_at_once(
    settings: Settings, ledger: Ledger | None = None, *, switched_off_too: bool = False
) -> int:
    """How many beams, or courses and image sets at their models, the slots are enough for.

    As the settings say where no GPU was ever seen. A GPU that is not seen now counts: it may come back at any
    time, and until then who needs it waits in sight.

    Args:
        settings: Of the site.
        ledger: Knows the GPUs that are not seen now, and what is switched off; without one nothing is.
        switched_off_too: Count what is switched off as well: the most that there can be.
    """
    known = () if ledger is None else ledger.slots.all()
    try:
        beams_at, models = simulation_slots(settings, known), model_slots(settings, known)
    except ConfigurationError:
        return settings.execution.slots
    off = {
        (slot.host, slot.kind, slot.uuid or slot.index)
        for slot in known
        if slot.switched_off_at and not switched_off_too
    }
    places = (beams_at, *((this_host() if name == LOCAL else name, slots) for name, slots in models.items()))
    beams, *others = (
        Counter(slot.kind for slot in slots if (host, slot.kind, slot.uuid or slot.index) not in off)
        for host, slots in places
    )
    return max([beams.total() // slots_of_a_beam(settings), 0, *(n for one in others for n in one.values())])


def instance_settings(
    settings: Settings, existing: Mapping[str, Any] | None = None, ledger: Ledger | None = None
) -> dict[str, Any]:
    """Content of ``dagster.yaml``: the limits of the settings, and what a site has written beside them."""
    content: dict[str, Any] = {
        "telemetry": {"enabled": False},
        "nux": {"enabled": False},
        "run_queue": {"dequeue_interval_seconds": 1},
        "run_launcher": _LAUNCHER,
        "sensors": {"use_threads": True, "num_workers": 4, "num_submit_workers": 8},
        "backfills": {"use_threads": True, "num_workers": 2, "num_submit_workers": 4},
        "retention": {"sensor": {"purge_after_days": {"skipped": 2, "success": 30, "failure": 90}}},
    }
    content.update(existing or {})
    content["run_monitoring"] = {
        "start_timeout_seconds": 180,
        "cancel_timeout_seconds": 60,
        "free_slots_after_run_end_seconds": 30,
        **(content.get("run_monitoring") or {}),
        # Without it nobody ends the run of a worker that was killed.
        "enabled": True,
        "poll_interval_seconds": min(MONITORED_SECONDS, settings.intake.scan_interval_seconds),
    }
    if content["run_launcher"] == _LAUNCHER:
        # Which resumes nothing: Dagster refuses an instance that asks it to.
        content["run_monitoring"].pop("max_resume_run_attempts", None)
    if settings.database.host is not None:
        content["storage"] = _ON_THE_SERVER
    elif content.get("storage") in (None, _ON_THE_SERVER, _BY_DAGSTER_ALONE):
        content.pop("storage", None)
        # Beside Dagster's older keys it would refuse the instance.
        if not any(key in content for key in ("run_storage", "event_log_storage", "schedule_storage")):
            content["storage"] = _IN_FILES
    each = {"applyLimitPerUniqueValue": True}
    # The daemon reads it at its start only: the most that the pool's own limit can become meanwhile.
    most = simulations_at_once(settings, ledger, switched_off_too=True) + settings.execution.pool_buffer
    # Courses take hours: beside as many as there may be at once, beams and their intakes find a place.
    beside = max(1, settings.execution.max_runs - max(1, most) - 1)
    tags: list[dict[str, Any]] = [
        {"key": GPU_TAG, "limit": max(1, most)},
        {"key": CASE_TAG, "value": each, "limit": RUNS_PER_CASE},
        {"key": COURSE_TAG, "limit": min(beside, courses_at_once(settings.radiotherapy))},
        {"key": IMAGE_SET_TAG, "limit": settings.on_request.workers + settings.execution.pool_buffer},
    ]
    if settings.handover.max_runs is not None:
        tags.append({"key": UPLOAD_TAG, "value": each, "limit": settings.handover.max_runs})
    # What is tried again, when, and for how long is for the sensor `run_outcomes` alone. Dagster's own retry
    # has no wait, and gives a run up where the code location is away for that moment.
    content["run_retries"] = {"enabled": False}
    content["concurrency"] = {
        "runs": {"max_concurrent_runs": settings.execution.max_runs, "tag_concurrency_limits": tags},
        "pools": {"granularity": "run"},
    }
    return content


def pool_limit(settings: Settings, ledger: Ledger | None = None) -> int:
    """Runs that may hold or wait for a slot at once, at least one, so that somebody says why it waits.

    Args:
        settings: Of the site.
        ledger: Knows which slots are switched off and what limit a person has set; None: neither.
    """
    most = simulations_at_once(settings, ledger) + settings.execution.pool_buffer
    wanted = None if ledger is None else ledger.slots.pool_limit(POOL)
    return max(1, most if wanted is None else min(most, wanted))


def write_instance(settings: Settings, ledger: Ledger | None = None) -> bool:
    """Bring ``dagster.yaml`` in step with the settings; whether it changed.

    Args:
        settings: Of the site.
        ledger: Knows the GPUs that are not seen now.

    Raises:
        ConfigurationError: The file that is there is not YAML, not a mapping, or too large.
    """
    home = settings.paths.dagster_home
    private_folder(home)
    existing = _instance_file(home)
    wanted = instance_settings(settings, existing, ledger)
    if wanted == existing:
        return False
    write_whole(home / INSTANCE_FILE, (_HEAD + yaml.safe_dump(wanted, sort_keys=False)).encode("utf-8"))
    return True


def _instance_file(home: Path) -> dict[str, Any]:
    """What stands in ``dagster.yaml``; nothing where there is none."""
    path = home / INSTANCE_FILE
    content = read_yaml(path, f"{INSTANCE_FILE} of the site") or {} if path.is_file() else {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"{INSTANCE_FILE} of the site is not a mapping")
    return content


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """Dagster's instance of the site; close it with ``with``.

    Raises:
        ConfigurationError: The site has no instance folder yet, or its database's password cannot be read.
        InfrastructureError: Dagster's database cannot be reached.
    """
    home = settings.paths.dagster_home
    if not (home / INSTANCE_FILE).is_file():
        raise ConfigurationError("the site has no Dagster instance yet; run `mqi init`")
    announce_server(settings)
    try:
        if (server := server_url(settings)) is not None:
            from mqi_dagster.resources.server_records import make_tables

            make_tables(server)
        return dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=_here(home)))
    except Exception as error:
        if not database_lost(error):
            raise
        raise InfrastructureError("Dagster's database cannot be reached") from None


def _here(home: Path) -> dict[str, Any]:
    """What is opened otherwise than ``dagster.yaml`` says: this process may know several sites."""
    if _instance_file(home).get("storage") != _IN_FILES:
        return {}
    return {"storage": {"custom": {**_IN_FILES["custom"], "config": {"base_dir": str(home)}}}}


def set_pool_limit(instance: dg.DagsterInstance, settings: Settings, ledger: Ledger) -> bool:
    """Set the limit of the pool that simulations stand in; whether it changed."""
    limit = pool_limit(settings, ledger)
    if pool_limit_of(instance) == limit:
        return False
    instance.event_log_storage.set_concurrency_slots(POOL, limit)
    return True


def pool_limit_of(instance: dg.DagsterInstance) -> int | None:
    """The pool's limit as the instance holds it, None where none is set."""
    for pool in instance.event_log_storage.get_pool_limits():
        if pool.name == POOL:
            return int(pool.limit)
    return None
