"""The typed errors of the platform.

Every error says where it happened by role (case, beam, delivery, layer, kind of file), never by a real
path or a patient's identifier, and whether trying again can help.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Self

LONGEST_MESSAGE = 4000
LONGEST_NAME = 200
COURSE_KEY = r"R[A-Z2-7]{9}\.c[0-9]{2,9}"
"""Of a key of a course, matched in full."""
IMAGE_SET_KEY = r"S[A-Z2-7]{9}\.(?!.*__)[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
"""Of a key of an image set, matched in full: all else in its place is that of a case."""


def shown(text: str, longest: int = LONGEST_NAME) -> str:
    """A text from an input as it may be shown anywhere: on one line, escaped, and of bounded length.

    Control characters, terminal sequences, marks that turn the direction of writing and whatever else cannot
    be printed become ``\\x1b`` and the like.

    Args:
        text: The text.
        longest: Characters of it that are kept.
    """
    cut = text if len(text) <= longest else f"{text[:longest]}…"
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in cut)


def shown_message(text: str) -> str:
    """A message as it may be shown anywhere: its own line ends stay, since some list several things."""
    cut = text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}…"
    return "\n".join(shown(line, LONGEST_MESSAGE + 1) for line in cut.split("\n"))


class Retry(StrEnum):
    """What another try is worth."""

    NEVER = "never"
    """The same input gives the same error: a person has to change something."""
    FROM_BUDGET = "from_budget"
    """The engine failed: tried again until the attempt budget is used up."""
    FOREVER = "forever"
    """Infrastructure was lost: tried again without a limit, with back-off."""


@dataclass(frozen=True, slots=True)
class Where:
    """The place of an error, named by role so that it can be logged anywhere."""

    case: str | None = None
    """Key of a case, or of a course in place of one."""
    beam: str | None = None
    delivery: int | None = None
    """1-based number of the delivery in time order within its case."""
    layer: int | None = None
    kind: str | None = None
    """Role of the file or step, for example ``record``, ``machine plan``, ``PlanRange``, ``RT plan``."""
    sha256: str | None = None

    def filled_from(self, other: Where) -> Where:
        """This place, with the parts it does not know taken from ``other``."""
        known = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return replace(other, **known)

    def __str__(self) -> str:
        parts = []
        if self.case is not None:
            kinds = {"course": COURSE_KEY, "image set": IMAGE_SET_KEY}
            kind = next((kind for kind, key in kinds.items() if re.fullmatch(key, self.case)), "case")
            parts.append(f"{kind} {shown(self.case)}")
        if self.beam is not None:
            parts.append(f"beam {shown(self.beam)}")
        if self.delivery is not None:
            parts.append(f"delivery {self.delivery}")
        if self.layer is not None:
            parts.append(f"layer {self.layer}")
        if self.kind is not None:
            parts.append(shown(self.kind))
        if self.sha256 is not None:
            parts.append(f"sha {self.sha256[:8]}")
        return ", ".join(parts)


class MqiError(Exception):
    """Base of every error the platform raises on purpose.

    Args:
        message: What is wrong and, where it helps, what to do; without paths and identifiers.
        where: The place by role.
        first_cause: The text of the first error in the chain, if this one wraps another.
    """

    code = "error"
    retry = Retry.NEVER

    def __init__(self, message: str, *, where: Where | None = None, first_cause: str | None = None) -> None:
        super().__init__(shown_message(message))
        self.message = shown_message(message)
        self.where = where or Where()
        self.first_cause = None if first_cause is None else shown_message(first_cause)

    def at(self, where: Where) -> Self:
        """The same error with the unknown parts of its place filled in from ``where``."""
        self.where = self.where.filled_from(where)
        return self

    def __str__(self) -> str:
        location = str(self.where)
        text = f"{location}: {self.message}" if location else self.message
        return f"{text} (first cause: {self.first_cause})" if self.first_cause else text


class ConfigurationError(MqiError):
    """The site's settings or machine files are wrong or incomplete."""

    code = "configuration"


class InputError(MqiError):
    """What arrived cannot be used as it is."""

    code = "input"


class PlanError(InputError):
    """The RT Ion Plan cannot be read or contradicts itself."""

    code = "plan"


class DeliveryError(InputError):
    """A delivery's files are missing, damaged, or contradict each other or the plan."""

    code = "delivery"


class DicomError(InputError):
    """A file cannot be read as DICOM: it is something else, or damaged."""

    code = "dicom"


class ImageError(InputError):
    """Images do not lie in one regular grid, or what is drawn on them does not fit them."""

    code = "image"


class UnknownMachineError(InputError):
    """The plan names a machine, range shifter or range code that no machine file describes."""

    code = "unknown-machine"


class UnknownScannerError(InputError):
    """The images are of a scanner that no HU table of the site is for."""

    code = "unknown-scanner"


class UnknownSeriesError(InputError):
    """The PACS has no series of an identifier."""

    code = "unknown-series"


class KeyRejectedError(InputError):
    """A partition was added whose name is not the key of a case or beam that is known here."""

    code = "key"


class PrivacyError(InputError):
    """An operation would have put a patient's identifier where it must not stand."""

    code = "privacy"


class NotAllowedError(MqiError):
    """Whoever asks for something does not have the right to it."""

    code = "not-allowed"


class SignInError(MqiError):
    """Somebody could not prove who they are, or has to wait before the next try."""

    code = "sign-in"


class TooManyTriesError(SignInError):
    """Too many tries have failed.

    Args:
        message: As for every error.
        seconds: After these the next try is taken.
    """

    code = "too-many-tries"

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


class KeyReusedError(InputError):
    """An idempotency key comes once more, with another request."""

    code = "key-reused"


class AtWorkError(InputError):
    """The first request with an idempotency key is not answered yet."""

    code = "at-work"


class EngineError(MqiError):
    """The engine failed, or what it left behind is not a valid dose of this beam."""

    code = "engine"
    retry = Retry.FROM_BUDGET


class EngineInputError(MqiError):
    """The engine cannot be started with this input: energies outside the beam model, missing keys."""

    code = "engine-input"


class EngineTimeoutError(EngineError):
    """The engine ran longer than its limit and was ended with its whole process group."""

    code = "engine-timeout"


class CommandError(MqiError):
    """A site's own conversion command failed, hung, or left nothing usable behind."""

    code = "command"


class StoreError(MqiError):
    """The store holds something other than its manifest says."""

    code = "store"


class DoseError(MqiError):
    """A dose cannot be expressed as, or read back from, a DICOM RT Dose."""

    code = "dose"


class HandoverError(MqiError):
    """A result could not be handed over, or the copy at the target differs."""

    code = "handover"
    retry = Retry.FOREVER


class HandoverNameError(HandoverError):
    """A name at the target leads out of it, or no file system can keep it."""

    code = "handover-name"
    retry = Retry.NEVER


class InfrastructureError(MqiError):
    """A worker, disk, database or network was lost; the work itself is not to blame."""

    code = "infrastructure"
    retry = Retry.FOREVER


class UnreachableError(InfrastructureError):
    """A host, or the scheduler behind it, cannot serve now: whoever needs it waits until it can."""

    code = "unreachable"


class JobCancelledError(MqiError):
    """Somebody cancelled a beam's job on the cluster: whether it runs again is for a person to say."""

    code = "job-cancelled"


class InputsAwayError(InfrastructureError):
    """The inbox, or the whole folder of a case in it, is not there: its cases go on once it is back."""

    code = "inputs-away"


class LeaseLostError(InfrastructureError):
    """The lease passed to another owner, so this one must stop without touching the job."""

    code = "lease-lost"


class NotTakenError(InfrastructureError):
    """A receiver of notices is away, or does not take one."""

    code = "not-taken"


class PartlyTakenError(NotTakenError):
    """A receiver has taken a notice for some of its recipients: sent again, these would get it twice."""

    code = "partly-taken"
    retry = Retry.NEVER
