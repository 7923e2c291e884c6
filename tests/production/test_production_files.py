"""The files for a production machine: systemd takes the units, and the compose file is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from mqi_dagster.cli.app import app
from mqi_dagster.operations.service_locks import Service

PRODUCTION = Path(__file__).resolve().parents[2] / "deploy" / "production"
UNITS = sorted((PRODUCTION / "systemd").glob("*.service"))


def values(unit: Path, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE)


def test_every_service_has_a_unit_that_runs_the_command_of_its_name() -> None:
    names = ("code", "daemon", "pages", "viewer", "watch", "web")
    assert [unit.stem for unit in UNITS] == [f"mqi-{name}" for name in names]
    assert {service.value for service in Service} == {unit.stem.removeprefix("mqi-") for unit in UNITS}
    command = typer.main.get_command(app).commands["service"]  # type: ignore[attr-defined]
    for unit in UNITS:
        (start,) = values(unit, "ExecStart")
        name = unit.stem.removeprefix("mqi-")
        assert start == f"/opt/mqi/.venv/bin/mqi service {name}"
        assert command.make_context("service", [name, "--site", "x"]).params["name"] is Service(name)


def test_a_restart_of_the_code_location_leaves_its_run_workers_alone() -> None:
    code = PRODUCTION / "systemd" / "mqi-code.service"
    assert values(code, "KillMode") == ["process"]
    assert values(code, "OOMPolicy") == ["continue"]
    assert values(code, "PrivateTmp") == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_no_service_may_do_more_than_it_needs(unit: Path) -> None:
    for key, value in {
        "User": "mqi",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ReadWritePaths": "/srv/mqi",
        "CapabilityBoundingSet": "",
        "Restart": "always",
    }.items():
        assert values(unit, key) == [value], key
    assert "assword" not in "".join(values(unit, "Environment"))


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    for file in (PRODUCTION / "systemd").iterdir():
        # Whatever can be run here in place of the installation that is not.
        text = file.read_text().replace("/opt/mqi/.venv/bin/mqi", "/bin/true")
        (tmp_path / file.name).write_text(text)
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "mqi" in line]
    assert ours == []


def test_the_compose_file_names_every_image_with_its_version_and_no_secret() -> None:
    """Docker is not here to read it: this holds it against the parts of the Compose specification it uses."""
    content = yaml.safe_load((PRODUCTION / "compose.yaml").read_text())
    assert set(content) == {"name", "x-service", "services", "volumes", "secrets"}
    known = {
        *(
            "image",
            "build",
            "restart",
            "user",
            "volumes",
            "secrets",
            "depends_on",
            "security_opt",
            "cap_drop",
        ),
        *("init", "command", "hostname", "environment", "shm_size", "healthcheck", "ports"),
    }
    services = content["services"]
    assert set(services) == {"db", "code", "daemon", "pages", "viewer", "watch", "web", "proxy"}
    for name, service in services.items():
        assert set(service) <= known, name
        assert re.fullmatch(
            r"[a-z0-9/-]+:[0-9]+(\.[0-9]+)+(-[a-z]+)?|nginx:[0-9.]+-bookworm", service["image"]
        )
        assert set(service.get("secrets", ())) <= set(content["secrets"])
        assert set(service.get("depends_on", ())) <= set(services)
        for volume in service.get("volumes", ()):
            place = volume.partition(":")[0]
            assert place in content["volumes"] or place.startswith("$"), volume
        if name in {one.value for one in Service}:
            assert service["command"] == ["service", name]
    assert [name for name in services if services[name].get("ports")] == ["proxy"]
    assert content["secrets"]["database"].keys() == {"file"}


def test_the_image_is_made_of_what_the_repository_has() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (PRODUCTION / "Dockerfile").read_text(), re.MULTILINE)
    root = PRODUCTION.parents[1]
    assert [name for line in copied for name in line.split() if not (root / name).exists()] == []
