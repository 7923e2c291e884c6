"""Where the ledger is: beside the state, or on the server that the settings name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.ledger.location import ledger_url
from mqi_dagster.operations.instance import instance_settings
from mqi_dagster.settings import Settings, parse_settings

# A host behind which nobody is, or a line that was cut, holds no engine of Dagster's either.
LIMITS = "connect_timeout=10&{}keepalives_count=3&keepalives_idle=10&keepalives_interval=5&{}"


def site(base: Path, **database: Any) -> Settings:
    return parse_settings({"site": {"timezone": "Asia/Seoul"}, "database": database}, base)


def test_without_a_server_the_ledger_is_a_file_below_the_state(tmp_path: Path) -> None:
    assert ledger_url(site(tmp_path)) == f"sqlite:///{tmp_path}/state/ledger.sqlite"


def test_a_server_is_reached_by_its_name_and_a_password_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "db-password"
    secret.write_text("s/e:c@r t\n")
    secret.chmod(0o600)
    settings = site(tmp_path, host="db.example.org", port=5433, user="qa", password_file="db-password")
    server, limits = "qa:s%2Fe%3Ac%40r t@db.example.org:5433", LIMITS.format("", "tcp_user_timeout=30000")
    assert ledger_url(settings) == f"postgresql+psycopg2://{server}/mqi?{limits}"
    assert "c@r" not in str(instance_settings(settings))
    assert instance_settings(settings)["storage"] == {
        "custom": {
            "module": "mqi_dagster.resources.server_records",
            "class": "ServerRecords",
            "config": {"postgres_url": {"env": "MQI_DATABASE_URL"}},
        }
    }


def test_a_socket_needs_no_name(tmp_path: Path) -> None:
    settings = site(tmp_path, host="/run/postgresql")
    query = LIMITS.format("host=%2Frun%2Fpostgresql&", "port=5432&tcp_user_timeout=30000")
    assert ledger_url(settings) == f"postgresql+psycopg2://mqi@/mqi?{query}"


def test_a_site_that_goes_back_to_files_does_not_keep_the_server(tmp_path: Path) -> None:
    files = {
        "custom": {
            "module": "mqi_dagster.resources.file_records",
            "class": "FileRecords",
            "config": {"base_dir": {"env": "DAGSTER_HOME"}},
        }
    }
    assert instance_settings(site(tmp_path))["storage"] == files
    before = instance_settings(site(tmp_path, host="/run/postgresql"))
    assert instance_settings(site(tmp_path), before)["storage"] == files
    earlier = {"storage": {"postgres": {"postgres_url": {"env": "MQI_DATABASE_URL"}}}}
    assert instance_settings(site(tmp_path), earlier)["storage"] == files
    older = {"run_storage": {"module": "m", "class": "C"}}
    assert "storage" not in instance_settings(site(tmp_path), older), "Dagster refuses both at once"
    own = {"storage": {"sqlite": {"base_dir": "elsewhere"}}}
    assert instance_settings(site(tmp_path), own)["storage"] == own["storage"]


@pytest.mark.parametrize(
    ("mode", "content", "word"),
    [(0o644, "secret", "chmod 600"), (0o600, "\n", "empty"), (None, "", "cannot be read")],
)
def test_a_password_file_that_cannot_be_trusted_is_refused(
    tmp_path: Path, mode: int | None, content: str, word: str
) -> None:
    if mode is not None:
        (tmp_path / "password").write_text(content)
        (tmp_path / "password").chmod(mode)
    with pytest.raises(ConfigurationError, match=word):
        ledger_url(site(tmp_path, host="db", password_file="password"))
