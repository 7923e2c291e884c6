"""What a failure means for the one who has to do something about it."""

_NEXT = {
    "input": "correct the files in the inbox: the case is taken in anew by itself",
    "configuration": "correct the settings or machine files (`mqi doctor`), then `mqi case retry`",
    "engine": "look at the attempts (`mqi case show`) and at `mqi doctor`, then `mqi case retry`",
    "check": "compare the numbers with the limits in the settings; a retry alone gives the same",
    "other": "`mqi case retry` once the cause is gone",
}
_KINDS = {
    "plan": "input",
    "delivery": "input",
    "unknown-machine": "configuration",
    "privacy": "configuration",
    "engine-timeout": "engine",
    "engine-input": "configuration",
    "command": "configuration",
    "host-key": "configuration",
    "authentication": "configuration",
    "credentials": "configuration",
    "submit-rejected": "configuration",
    "path-rejected": "configuration",
}
CANCELLED = "cancelled by an operator"


def next_step(code: str | None) -> str:
    """What to do about a failure, by the class of its error (errors.py)."""
    return _NEXT[_KINDS.get(code or "", code if code in _NEXT else "other")]
