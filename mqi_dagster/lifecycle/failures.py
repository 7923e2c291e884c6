"""Why a run has ended badly: the first cause in its own words, what another try is worth, and what to do."""

from dataclasses import dataclass

import dagster as dg

from mqi_dagster.errors import Retry

CANCELLED = "cancelled by an operator"
_GONE = "the run ended without an error of its own: its worker is gone"
_CHECK = "check"
_LOST = "infrastructure"
_DATABASE_ERRORS = frozenset(
    {"DBAPIError", "OperationalError", "InterfaceError", "InternalError", "TimeoutError"}
)
"""Of SQLAlchemy, and of the drivers below it, in Dagster's own code."""
_NEXT = {
    "input": "correct the files in the inbox: the case is taken in anew by itself",
    "configuration": "correct the settings or machine files (`mqi doctor`), then `mqi case retry`",
    "engine": "look at the attempts (`mqi case show`) and at `mqi doctor`, then `mqi case retry`",
    "key": "remove the partition in the pages: the beams of a case are added by themselves",
    "check": "compare the numbers with the limits in the settings; a retry alone gives the same",
    "other": "`mqi case retry` once the cause is gone",
}
_OTHER_INPUTS = {
    "course": "correct the files in the tree: what has changed is organised anew",
    "segmentation": "complete or correct the series in the PACS, then ask for it again, or ask with others",
}
"""What to do about inputs that are wrong, where they do not come from the inbox: by command."""
_KINDS = {
    "plan": "input",
    "image": "input",
    "dicom": "input",
    "unknown-series": "input",
    "delivery": "input",
    "unknown-machine": "configuration",
    "privacy": "input",
    "handover-name": "configuration",
    "engine-timeout": "engine",
    "engine-input": "configuration",
    "command": "configuration",
    "host-key": "configuration",
    "authentication": "configuration",
    "credentials": "configuration",
    "submit-rejected": "configuration",
    "path-rejected": "configuration",
}


@dataclass(frozen=True, slots=True)
class Cause:
    """The first cause of a failed run."""

    text: str
    code: str | None
    """Class of the error (docs/checks.md); None where its worker is gone or nobody knows."""
    again: bool
    """Whether only infrastructure was lost, so that the same is tried again by itself."""


def goes_on_by_itself(cause: Cause, served: bool) -> bool:
    """Whether a run that has failed is tried again by itself.

    Args:
        cause: The first cause of its failure.
        served: Whether the services have launched it: what a person runs in a terminal is in that person's
            hands.
    """
    return cause.again and served


def next_step(code: str | None, command: str = "case", *, served: bool = True) -> str:
    """What a person can do about a failure.

    Args:
        code: Class of its error.
        command: What follows `mqi` in the commands for what has failed: ``case``, ``course``
            or ``segmentation``.
        served: Whether the services have launched its run: no other run can be asked of them again.
    """
    kind = _KINDS.get(code or "", code if code in _NEXT else "other")
    if kind == "input" and command in _OTHER_INPUTS:
        return _OTHER_INPUTS[command]
    text = _NEXT[kind].replace("`mqi case ", f"`mqi {command} ")
    return text if served else text.replace(f"`mqi {command} retry`", "run the same command again")


def first_cause(instance: dg.DagsterInstance, run_id: str) -> Cause:
    """The error that a failed run ended with.

    A failing check fails its run with a text that names only the check: what the check found is told.
    """
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        data = entry.get_dagster_event().step_failure_data if entry.dagster_event else None
        if data is None:
            continue
        if data.user_failure_data is not None:
            metadata = data.user_failure_data.metadata
            code, retry = metadata.get("error"), metadata.get("retry")
            return Cause(
                data.user_failure_data.description or "failed without a word",
                str(code.value) if code is not None else None,
                retry is not None and retry.value == Retry.FOREVER.value,
            )
        found = _failed_checks(instance, run_id)
        if found:
            return Cause(found, _CHECK, False)
        kinds = _kinds_of(data.error)
        if "DagsterExecutionInterruptedError" in kinds or "KeyboardInterrupt" in kinds:
            return Cause("the run was interrupted: its service was stopped", None, True)
        if _DATABASE_ERRORS & set(kinds):
            return Cause("Dagster's database failed in the middle of a step", _LOST, True)
        return Cause(f"step {entry.step_key} failed: {kinds[0] if kinds else 'unknown error'}", None, False)
    return Cause(_GONE, None, True)


def _kinds_of(error: object) -> list[str]:
    """Class names of a serialised error and of what has caused it."""
    names: list[str] = []
    while error is not None and len(names) < 20:
        name = getattr(error, "cls_name", None)
        names += [name] if isinstance(name, str) else []
        error = getattr(error, "cause", None) or getattr(error, "context", None)
    return names


def _failed_checks(instance: dg.DagsterInstance, run_id: str) -> str:
    texts = []
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        evaluation = entry.asset_check_evaluation
        if evaluation is None or evaluation.passed or evaluation.severity is not dg.AssetCheckSeverity.ERROR:
            continue
        if evaluation.blocking is False:
            # It tells of something wrong, and has ended no run.
            continue
        check = f"{evaluation.asset_key.to_user_string()} has not passed {evaluation.check_name}"
        texts.append(f"{check}: {evaluation.description}" if evaluation.description else check)
    return "; ".join(texts)
