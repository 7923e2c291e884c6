"""People: accounts, sessions, tokens, signatures, notices of status, and the audit, of which no row goes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_REFUSED = "the audit is only added to"


def upgrade() -> None:
    """Make the tables, and have the database itself refuse to change the audit."""
    op.create_table(
        "mqi_user",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("full_name", sa.String(200), nullable=False),
        sa.Column("roles", sa.String(200), nullable=False),
        sa.Column("password", sa.String(200)),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("locked_until", _MOMENT),
        sa.Column("language", sa.String(10), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("disabled_at", _MOMENT),
    )
    op.create_table(
        "mqi_session",
        sa.Column("fingerprint", sa.String(64), primary_key=True),
        sa.Column("user", sa.String(100), nullable=False),
        sa.Column("csrf", sa.String(64), nullable=False),
        sa.Column("via", sa.String(20), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("seen_at", _MOMENT, nullable=False),
    )
    op.create_index("mqi_session_user", "mqi_session", ["user"])
    op.create_table(
        "mqi_sign_in_link",
        sa.Column("fingerprint", sa.String(64), primary_key=True),
        sa.Column("user", sa.String(100), nullable=False),
        sa.Column("expires_at", _MOMENT, nullable=False),
    )
    op.create_table(
        "mqi_token",
        sa.Column("id", sa.String(20), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False, unique=True),
        sa.Column("user", sa.String(100), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("scopes", sa.String(200), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("expires_at", _MOMENT, nullable=False),
        sa.Column("revoked_at", _MOMENT),
        sa.Column("used_at", _MOMENT),
    )
    op.create_table(
        "mqi_audit",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("actor", sa.String(100), nullable=False),
        sa.Column("via", sa.String(50), nullable=False),
        sa.Column("action", sa.String(50), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("outcome", sa.String(20), nullable=False),
        sa.Column("details", sa.String, nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_index("mqi_audit_subject", "mqi_audit", ["subject"])
    op.create_table(
        "mqi_signature",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("partition", sa.String(255), nullable=False),
        sa.Column("verdict", sa.String(20), nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("user", sa.String(100), nullable=False),
        sa.Column("full_name", sa.String(200), nullable=False),
        sa.Column("digests", sa.String, nullable=False),
        sa.Column("signed_at", _MOMENT, nullable=False),
    )
    op.create_index("mqi_signature_partition", "mqi_signature", ["partition"])
    op.create_table(
        "mqi_idempotency",
        sa.Column("user", sa.String(100), primary_key=True),
        sa.Column("key", sa.String(100), primary_key=True),
        sa.Column("request", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("body", sa.String, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
    )
    op.add_column("mqi_notice", sa.Column("state", sa.String(20), nullable=False, server_default=""))
    op.create_table(
        "mqi_noticed_status",
        sa.Column("partition", sa.String(255), primary_key=True),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("run_id", sa.String(200), nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER mqi_audit_no_{change.lower()} BEFORE {change} ON mqi_audit"
                f" BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END"
            )
    else:
        op.execute(
            "CREATE FUNCTION mqi_audit_refuse() RETURNS trigger AS"
            f" $$ BEGIN RAISE EXCEPTION '{_REFUSED}'; END $$ LANGUAGE plpgsql"
        )
        op.execute(
            "CREATE TRIGGER mqi_audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON mqi_audit"
            " FOR EACH STATEMENT EXECUTE FUNCTION mqi_audit_refuse()"
        )


def downgrade() -> None:
    """Take the tables away."""
    op.drop_column("mqi_notice", "state")
    op.drop_table("mqi_noticed_status")
    for table in ("idempotency", "signature", "audit", "token", "sign_in_link", "session", "user"):
        op.drop_table(f"mqi_{table}")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION mqi_audit_refuse()")
