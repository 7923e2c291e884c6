"""The site's configuration: one YAML file, typed, without unknown keys."""

from mqi_dagster.settings.alarms import AlarmSettings, Mail, Notifications, Webhook
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
    Tell,
)
from mqi_dagster.settings.database import DatabaseSettings
from mqi_dagster.settings.engine import Embedded, Engine, Phantom
from mqi_dagster.settings.engine_profiles import EngineProfile, built_in_profiles
from mqi_dagster.settings.gpus import DeclaredGpu
from mqi_dagster.settings.hosts import Host, Intervals, JumpHost, Retention, Slurm
from mqi_dagster.settings.limits import DeliveryLimits
from mqi_dagster.settings.model import (
    Settings,
    parse_settings,
    read_content,
    read_settings,
    settings_problems,
)
from mqi_dagster.settings.section import REMOTE_PATH, VARIABLE_NAME, VARIABLE_VALUE, Section
from mqi_dagster.settings.sections import (
    LOCAL,
    Execution,
    Handover,
    Intake,
    Interpretation,
    Paths,
    RtDose,
    SiteCommand,
    SiteSettings,
    Ui,
)

__all__ = [
    "LOCAL",
    "REMOTE_PATH",
    "VARIABLE_NAME",
    "VARIABLE_VALUE",
    "AlarmSettings",
    "CaseNames",
    "CsvDialect",
    "DatabaseSettings",
    "DeclaredGpu",
    "DeliveryLimits",
    "DoseType",
    "Embedded",
    "Engine",
    "EngineProfile",
    "Execution",
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
    "Paths",
    "Phantom",
    "Ready",
    "Retention",
    "RtDose",
    "Samples",
    "Section",
    "Settings",
    "SiteCommand",
    "SiteSettings",
    "Slurm",
    "SummationType",
    "Tell",
    "Ui",
    "Webhook",
    "built_in_profiles",
    "parse_settings",
    "read_content",
    "read_settings",
    "settings_problems",
]
