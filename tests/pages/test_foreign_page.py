"""A page of another site, opened in a browser that reaches Dagster's pages, can do nothing there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route

from tests.pages.browser import CHROMIUM, opened_page
from tests.pages.served import MUTATION, left_behind, listening, served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FORM = '<form id="form" method="post" enctype="text/plain" action="{}" target="there"><input name="a"></form>'
PAGE = f"<html><body><iframe name='there'></iframe><img id='image'>{FORM}</body></html>"
ATTACKS = """async ({address, query, named}) => {
  const told = {};
  const here = `http://${address}/graphql?query=`;
  for (const [name, asked] of Object.entries({
    get: () => fetch(here + query('get'), {mode: 'no-cors'}),
    text: () => fetch(here + query('text'), {mode: 'no-cors', method: 'POST', body: 'a'}),
    json: () => fetch(here + query('json'), {method: 'POST', body: '{}',
                      headers: {'Content-Type': 'application/json'}}),
  })) { try { await asked(); told[name] = 'sent'; } catch (error) { told[name] = 'refused'; } }
  const image = document.getElementById('image');
  await new Promise(done => { image.onload = image.onerror = done; image.src = here + query('image'); });
  const frame = document.querySelector('iframe');
  const form = document.getElementById('form');
  form.action = here + query('form');
  await new Promise(done => { frame.onload = done; form.submit(); });
  told.socket = await new Promise(done => {
    const socket = new WebSocket(`ws://${address}/graphql`, 'graphql-ws');
    socket.onopen = () => { socket.close(); done('open'); };
    socket.onerror = () => done('refused');
  });
  return told;
}"""


@contextmanager
def another_site() -> Iterator[int]:
    async def page(request: Any) -> HTMLResponse:
        return HTMLResponse(PAGE)

    with listening(Starlette(routes=[Route("/{path:path}", page)])) as port:
        yield port


def attacked(address: str, site: str) -> dict[str, str]:
    """What a page of another site has achieved at an address, as that page sees it."""
    query = f"name => encodeURIComponent({MUTATION!r}.replace('%s', name))"
    script = ATTACKS.replace("async ({address, query, named})", "async (address)").replace(
        "const told", f"const query = {query};\n  const told", 1
    )
    with opened_page() as page:
        page.goto(f"http://{site}/")
        return dict(page.evaluate(script, address))


@pytest.fixture(autouse=True)
def chromium() -> None:
    if not Path(CHROMIUM).exists():
        pytest.fail("chromium is missing; tests/system-packages installs it")


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "as Dagster starts it"])
def test_requests_forms_pictures_and_sockets_of_another_site_change_nothing(guarded: bool) -> None:
    with (
        dg.DagsterInstance.local_temp() as instance,
        served(instance, guarded=guarded) as port,
        another_site() as other,
    ):
        told = attacked(f"127.0.0.1:{port}", f"localhost:{other}")
        if not guarded:
            # What the guard is for; the page needs no answer, so it does not matter that it cannot read one.
            assert {"get", "text", "form", "image"} <= left_behind(instance)
            assert told["socket"] == "open"
            return
        assert left_behind(instance) == set()
        assert told["socket"] == "refused" and told["json"] == "refused"


def test_a_name_that_is_pointed_here_reaches_nothing() -> None:
    """DNS rebinding: the attacker's page and the pages have the same origin in the browser's eyes."""
    with dg.DagsterInstance.local_temp() as instance, served(instance) as port:
        rebound = f"evil.example.com:{port}"
        with opened_page(resolving="MAP evil.example.com 127.0.0.1") as page:
            answer = page.goto(f"http://{rebound}/runs")
            assert answer is not None and answer.status == 403
            sent = page.evaluate(
                "async (body) => (await fetch('/graphql', {method: 'POST', body: body,"
                " headers: {'Content-Type': 'application/json'}})).status",
                '{"query": "mutation { setConcurrencyLimit(concurrencyKey: \\"json\\", limit: 1) }"}',
            )
            assert sent == 403
        assert left_behind(instance) == set()


def test_the_pages_themselves_work_behind_the_guard_also_from_a_link_of_another_site() -> None:
    with (
        dg.DagsterInstance.local_temp() as instance,
        served(instance) as port,
        another_site() as other,
        opened_page() as page,
    ):
        refused: list[str] = []
        page.on("response", lambda answer: refused.append(answer.url) if answer.status >= 400 else None)
        page.goto(f"http://localhost:{other}/")
        link = f"http://127.0.0.1:{port}/runs"
        page.evaluate("link => { const a = document.createElement('a'); a.href = link; a.click(); }", link)
        page.get_by_text("No runs").first.wait_for()
        with page.expect_websocket(lambda socket: "/graphql" in socket.url):
            page.reload()
        assert refused == []
