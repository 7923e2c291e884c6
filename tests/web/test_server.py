"""Where the pages listen, by TLS or not, and what they refuse to do."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.operations.people import add_user, change_user
from mqi_dagster.operations.probes import ProbeFinding
from mqi_dagster.operations.web_diagnosis import examine_web
from mqi_dagster.people.rights import Role
from mqi_dagster.resources.site import Site
from mqi_dagster.settings.web import OpenIdConnect, ProxyLogin, Web
from mqi_dagster.web.server import require_safe, server_of
from tests.waiting import wait_for
from tests.web.conftest import OWNER, PASSWORD
from tests.worklist.seeded import Seeded

Certificate = Callable[..., dict[str, Path]]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "mqi.yaml").write_text("site: {timezone: Asia/Seoul}\n")
    return Site(tmp_path / "mqi.yaml")


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    """Makes a certificate of this machine and its key."""

    def make(days: float = 30, name: str = "one", encrypted: bool = False) -> dict[str, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        began = datetime.now(UTC) - timedelta(days=60)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(began)
            .not_valid_after(datetime.now(UTC) + timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(key, hashes.SHA256())
        )
        files = {"tls_certificate": tmp_path / f"{name}.pem", "tls_key": tmp_path / f"{name}-key.pem"}
        files["tls_certificate"].write_bytes(made.public_bytes(serialization.Encoding.PEM))
        locked = serialization.BestAvailableEncryption(b"word") if encrypted else serialization.NoEncryption()
        files["tls_key"].touch(mode=0o600)
        files["tls_key"].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, locked
            )
        )
        return files

    return make


def with_web(site: Site, **web: Any) -> Site:
    site.settings = site.settings.model_copy(update={"web": Web(**web)})
    return site


@contextmanager
def serving(site: Site) -> Iterator[int]:
    """The port of running pages."""
    server = server_of(site, 0)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    wait_for(lambda: server.started, "the pages listen")
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(60)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_on_this_machine_alone_nothing_is_asked_for(site: Site, host: str) -> None:
    require_safe(with_web(site, host=host))


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.0.2.1", "mqi.example.org", "127.1", "::ffff:127.0.0.1", "localhost.evil"]
)
def test_on_anything_else_the_pages_want_tls_or_a_proxy_and_somebody_who_may_sign_in(
    site: Site, host: str, certificate: Certificate
) -> None:
    with pytest.raises(ConfigurationError, match="passwords would cross the network in clear"):
        require_safe(with_web(site, host=host))
    for how in ({"behind_proxy": True}, certificate()):
        with pytest.raises(ConfigurationError, match=r"nobody has an account yet: `mqi user add NAME --role"):
            require_safe(with_web(site, host=host, **how))
    add_user(site, OWNER, "anna", [Role.ADMIN])
    require_safe(with_web(site, host=host, behind_proxy=True))
    change_user(site, OWNER, "anna", disabled=True)
    with pytest.raises(ConfigurationError, match="nobody has an account yet"):
        require_safe(with_web(site, host=host, behind_proxy=True))


def test_a_certificate_that_cannot_be_used_is_an_error_that_says_so(
    site: Site, certificate: Certificate, tmp_path: Path
) -> None:
    one, other = certificate(), certificate(name="other")
    for files in (
        {**one, "tls_key": other["tls_key"]},
        {**one, "tls_key": tmp_path / "absent.pem"},
        {**one, "tls_certificate": tmp_path / "mqi.yaml"},
        certificate(name="locked", encrypted=True),
    ):
        with pytest.raises(ConfigurationError, match=r"cannot be used \(.+\): they are PEM files"):
            require_safe(with_web(site, **files))


def test_the_pages_speak_tls_themselves(seeded: Seeded, certificate: Certificate) -> None:
    files = certificate()
    add_user(seeded.site, OWNER, "anna", [Role.VIEWER], password=PASSWORD)
    trusted = ssl.create_default_context(cafile=str(files["tls_certificate"]))
    with serving(with_web(seeded.site, **files)) as port:
        base = f"https://localhost:{port}"
        with httpx.Client(base_url=base, verify=trusted, trust_env=False) as browser:
            assert browser.get("/healthz").json() == {"status": "ok"}
            answer = browser.post("/login", data={"name": "anna", "password": PASSWORD})
            assert answer.status_code == 303
            assert answer.headers["set-cookie"].startswith("__Host-mqi=")
            assert "; Secure" in answer.headers["set-cookie"]
            page = browser.get("/")
            assert page.status_code == 200 and "anna" in page.text
            assert page.headers["strict-transport-security"] == "max-age=31536000"
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://localhost:{port}/healthz", trust_env=False)


def test_the_command_refuses_before_it_listens(site: Site) -> None:
    (site.settings_file.parent / "mqi.yaml").write_text(
        "site: {timezone: Asia/Seoul}\nweb: {host: 0.0.0.0, port: 1}\n"
    )
    mqi = Path(sys.executable).with_name("mqi")
    folder = str(site.settings_file.parent)
    done = subprocess.run([mqi, "web", "--site", folder], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("mqi: web.host is 0.0.0.0: passwords would cross the network in clear.")


def found(site: Site) -> dict[str, tuple[str, str]]:
    """What the doctor says of the pages, by subject."""
    findings: list[ProbeFinding] = list(examine_web(site.settings, site.ledger))
    return {one.subject: (one.verdict.value, one.found) for one in findings}


def test_the_doctor_says_where_the_pages_listen_and_who_gets_in(
    site: Site, certificate: Certificate, tmp_path: Path
) -> None:
    assert found(site) == {
        "pages": ("ok", "http://127.0.0.1:8000, without TLS, for this machine alone"),
        "accounts": ("ok", "none yet; `mqi dev` makes the first one"),
    }
    assert found(with_web(site, host="0.0.0.0"))["pages"][0] == "fault"
    origins = ("https://mqi.example.org",)
    said = found(with_web(site, behind_proxy=True, origins=origins))
    assert said["pages"] == ("ok", "https://mqi.example.org, behind a proxy, for this machine alone")
    assert said["accounts"] == ("fault", "nobody gets in")
    add_user(site, OWNER, "anna", [Role.VIEWER])
    add_user(site, OWNER, "robot", [Role.SERVICE])
    words = "2 of 2 may sign in, 0 of them administer"
    links = "; without a password, and in by links alone: anna"
    assert found(site)["accounts"] == ("warning", words)
    add_user(site, OWNER, "boss", [Role.ADMIN], password=PASSWORD)
    words = "3 of 3 may sign in, 1 of them administer"
    assert found(site)["accounts"] == ("ok", words + links)
    proxy = ProxyLogin(header="X-User", addresses=("127.0.0.1",))
    assert found(with_web(site, proxy_login=proxy))["accounts"] == ("ok", words)
    assert found(with_web(site, **certificate(days=30)))["certificate"][0] == "ok"
    assert found(with_web(site, **certificate(days=5)))["certificate"][0] == "warning"
    verdict, text = found(with_web(site, **certificate(days=-5)))["certificate"]
    assert verdict == "fault" and text.startswith("it was valid until ")
    files = certificate()
    files["tls_key"].chmod(0o640)
    assert "others can read its key" in found(with_web(site, **files))["certificate"][1]
    openid = OpenIdConnect(
        issuer="http://127.0.0.1:9", client_id="mqi", client_secret_file=tmp_path / "absent"
    )
    assert found(with_web(site, openid=openid))["single sign-on"] == (
        "fault",
        "the secret of web.openid cannot be read: No such file or directory",
    )
