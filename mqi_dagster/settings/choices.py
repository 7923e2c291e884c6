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


class Keep(StrEnum):
    """Which folders of jobs stay on a cluster."""

    FAILED = "failed"
    ALL = "all"


class MailSecurity(StrEnum):
    """How the connection to a mail server is protected."""

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


class Tell(StrEnum):
    """What people are told."""

    ALARM_RAISED = "alarm_raised"
    ALARM_CLEARED = "alarm_cleared"
    CASE_CONCLUDED = "case_concluded"
