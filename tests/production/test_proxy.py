"""The proxy example in a real nginx on the loopback: a login in front of pages that have none."""

from __future__ import annotations

import base64
import http.client
import http.server
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.waiting import wait_for

pytestmark = pytest.mark.slow

PRODUCTION = Path(__file__).resolve().parents[2] / "deploy" / "production"
MAIN = """
{user}
pid {root}/nginx.pid;
error_log {root}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {root}/tmp; proxy_temp_path {root}/tmp; fastcgi_temp_path {root}/tmp;
    uwsgi_temp_path {root}/tmp; scgi_temp_path {root}/tmp;
    include {root}/mqi.conf;
}}
"""


class Pages(http.server.BaseHTTPRequestHandler):
    """Stands in for Dagster's pages: answers who it is and what it was told; upgrades to a WebSocket."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.headers.get("Upgrade") == "websocket":
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.end_headers()
            self.wfile.write(b"a frame")
            self.close_connection = True
            return
        headers = self.headers
        told = (
            f"{self.server.server_port} {headers['X-Forwarded-Proto']} {headers['Authorization']}"
            f" {headers['Host']}"
        )
        self.send_response(200)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told.encode())

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


@dataclass
class Proxy:
    port: int
    plain: int
    pages: int
    viewer: int
    root: Path

    def connection(self, host: str) -> http.client.HTTPSConnection:
        trusted = ssl.create_default_context(cafile=str(self.root / "tls/fullchain.pem"))
        made = http.client.HTTPSConnection("127.0.0.1", self.port, context=trusted, timeout=60)
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        made.sock = trusted.wrap_socket(plain, server_hostname=host)
        return made

    def get(self, host: str, login: str | None, **headers: str) -> http.client.HTTPResponse:
        return self.ask("GET", "/", host, login, headers)

    def ask(
        self, method: str, path: str, host: str, login: str | None, headers: dict[str, str], sni: str = ""
    ) -> http.client.HTTPResponse:
        if login is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
        connection = self.connection(sni or host)
        connection.request(method, path, headers={"Host": host, **headers})
        return connection.getresponse()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def as_this_user() -> str:
    """Workers of a root's nginx give up their rights and could not read what pytest keeps to itself."""
    return "user root root;" if os.geteuid() == 0 else ""


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if nginx is None or shutil.which("openssl") is None:
        pytest.skip("nginx is not installed here")
    root = tmp_path_factory.mktemp("nginx")
    (root / "tls").mkdir()
    names = "subjectAltName=DNS:mqi.example.org,DNS:view.mqi.example.org"
    key = [*("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=mqi")]
    files = ["-keyout", str(root / "tls/privkey.pem"), "-out", str(root / "tls/fullchain.pem")]
    subprocess.run([*key, *files, "-addext", names], check=True, capture_output=True)
    for file, name in (("operators", "anna"), ("viewers", "vera")):
        hashed = subprocess.run(
            ["openssl", "passwd", "-apr1", f"{name}'s password"], check=True, capture_output=True, text=True
        ).stdout
        (root / f"{file}.htpasswd").write_text(f"{name}:{hashed}")
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    made = Proxy(free_port(), free_port(), servers[0].server_port, servers[1].server_port, root)
    for name in ("nginx.conf", "nginx-pages.conf"):
        text = (PRODUCTION / name).read_text().replace("/etc/mqi", str(root))
        text = text.replace("listen 443", f"listen 127.0.0.1:{made.port}")
        text = text.replace("listen 80", f"listen 127.0.0.1:{made.plain}")
        text = text.replace("127.0.0.1:3000", f"127.0.0.1:{made.pages}")
        text = text.replace("127.0.0.1:3001", f"127.0.0.1:{made.viewer}")
        (root / name.replace("nginx.conf", "mqi.conf")).write_text(text)
    (root / "main.conf").write_text(MAIN.format(root=root, user=as_this_user()))
    running = subprocess.Popen(
        [nginx, "-c", str(root / "main.conf"), "-g", "daemon off;"], stderr=subprocess.PIPE, text=True
    )
    try:

        def answers() -> bool:
            assert running.poll() is None, running.stderr and running.stderr.read()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", made.port)) == 0

        wait_for(answers, "nginx answers")
        yield made
    finally:
        running.terminate()
        running.wait(30)
        for server in servers:
            server.shutdown()


def test_without_a_login_nobody_gets_in(proxy: Proxy) -> None:
    for login in (None, "anna:guessed", "vera:vera's password"):
        answer = proxy.get("mqi.example.org", login)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="MQI operators"'
        assert str(proxy.pages) not in answer.read().decode()


def test_operators_and_viewers_each_get_their_pages(proxy: Proxy) -> None:
    operator = proxy.get("mqi.example.org", "anna:anna's password")
    assert (operator.status, operator.read().decode()) == (200, f"{proxy.pages} https None mqi.example.org")
    viewer = proxy.get("view.mqi.example.org", "vera:vera's password")
    assert (viewer.status, viewer.read().decode()) == (200, f"{proxy.viewer} https None view.mqi.example.org")


def test_answers_carry_the_headers_that_keep_browsers_careful(proxy: Proxy) -> None:
    headers = proxy.get("mqi.example.org", "anna:anna's password").headers
    assert headers["Strict-Transport-Security"] == "max-age=31536000"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"


def test_a_websocket_of_the_pages_passes_with_a_login_only(proxy: Proxy) -> None:
    wanted = {"Upgrade": "websocket", "Connection": "Upgrade"}
    assert proxy.get("mqi.example.org", None, **wanted).status == 401
    answer = proxy.get("mqi.example.org", "anna:anna's password", **wanted)
    assert (answer.status, answer.headers["Upgrade"]) == (101, "websocket")


OWN = {"Origin": "https://mqi.example.org", "Sec-Fetch-Site": "same-origin"}
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("status", "method", "path", "headers"),
    [
        (200, "POST", "/graphql", {**OWN, **JSON}),
        (200, "POST", "/graphql", {**OWN, "Content-Type": "application/json; charset=utf-8"}),
        (200, "GET", "/graphql", {}),
        (
            *(200, "GET", "/runs"),
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        ),
        (403, "POST", "/graphql", {"Origin": "https://evil.example.com", **JSON}),
        (403, "POST", "/graphql", {"Origin": "https://view.mqi.example.org", **JSON}),
        (403, "POST", "/graphql", {"Origin": "http://mqi.example.org", **JSON}),
        (403, "POST", "/graphql", {"Origin": "null", **JSON}),
        (403, "POST", "/graphql", {"Sec-Fetch-Site": "same-site", **JSON}),
        (403, "GET", "/logs/a", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}),
        (415, "POST", "/graphql", {**OWN, "Content-Type": "text/plain; a=application/json"}),
        (415, "POST", "/graphql?query=mutation", OWN),
        (405, "GET", "/graphql?query=mutation", {}),
    ],
)
def test_only_the_pages_themselves_send_anything(
    proxy: Proxy, status: int, method: str, path: str, headers: dict[str, str]
) -> None:
    assert proxy.ask(method, path, "mqi.example.org", "anna:anna's password", headers).status == status


def test_a_websocket_of_another_page_is_refused(proxy: Proxy) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    login = "anna:anna's password"
    assert proxy.ask("GET", "/graphql", "mqi.example.org", login, {**upgrade, **OWN}).status == 101
    foreign = {**upgrade, "Origin": "https://evil.example.com"}
    assert proxy.ask("GET", "/graphql", "mqi.example.org", login, foreign).status == 403


def test_a_name_that_is_not_ours_gets_no_answer(proxy: Proxy) -> None:
    with pytest.raises(ssl.SSLError):
        proxy.get("evil.example.com", "anna:anna's password")
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        proxy.ask("GET", "/", "evil.example.com", "anna:anna's password", {}, sni="mqi.example.org")


def test_plain_http_leads_to_tls(proxy: Proxy) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.plain, timeout=60)
    connection.request("GET", "/runs", headers={"Host": "mqi.example.org"})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Location"]) == (301, "https://mqi.example.org/runs")
