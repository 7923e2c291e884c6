"""The site that `mqi case run` makes of a folder, from the settings of another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqi_dagster.operations.settings_text import settings_file
from mqi_dagster.operations.site_folder import RunOptions, make_run_site
from mqi_dagster.settings import read_settings

CLINIC = """\
site: {timezone: Asia/Seoul, secret_file: /srv/secret}
paths: {data: /srv/data}
database: {host: db.example.org, password_file: keys/db}
notifications:
  webhook: {url: "https://example.org/hook"}
handover: {target: qa, folder: /srv/results}
hosts:
  qa: {host: qa.example.org, user: mqi, key_file: keys/qa, known_hosts: keys/known_hosts}
"""


@pytest.mark.parametrize("histories", [None, 20_000.0])
def test_a_site_as_mqi_init_writes_it_is_copied(tmp_path: Path, histories: float | None) -> None:
    file = tmp_path / "site" / "mqi.yaml"
    file.parent.mkdir()
    file.write_text(settings_file({"site.timezone": "Asia/Seoul"}))
    out = tmp_path / "out"
    (out / "config" / "machines").mkdir(parents=True)
    settings = make_run_site(out, RunOptions(settings=file, histories=histories))
    assert settings.site.timezone == "Asia/Seoul"
    assert settings.engine.histories == (histories or 1e6)
    assert settings.paths.data == out / "data"


def test_a_site_with_an_engine_of_its_own_place_is_copied(tmp_path: Path) -> None:
    file = tmp_path / "mqi.yaml"
    file.write_text(settings_file({"site.timezone": "UTC", "engine.embedded.cache": "engine"}))
    out = tmp_path / "out"
    (out / "config" / "machines").mkdir(parents=True)
    assert make_run_site(out, RunOptions(settings=file)).engine.embedded.cache == tmp_path / "engine"


def test_everything_stands_in_the_folder_whatever_the_site_has_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "mqi.yaml"
    file.write_text(CLINIC)
    out = tmp_path / "out"
    (out / "config" / "machines").mkdir(parents=True)
    settings = make_run_site(out, RunOptions(settings=file))
    assert settings == read_settings(out / "mqi.yaml")
    assert settings.database.host is None and settings.notifications.webhook is None
    assert settings.handover.target == "local" and settings.handover.folder == out / "handover"
    assert settings.site.secret_file == out / "secret" and settings.paths.data == out / "data"
    assert settings.hosts["qa"].key_file == tmp_path / "keys" / "qa"
