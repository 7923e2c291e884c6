"""What a shell is offered for a word that is being typed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import typer

from mqi_dagster.operations.sites import site_in_use

Words = Callable[[Path | None, str], Iterable[str]]
"""Those of a site, if there is one, of which only such are wanted that begin as a text does."""


def completed(*kinds: Words) -> Callable[[typer.Context, str], list[str]]:
    """What completes a word of some kinds; nothing of what cannot be read now."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        found: list[str] = []
        for words in kinds:
            try:
                found += words(site_in_use(ctx.params.get("site")), incomplete)
            except Exception:  # noqa: BLE001 - who types a word is told nothing of what is away
                continue
        return [word for word in found if word.startswith(incomplete)]

    return complete
