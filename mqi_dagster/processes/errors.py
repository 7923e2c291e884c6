"""What becomes of a task that could not be done in a process of its own, and whether trying again helps."""

from __future__ import annotations

from mqi_dagster.errors import InfrastructureError, MqiError, Retry


class TaskFailedError(MqiError):
    """The task's own code broke on its input."""

    code = "task-failed"


class TaskMemoryError(MqiError):
    """The task needs more memory than there is, alone and at the lowest level."""

    code = "task-memory"


class TaskEndedError(MqiError):
    """The task's process was killed, crashed or ran longer than its limit, on every try."""

    code = "task-ended"
    retry = Retry.FROM_BUDGET


class DiskIsFullError(InfrastructureError):
    """This machine's disk has no space or no quota left: the task is done once somebody has made room."""

    code = "disk-full"


class TaskStoppedError(MqiError):
    """Somebody stopped the work before this task was done."""

    code = "task-stopped"
