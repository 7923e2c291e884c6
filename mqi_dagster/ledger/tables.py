"""The ledger's tables as the newest revision leaves them.

No column holds a path, a UID or a patient's identifier: plans, deliveries and arrivals stand here as keyed
hashes. Every table is named ``mqi_…``, so that the ledger can share a PostgreSQL database with Dagster.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    text,
)

REVISION = "0011"
VERSION_TABLE = "mqi_ledger_version"


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC: refuses naive values, and gives back aware ones on every database."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The value as the database stores it."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The stored value as an aware one; SQLite keeps no zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


METADATA = MetaData()

FRACTION = Table(
    "mqi_fraction",
    METADATA,
    Column("plan", String(200), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("first_seen", UtcDateTime, nullable=False),
)

DELIVERY = Table(
    "mqi_delivery",
    METADATA,
    Column("plan", String(200), primary_key=True),
    Column("delivery", String(200), primary_key=True),
    Column("number", Integer, nullable=False),
    ForeignKeyConstraint(["plan", "number"], ["mqi_fraction.plan", "mqi_fraction.number"]),
)

ARRIVAL = Table(
    "mqi_arrival",
    METADATA,
    Column("case", String(200), primary_key=True),
    Column("arrival", String(200), nullable=False),
    Column("fingerprint", String(200), nullable=False),
    Column("ready", Boolean, nullable=False),
    Column("reason", String, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("first_seen", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("next_check", UtcDateTime),
    Column("requested_fingerprint", String(200)),
    Column("requested_at", UtcDateTime),
    # Runs from before the removal of the results do not count as asked for.
    Column("results_removed_at", UtcDateTime),
    Column("records_removed_at", UtcDateTime),
    # Nor does a conclusion that was asked for before its completion marker went.
    Column("marker_withdrawn_at", UtcDateTime),
    # Of the partition: what takes cases in must not take courses for cases.
    Column("kind", String(20), nullable=False, server_default="case"),
)

SLOT = Table(
    "mqi_slot",
    METADATA,
    Column("host", String(200), primary_key=True),
    Column("kind", String(20), primary_key=True),
    Column("slot_index", Integer, primary_key=True, autoincrement=False),
    Column("uuid", String(200), nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("in_service", Boolean, nullable=False),
    # A person's switch: a declaration leaves it as it is.
    Column("switched_off_at", UtcDateTime),
    Column("switched_off_reason", String),
    # The lease is the rest: one per slot by the key, one per part of a partition by the constraint.
    Column("token", Integer, nullable=False),
    Column("partition", String(200)),
    Column("part", Integer),
    Column("owner", String(200)),
    Column("acquired_at", UtcDateTime),
    Column("heartbeat_at", UtcDateTime),
    Column("executor", String(50)),
    Column("job_id", String(200)),
    UniqueConstraint("partition", "part", name="mqi_slot_partition_part"),
    Index(
        "mqi_slot_uuid",
        "host",
        "uuid",
        unique=True,
        sqlite_where=text("uuid <> ''"),
        postgresql_where=text("uuid <> ''"),
    ),
)

GPU = Table(
    "mqi_gpu",
    METADATA,
    Column("host", String(200), primary_key=True),
    Column("uuid", String(200), primary_key=True),
    Column("gpu_index", Integer, nullable=False),
    Column("name", String(200), nullable=False),
    Column("memory_mb", Integer),
    Column("used_mb", Integer),
    Column("utilisation_percent", Integer),
    Column("temperature_c", Integer),
    Column("sm_clock_mhz", Integer),
    Column("memory_clock_mhz", Integer),
    Column("foreign_processes", Integer, nullable=False),
    Column("allocated", Boolean),
    Column("seen_at", UtcDateTime, nullable=False),
)

WAITING = Table(
    "mqi_waiting",
    METADATA,
    Column("partition", String(200), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("host", String(200), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("reason", String, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("until", UtcDateTime, nullable=False),
)

POOL = Table(
    "mqi_pool",
    METADATA,
    Column("name", String(50), primary_key=True),
    Column("max_runs", Integer, nullable=False),
    Column("set_at", UtcDateTime, nullable=False),
)

KEY_CHECK = Table(
    "mqi_key_check",
    METADATA,
    Column("name", String(50), primary_key=True),
    # A keyed hash of a constant: it says which secret is in use, and nothing of it.
    Column("value", String(64), nullable=False),
    Column("set_at", UtcDateTime, nullable=False),
)

ATTEMPT = Table(
    "mqi_attempt",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("partition", String(200), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("number", Integer, nullable=False),
    Column("run_id", String(200), nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("outcome", String(20)),
    Column("cause", String),
    Index("mqi_attempt_partition", "partition", "digest"),
    Index(
        "mqi_attempt_unfinished",
        "partition",
        "digest",
        unique=True,
        sqlite_where=text("outcome IS NULL"),
        postgresql_where=text("outcome IS NULL"),
    ),
)

PROGRESS = Table(
    "mqi_progress",
    METADATA,
    Column("partition", String(200), primary_key=True),
    Column("run_id", String(200), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("phase", String(50), nullable=False),
    Column("batch", Integer),
    Column("batches", Integer),
    Column("percent", Float, nullable=False),
    Column("histories", Float),
    Column("message", String, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

CLUSTER_JOB = Table(
    "mqi_cluster_job",
    METADATA,
    Column("cluster", String(200), primary_key=True),
    Column("key", String(200), primary_key=True),
    Column("partition", String(200), nullable=False),
    Column("folder", String(400), nullable=False),
    Column("state", String(20), nullable=False),
    Column("job_id", String(50)),
    Column("retired", String, nullable=False),
    Column("adopted", Boolean, nullable=False),
    Column("submitted", String(50)),
    Column("scheduler_state", String(50), nullable=False),
    Column("reason", String, nullable=False),
    Column("exit_code", Integer),
    Column("result", String),
    Column("missing_since", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("cancel_requested_at", UtcDateTime),
    Column("removed_at", UtcDateTime),
    Index("mqi_cluster_job_partition", "partition"),
    Index("mqi_cluster_job_state", "cluster", "state"),
)

CLUSTER = Table(
    "mqi_cluster",
    METADATA,
    Column("cluster", String(200), primary_key=True),
    # One poll of all jobs at a time: whoever holds the turn polls, the others read what it saw.
    Column("turn", Integer, nullable=False),
    Column("polling_until", UtcDateTime),
    Column("next_poll", UtcDateTime, nullable=False),
    Column("interval_seconds", Float, nullable=False),
    Column("polled_at", UtcDateTime),
    Column("failing_since", UtcDateTime),
    Column("failure", String, nullable=False),
    Column("used_bytes", Float),
    Column("measured_at", UtcDateTime),
)

RUN_OUTCOME = Table(
    "mqi_run_outcome",
    METADATA,
    Column("run_id", String(200), primary_key=True),
    Column("job", String(200), nullable=False),
    Column("partition", String(200), nullable=False),
    Column("verdict", String(20), nullable=False),
    Column("code", String(50), nullable=False),
    Column("cause", String, nullable=False),
    Column("ended_at", UtcDateTime, nullable=False),
    # Of the tries in a row that only infrastructure has ended.
    Column("first_at", UtcDateTime, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("next_try_at", UtcDateTime),
    Column("settled_at", UtcDateTime),
    Index("mqi_run_outcome_partition", "partition", "ended_at"),
    Index(
        "mqi_run_outcome_due",
        "next_try_at",
        sqlite_where=text("settled_at IS NULL"),
        postgresql_where=text("settled_at IS NULL"),
    ),
)

ALARM = Table(
    "mqi_alarm",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("kind", String(50), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("text", String, nullable=False),
    Column("first_at", UtcDateTime, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),
    Column("count", Integer, nullable=False),
    Column("cleared_at", UtcDateTime),
    Column("notified_at", UtcDateTime),
    Index(
        "mqi_alarm_open",
        "kind",
        "subject",
        unique=True,
        sqlite_where=text("cleared_at IS NULL"),
        postgresql_where=text("cleared_at IS NULL"),
    ),
)

NOTICE = Table(
    "mqi_notice",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("event", String(50), nullable=False),
    Column("reference", String(200), nullable=False),
    Column("kind", String(50), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("text", String, nullable=False),
    Column("happened_at", UtcDateTime, nullable=False),
    Column("state", String(20), nullable=False, server_default=""),
    UniqueConstraint("event", "reference", name="mqi_notice_once"),
)

NOTICED_STATUS = Table(
    "mqi_noticed_status",
    METADATA,
    # Of which a notice was written last; the row without a name says that there are such notices.
    Column("partition", String(255), primary_key=True),
    Column("state", String(20), nullable=False),
    Column("run_id", String(200), nullable=False),
)

NOTICE_CHANNEL = Table(
    "mqi_notice_channel",
    METADATA,
    Column("channel", String(50), primary_key=True),
    Column("notified_id", Integer, nullable=False),
    Column("notified_at", UtcDateTime),
    Column("tries", Integer, nullable=False),
    Column("next_try_at", UtcDateTime),
    Column("failing_since", UtcDateTime),
    Column("failure", String, nullable=False),
)

USER = Table(
    "mqi_user",
    METADATA,
    Column("name", String(100), primary_key=True),
    Column("full_name", String(200), nullable=False),
    Column("roles", String(200), nullable=False),
    # None of one who signs in elsewhere, or has not set one yet.
    Column("password", String(200)),
    Column("failures", Integer, nullable=False),
    Column("locked_until", UtcDateTime),
    Column("language", String(10), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("disabled_at", UtcDateTime),
)

SESSION = Table(
    "mqi_session",
    METADATA,
    # Of the secret in the cookie its hash alone, here and below.
    Column("fingerprint", String(64), primary_key=True),
    Column("user", String(100), nullable=False),
    Column("csrf", String(64), nullable=False),
    Column("via", String(20), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    Index("mqi_session_user", "user"),
)

SIGN_IN_LINK = Table(
    "mqi_sign_in_link",
    METADATA,
    Column("fingerprint", String(64), primary_key=True),
    Column("user", String(100), nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

TOKEN = Table(
    "mqi_token",
    METADATA,
    Column("id", String(20), primary_key=True),
    Column("fingerprint", String(64), nullable=False, unique=True),
    Column("user", String(100), nullable=False),
    Column("name", String(100), nullable=False),
    Column("scopes", String(200), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    Column("used_at", UtcDateTime),
)

AUDIT = Table(
    "mqi_audit",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", String(100), nullable=False),
    Column("via", String(50), nullable=False),
    Column("action", String(50), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("outcome", String(20), nullable=False),
    Column("details", String, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("mqi_audit_subject", "subject"),
)

SIGNATURE = Table(
    "mqi_signature",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("partition", String(255), nullable=False),
    Column("verdict", String(20), nullable=False),
    Column("reason", String, nullable=False),
    Column("user", String(100), nullable=False),
    Column("full_name", String(200), nullable=False),
    # Digest by asset, as canonical JSON: what was signed.
    Column("digests", String, nullable=False),
    Column("signed_at", UtcDateTime, nullable=False),
    Index("mqi_signature_partition", "partition"),
)

IDEMPOTENCY = Table(
    "mqi_idempotency",
    METADATA,
    Column("user", String(100), primary_key=True),
    Column("key", String(100), primary_key=True),
    Column("request", String(64), nullable=False),
    # None while the request is at work.
    Column("status", Integer),
    Column("body", String, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

WORK_JOB = Table(
    "mqi_work_job",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("host", String(200), nullable=False),
    Column("key", String(200), nullable=False),
    Column("partition", String(200), nullable=False),
    # What a worker is told, as JSON.
    Column("request", String, nullable=False),
    Column("state", String(20), nullable=False),
    # Rises with every lease, so that whoever comes back late is recognised.
    Column("token", Integer, nullable=False),
    Column("claims", Integer, nullable=False),
    # Of the secret of a lease its hash alone.
    Column("lease", String(64)),
    Column("claim", String(32)),
    Column("account", String(100)),
    Column("worker", String(100)),
    Column("slot", String(20)),
    Column("heartbeat_at", UtcDateTime),
    Column("phase", String, nullable=False),
    Column("exit_code", Integer),
    Column("reason", String, nullable=False),
    Column("result", String),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("cancel_requested_at", UtcDateTime),
    Column("removed_at", UtcDateTime),
    Index("mqi_work_job_state", "state", "host"),
    Index("mqi_work_job_partition", "partition"),
)

WORKER = Table(
    "mqi_worker",
    METADATA,
    Column("name", String(100), primary_key=True),
    Column("account", String(100), nullable=False),
    Column("capabilities", String, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
)
