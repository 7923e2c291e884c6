"""The proxy example in a real nginx on the loopback, our pages behind it: their login guards Dagster's."""

from __future__ import annotations

import asyncio
import http.client
import http.server
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest

from mqi_dagster.operations.people import add_user, change_user, make_token
from mqi_dagster.people.rights import Actor, Right, Role
from mqi_dagster.resources.site import Site
from mqi_dagster.settings.web import Web
from mqi_dagster.web.server import server_of
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

NAME = "mqi.example.org"
PASSWORD = "correct horse battery"
OWNER = Actor.of_this_account()
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
    server {{
        listen 127.0.0.1:{kept};
        location /mqi/ {{ proxy_pass http://127.0.0.1:{below}; proxy_set_header Host $http_host; }}
    }}
    server {{
        listen 127.0.0.1:{stripped};
        location /mqi/ {{ proxy_pass http://127.0.0.1:{below}/; proxy_set_header Host $http_host; }}
    }}
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
            f"{self.server.server_port} {self.path} {headers['X-Forwarded-Proto']} {headers['Host']}"
            f" {headers['Authorization']} {headers['Cookie']}"
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
    kept: int
    stripped: int
    root: Path
    site: Site
    cookies: dict[str, str] = field(default_factory=dict)
    """Of who is signed in, by name."""

    def connection(self, host: str) -> http.client.HTTPSConnection:
        trusted = ssl.create_default_context(cafile=str(self.root / "tls/fullchain.pem"))
        made = http.client.HTTPSConnection("127.0.0.1", self.port, context=trusted, timeout=60)
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        made.sock = trusted.wrap_socket(plain, server_hostname=host)
        return made

    def get(self, path: str, login: str | None = None, **headers: str) -> http.client.HTTPResponse:
        return self.ask("GET", path, login, headers)

    def ask(
        self,
        method: str,
        path: str,
        login: str | None,
        headers: dict[str, str],
        body: str | None = None,
        host: str = NAME,
        sni: str = "",
    ) -> http.client.HTTPResponse:
        if login is not None:
            headers["Cookie"] = self.cookies[login]
        connection = self.connection(sni or host)
        connection.request(method, path, body, {"Host": host, **headers})
        return connection.getresponse()

    def sign_in(self, name: str) -> http.client.HTTPResponse:
        form = urlencode({"name": name, "password": PASSWORD, "next": "/dagster/runs"})
        sent = {"Content-Type": "application/x-www-form-urlencoded", "Origin": f"https://{NAME}"}
        answer = self.ask("POST", "/login", None, sent, form)
        self.cookies[name] = str(answer.headers["Set-Cookie"]).partition(";")[0]
        return answer


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
    names = f"subjectAltName=DNS:{NAME}"
    key = [*("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=mqi")]
    files = ["-keyout", str(root / "tls/privkey.pem"), "-out", str(root / "tls/fullchain.pem")]
    subprocess.run([*key, *files, "-addext", names], check=True, capture_output=True)
    site = site_in(root / "site", behind_proxy=True, origins=(f"https://{NAME}",))
    for name, role in (("anna", Role.ENGINEER), ("vera", Role.VIEWER)):
        add_user(site, OWNER, name, [role], password=PASSWORD)
    other = site_in(root / "below", prefix="/mqi")
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    with serving(site) as web, serving(other) as below:
        made = Proxy(
            *(free_port(), free_port(), servers[0].server_port, servers[1].server_port),
            *(free_port(), free_port(), root, site),
        )
        for name in ("nginx.conf", "nginx-pages.conf"):
            text = (PRODUCTION / name).read_text().replace("/etc/mqi", str(root))
            text = text.replace("listen 443", f"listen 127.0.0.1:{made.port}")
            text = text.replace("listen 80", f"listen 127.0.0.1:{made.plain}")
            for port, here in ((3000, made.pages), (3001, made.viewer), (8000, web)):
                text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{here}")
            (root / name.replace("nginx.conf", "mqi.conf")).write_text(text)
        ports = {"kept": made.kept, "stripped": made.stripped, "below": below}
        (root / "main.conf").write_text(MAIN.format(root=root, user=as_this_user(), **ports))
        with nginx_running(nginx, root, made.port):
            yield made
    for server in servers:
        server.shutdown()


def site_in(folder: Path, **web: object) -> Site:
    folder.mkdir()
    (folder / "mqi.yaml").write_text("site: {timezone: Asia/Seoul}\n")
    site = Site(folder / "mqi.yaml")
    site.settings = site.settings.model_copy(update={"web": Web.model_validate(web)})
    return site


@contextmanager
def serving(site: Site) -> Iterator[int]:
    """The port of our running pages."""
    server = server_of(site, 0)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    wait_for(lambda: server.started, "our pages listen")
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(60)


@contextmanager
def nginx_running(nginx: str, root: Path, port: int) -> Iterator[None]:
    running = subprocess.Popen(
        [nginx, "-c", str(root / "main.conf"), "-g", "daemon off;"], stderr=subprocess.PIPE, text=True
    )

    def answers() -> bool:
        assert running.poll() is None, running.stderr and running.stderr.read()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(answers, "nginx answers")
        yield
    finally:
        running.terminate()
        running.wait(30)


OWN = {"Origin": f"https://{NAME}", "Sec-Fetch-Site": "same-origin"}
JSON = {"Content-Type": "application/json"}
UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade"}
NAVIGATES = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


def test_without_a_session_nobody_reaches_dagsters_pages(proxy: Proxy) -> None:
    answer = proxy.ask("GET", "/dagster/runs?status=failed", None, {"Accept": "text/html", **NAVIGATES})
    assert answer.status == 303
    assert answer.headers["Location"] == f"https://{NAME}/login?next=/dagster/runs?status=failed"
    for cookie in ("", "__Host-mqi=invented"):
        answer = proxy.ask("POST", "/dagster/graphql", None, {**OWN, **JSON, "Cookie": cookie}, "{}")
        assert answer.status == 401
        assert str(proxy.pages) not in answer.read().decode()
    assert proxy.get("/dagster/graphql", **UPGRADE).status == 401
    assert proxy.get("/gate/dagster").status == 404, "only the proxy itself asks there"


def test_engineers_get_all_of_dagsters_pages_and_others_those_that_only_show(proxy: Proxy) -> None:
    answer = proxy.sign_in("anna")
    assert (answer.status, answer.headers["Location"]) == (303, "/dagster/runs")
    assert re.match(r"__Host-mqi=[^;]+; HttpOnly; Max-Age=43200; Path=/; SameSite=lax; Secure", str(
        answer.headers["Set-Cookie"]
    ))  # fmt: skip
    proxy.sign_in("vera")
    # Neither the session nor a token goes on to what is behind.
    answer = proxy.get("/dagster/runs", "anna", Authorization="")
    assert (answer.status, answer.read().decode()) == (
        200,
        f"{proxy.pages} /dagster/runs https {NAME} None None",
    )
    answer = proxy.get("/dagster/runs", "vera", **{"X-MQI-Dagster": "everything"})
    assert answer.read().decode() == f"{proxy.viewer} /dagster/runs https {NAME} None None"
    rows = [row for row in proxy.site.ledger.audit.newest(50) if row.action == "dagster_entered"]
    assert sorted((row.actor, row.details) for row in rows) == [
        ("anna", '{"pages": "everything"}'),
        ("vera", '{"pages": "read-only"}'),
    ]
    proxy.get("/dagster/", "anna")
    assert len([row for row in proxy.site.ledger.audit.every() if row.action == "dagster_entered"]) == 2


def test_a_token_with_the_right_gets_a_program_through_and_any_other_only_looks(proxy: Proxy) -> None:
    day = 86400
    for scope, port in ((Right.DAGSTER, proxy.pages), (Right.LOOK, proxy.viewer)):
        scopes = {Right.LOOK, scope}
        made = make_token(proxy.site, OWNER, "anna", "jobs", scopes, timedelta(seconds=day))
        answer = proxy.get("/dagster/", None, Authorization=f"Bearer {made.secret}")
        assert (answer.status, answer.read().decode().split()[0]) == (200, str(port))
    made = make_token(proxy.site, OWNER, "anna", "nothing", {Right.ALARMS}, timedelta(seconds=day))
    assert proxy.get("/dagster/", None, Authorization=f"Bearer {made.secret}").status == 403


def test_who_is_disabled_or_signed_out_is_out_of_dagsters_pages_at_once(proxy: Proxy) -> None:
    proxy.sign_in("vera")
    assert proxy.get("/dagster/", "vera").status == 200
    change_user(proxy.site, OWNER, "vera", disabled=True)
    assert proxy.get("/dagster/", "vera").status == 401
    change_user(proxy.site, OWNER, "vera", disabled=False)


def test_answers_carry_the_headers_that_keep_browsers_careful_once(proxy: Proxy) -> None:
    proxy.sign_in("anna")
    for path in ("/", "/dagster/"):
        headers = proxy.get(path, "anna").headers
        assert headers.get_all("Strict-Transport-Security") == ["max-age=31536000"]
        assert headers.get_all("X-Frame-Options") == ["DENY"]
        assert headers.get_all("X-Content-Type-Options") == ["nosniff"]
        assert headers.get_all("Cache-Control") == ["no-store"]


def test_a_websocket_of_the_pages_passes_with_a_session_only(proxy: Proxy) -> None:
    proxy.sign_in("anna")
    answer = proxy.ask("GET", "/dagster/graphql", "anna", {**UPGRADE, **OWN})
    assert (answer.status, answer.headers["Upgrade"]) == (101, "websocket")
    foreign = {**UPGRADE, "Origin": "https://evil.example.com"}
    assert proxy.ask("GET", "/dagster/graphql", "anna", foreign).status == 403


def test_what_is_pushed_by_our_pages_comes_through_at_once(proxy: Proxy) -> None:
    proxy.sign_in("anna")
    answer = proxy.get("/stream/worklist", "anna")
    assert answer.status == 200
    assert answer.readline().startswith(b"event: ")


@pytest.mark.parametrize(
    ("status", "method", "path", "headers"),
    [
        (200, "POST", "/dagster/graphql", {**OWN, **JSON}),
        (200, "POST", "/dagster/graphql", {**OWN, "Content-Type": "application/json; charset=utf-8"}),
        (200, "GET", "/dagster/graphql", {}),
        (
            *(200, "GET", "/dagster/runs"),
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        ),
        (403, "POST", "/dagster/graphql", {"Origin": "https://evil.example.com", **JSON}),
        (403, "POST", "/dagster/graphql", {"Origin": f"http://{NAME}", **JSON}),
        (403, "POST", "/dagster/graphql", {"Origin": "null", **JSON}),
        (403, "POST", "/dagster/graphql", {"Sec-Fetch-Site": "same-site", **JSON}),
        (403, "GET", "/dagster/logs/a", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}),
        (415, "POST", "/dagster/graphql", {**OWN, "Content-Type": "text/plain; a=application/json"}),
        (415, "POST", "/dagster/graphql?query=mutation", OWN),
        (405, "GET", "/dagster/graphql?query=mutation", {}),
    ],
)
def test_only_the_pages_themselves_send_anything(
    proxy: Proxy, status: int, method: str, path: str, headers: dict[str, str]
) -> None:
    if "anna" not in proxy.cookies:
        proxy.sign_in("anna")
    assert proxy.ask(method, path, "anna", dict(headers)).status == status


def test_a_name_that_is_not_ours_gets_no_answer(proxy: Proxy) -> None:
    with pytest.raises(ssl.SSLError):
        proxy.ask("GET", "/", None, {}, host="evil.example.com")
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        proxy.ask("GET", "/", None, {}, host="evil.example.com", sni=NAME)


def test_plain_http_leads_to_tls(proxy: Proxy) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.plain, timeout=60)
    connection.request("GET", "/runs", headers={"Host": NAME})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Location"]) == (301, f"https://{NAME}/runs")


@pytest.mark.parametrize("strips", [False, True])
def test_the_pages_stand_below_a_prefix_whether_the_proxy_takes_it_off_or_not(
    proxy: Proxy, strips: bool
) -> None:
    port = proxy.stripped if strips else proxy.kept

    def get(path: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", path, headers={"Host": f"127.0.0.1:{port}", "Accept": "text/html"})
        return connection.getresponse()

    login = get("/mqi/login")
    page = login.read().decode()
    assert login.status == 200
    assert set(re.findall(r'(?:href|src|action)="([^"#]*)"', page)) >= {"/mqi/login", "/mqi/static/style.css"}
    assert not re.search(r'(?:href|src|action)="/(?!mqi/)', page)
    assert get("/mqi/static/style.css").status == 200
    answer = get("/mqi/people?a=b")
    assert (answer.status, answer.headers["Location"]) == (303, "/mqi/login?next=/people%3Fa%3Db")
