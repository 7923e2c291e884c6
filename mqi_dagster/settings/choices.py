"""The words that settings choose between."""

from __future__ import annotations

from enum import StrEnum


class CaseNames(StrEnum):
    """How a case is called."""

    PSEUDONYM = "pseudonym"
    FOLDER = "folder"


class Ready(StrEnum):
    """When an arrival counts as complete."""

    MARKER = "marker"
    STABLE = "stable"


class CsvDialect(StrEnum):
    """How the engine wants its CSVs: a row per sample, or all samples in one line."""

    ROWS = "rows"
    FLAT = "flat"


class Samples(StrEnum):
    """Which samples of a record become protons."""

    BEAM_ON = "beam_on"
    ALL = "all"


class OutputFormat(StrEnum):
    """What the engine writes."""

    RAW = "raw"
    MHD = "mhd"


class DoseType(StrEnum):
    """DICOM Dose Type of the RT Dose."""

    PHYSICAL = "PHYSICAL"
    EFFECTIVE = "EFFECTIVE"


class SummationType(StrEnum):
    """DICOM Dose Summation Type of the RT Dose, PS3.3 C.8.8.3."""

    BEAM_SESSION = "BEAM_SESSION"
    """One session (fraction) of the beam: what a delivery is."""
    BEAM = "BEAM"
    """The beam in the plan, all of its fractions; for receivers that know nothing else."""


class Keep(StrEnum):
    """Which folders of jobs stay on a cluster."""

    FAILED = "failed"
    ALL = "all"


class HandoverAccess(StrEnum):
    """Who may read what is handed over."""

    OWNER = "owner"
    GROUP = "group"


class MailSecurity(StrEnum):
    """How the connection to a mail server is protected."""

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


class NotifiedEvent(StrEnum):
    """What people are told."""

    ALARM_RAISED = "alarm_raised"
    ALARM_CLEARED = "alarm_cleared"
    CASE_CONCLUDED = "case_concluded"
    STATUS_CHANGED = "status_changed"
