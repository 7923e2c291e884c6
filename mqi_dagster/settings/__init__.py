"""The site's configuration: one YAML file, typed, without unknown keys."""

from mqi_dagster.settings.alarms import Mail, Notifications, Webhook
from mqi_dagster.settings.choices import (
    CaseNames,
    CsvDialect,
    DoseType,
    HandoverAccess,
    Keep,
    MailSecurity,
    OutputFormat,
    Ready,
    Samples,
    SummationType,
)
from mqi_dagster.settings.engine import Engine, Phantom
from mqi_dagster.settings.engine_profiles import EngineProfile, built_in_profiles
from mqi_dagster.settings.gpus import DeclaredGpu
from mqi_dagster.settings.hosts import Host, Intervals, JumpHost, Pull, Slurm
from mqi_dagster.settings.limits import DeliveryLimits
from mqi_dagster.settings.model import (
    Settings,
    parse_settings,
    read_content,
    read_settings,
    settings_problems,
)
from mqi_dagster.settings.section import REMOTE_PATH, VARIABLE_NAME, VARIABLE_VALUE
from mqi_dagster.settings.sections import (
    LOCAL,
    Handover,
    Intake,
    Interpretation,
    RtDose,
    SiteCommand,
)

__all__ = [
    "LOCAL",
    "REMOTE_PATH",
    "VARIABLE_NAME",
    "VARIABLE_VALUE",
    "CaseNames",
    "CsvDialect",
    "DeclaredGpu",
    "DeliveryLimits",
    "DoseType",
    "Engine",
    "EngineProfile",
    "Handover",
    "HandoverAccess",
    "Host",
    "Intake",
    "Interpretation",
    "Intervals",
    "JumpHost",
    "Keep",
    "Mail",
    "MailSecurity",
    "Notifications",
    "OutputFormat",
    "Phantom",
    "Pull",
    "Ready",
    "RtDose",
    "Samples",
    "Settings",
    "SiteCommand",
    "Slurm",
    "SummationType",
    "Webhook",
    "built_in_profiles",
    "parse_settings",
    "read_content",
    "read_settings",
    "settings_problems",
]
