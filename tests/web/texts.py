"""Every text of the pages and mails that people read, taken from the code and its templates."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

from babel.messages.extract import extract_from_dir

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.courses.inventory import Reason
from mqi_dagster.dose.grid import DoseUnits
from mqi_dagster.imaging.quality_checks import Verdict
from mqi_dagster.imaging.segmentation_files import SegmentationState
from mqi_dagster.languages.messages import MESSAGES
from mqi_dagster.ledger import attempts, audit
from mqi_dagster.ledger.alarms import AlarmKind
from mqi_dagster.lifecycle import failures
from mqi_dagster.lifecycle.stages import CaseState, Stage
from mqi_dagster.notify.mail import LISTED
from mqi_dagster.notify.message import WORDS
from mqi_dagster.operations.asked import Standing
from mqi_dagster.operations.dose_slices import WINDOWS, Overlay, Plane
from mqi_dagster.operations.review import ReviewState
from mqi_dagster.operations.segmentation_slices import Shown
from mqi_dagster.people.rights import Role

PACKAGE = Path(__file__).resolve().parents[2] / "mqi_dagster"
ERRORS = ("InfrastructureError", "InputError", "KeyRejectedError", "NotAllowedError", "SignInError",
          "TooManyTriesError")  # fmt: skip
"""Those whose words a page shows to whom has asked for something."""
ASKED = ("audit", "noted_reads", "patient_search", "people", "retake", "retry", "review",
         "single_sign_on")  # fmt: skip
"""Of `operations/`: what pages ask for."""
STATUSES = ("Bad Request", "Unauthorized", "Forbidden", "Not Found", "Method Not Allowed", "Conflict",
            "Request Entity Too Large", "Content Too Large", "Unprocessable Entity", "Unprocessable Content",
            "Too Many Requests", "Internal Server Error", "Service Unavailable")  # fmt: skip
"""Headings of errors, as each version of Python words them."""
Text = str | tuple[str, str]
"""A text, or its two forms for one and for several."""


def texts() -> set[Text]:
    """All of them, in English."""
    return {*_marked(), *_raised(), *_values(), *_pictures(), *MESSAGES}


def _extracted(folder: str, methods: list[tuple[str, str]], keywords: dict[str, object]) -> Iterator[Text]:
    options = {"templates/**.html": {"newstyle_gettext": "true", "silent": "false", "trim_blocks": "true",
                                     "lstrip_blocks": "true"}}  # fmt: skip
    for _, _, text, _, _ in extract_from_dir(
        PACKAGE / folder, methods, options, keywords=keywords, directory_filter=lambda _: True
    ):
        yield text


def _marked() -> Iterator[Text]:
    """What stands in `_("...")`, `ngettext` and `{% trans %}`."""
    keywords: dict[str, object] = {"_": None, "gettext": None, "ngettext": (1, 2)}
    yield from _extracted("web", [("templates/**.html", "jinja2"), ("**.py", "python")], keywords)


def _raised() -> Iterator[Text]:
    """Constant texts of errors that a page may show."""
    keywords: dict[str, object] = dict.fromkeys(ERRORS)
    yield from _extracted("people", [("**.py", "python")], keywords)
    yield from _extracted("web", [("api/**", "ignore"), ("**.py", "python")], keywords)
    yield from _extracted(
        "operations", [*((f"{one}.py", "python") for one in ASKED), ("**", "ignore")], keywords
    )


def _spoken(values: Iterable[str]) -> Iterator[str]:
    return (value.words if isinstance(value, Stage) else str(value).replace("_", " ") for value in values)


def _values() -> Iterator[str]:
    """What is said of states, roles and the like, and what people can do about a failure."""
    enums = (CaseState, Stage, Role, AlarmKind, audit.Action, audit.Outcome, attempts.Outcome, ReviewState,
             SegmentationState, Verdict, Overlay, Plane, Reason, Shown)  # fmt: skip
    for values in enums:
        yield from _spoken(values)
    yield from (value.value for value in Standing if value is not Standing.LATEST)
    yield from (units.shown for units in DoseUnits)
    yield from (*WINDOWS, "whole range")
    yield from _spoken(pipeline.units.kind.name for pipeline in PIPELINES)
    yield from STATUSES
    codes, commands = (None, *failures._NEXT, *failures._KINDS), [one.command for one in PIPELINES]
    for code, command, served in product(codes, commands, (True, False)):
        yield failures.next_step(code, command, served=served)
    yield from ("plan", "dose", "structure set", "series", "RT plan", "CT")
    yield from (*WORDS.values(), LISTED)


def _pictures() -> Iterator[str]:
    """What the pictures of a beam show."""
    for node in ast.walk(ast.parse((PACKAGE / "lifecycle/metadata.py").read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_picture":
            yield from (one.value for one in node.args if isinstance(one, ast.Constant))


def said_by_the_code() -> set[str]:
    """Every text of the package, with ``{}`` where a value comes in."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "languages":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
                elif isinstance(node, ast.JoinedStr):
                    found.add(
                        "".join(one.value if isinstance(one, ast.Constant) else "{}" for one in node.values)
                    )
    return found


def blanked(text: str) -> str:
    """A text with ``{}`` for each of its values."""
    return re.sub(r"\{\w+\}", "{}", text)
