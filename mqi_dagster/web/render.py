"""From a template to HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, tzinfo
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from mqi_dagster.assets.pipelines import PIPELINES
from mqi_dagster.errors import LONGEST_MESSAGE, shown
from mqi_dagster.moments import in_zone, local
from mqi_dagster.operations.running import dagster_address
from mqi_dagster.partitions import find_key, in_address, root_of
from mqi_dagster.resources.site import Site
from mqi_dagster.web import words
from mqi_dagster.web.access import Crowd, Visitor

_HERE = Path(__file__).parent


def _harmless(value: object) -> object:
    """What stands in a page: control characters, and marks that turn the direction of writing, are shown."""
    if type(value) is not str or value.isprintable():
        return value
    return "\n".join(
        "\t".join(shown(part, len(part)) for part in line.split("\t")) for line in value.split("\n")
    )


def _said(text: str, zone: tzinfo) -> Markup:
    """A message as people read it: moments in the site's zone, commands set apart."""
    parts = str(_harmless(in_zone(text, zone))).split("`")
    if len(parts) % 2 == 0:
        return escape("`".join(parts))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part)
        for number, part in enumerate(parts)
    )


class Pages:
    """The templates of a site's pages.

    Args:
        site: The site.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self.prefix = site.settings.web.prefix
        self._dagster_address = dagster_address(site.settings)
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.i18n"],
            finalize=_harmless,
        )
        # The module of the extension adds these, which no stub knows.
        self._templates.install_gettext_callables(  # type: ignore[attr-defined]
            words._, words.ngettext, newstyle=True
        )
        self._templates.globals["url"] = lambda path: f"{self.prefix}{path}"
        self._templates.globals["dagster"] = self._dagster
        self._kinds = [pipeline.units.kind for pipeline in PIPELINES]
        self._templates.globals["page_of"] = lambda row: (
            f"{self.prefix}/{in_address(row.kind)}/{quote(row.case, safe='')}"
        )
        zone = site.timezone
        self._templates.filters.update(
            word=words.word,
            translated=words.message,
            moment=partial(words.moment, zone=zone),
            duration=words.duration,
            number=words.number,
            fixed=lambda value, digits: "–" if value is None else f"{value:,.{digits}f}",
            shown=lambda path: shown(str(path), LONGEST_MESSAGE),
            in_zone=lambda text: in_zone(text, zone),
            said=partial(_said, zone=zone),
            dated=lambda value, seconds=False: local(value, zone, seconds=seconds) if value else "",
            iso=lambda value: value.isoformat() if isinstance(value, datetime) else "",
        )

    def _dagster(self, asset: str, partition: str) -> str:
        """Address of exactly this partition of an asset in Dagster's pages."""
        return f"{self._dagster_address}/assets/{quote(asset)}?view=partitions&partition={quote(partition)}"

    def offer(self, **functions: Callable[..., Any]) -> None:
        """Functions that templates may call by these names."""
        self._templates.globals.update(functions)

    def link(self, subject: str) -> str:
        """Address of the page of a case, a beam's case or the like; empty of what has no page."""
        key = find_key(root_of(subject), self._kinds)
        return (
            f"{self.prefix}/{in_address(key.kind.name)}/{quote(key.text, safe='')}" if key is not None else ""
        )

    def part(self, template: str, visitor: Visitor | Crowd | None, **values: Any) -> str:
        """A part of a page."""
        return self._templates.get_template(template).render(visitor=visitor, **values)

    def page(
        self,
        request: Request,
        template: str,
        visitor: Visitor | None,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        **values: Any,
    ) -> HTMLResponse:
        """A whole page.

        Args:
            request: Which it answers.
            template: Extends ``layout.html``.
            visitor: Who reads it; None where nobody is signed in.
            status: Of the answer.
            headers: Further ones.
            **values: What the template speaks of.
        """
        html = self.part(
            template,
            visitor,
            site_name=self._site.settings.site.name,
            language=words.LANGUAGE.get(),
            path=request.url.path.removeprefix(self.prefix) or "/",
            zone=self._site.settings.site.timezone,
            done=words.done(request.query_params.get("done", "")),
            **values,
        )
        return HTMLResponse(html, status, headers)
