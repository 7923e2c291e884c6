"""What a page tells once, after a form: what was done, what is wrong, or a secret that is kept nowhere."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from mqi_dagster.errors import InputError, SignInError, StoreError
from mqi_dagster.web.access import Visitor
from mqi_dagster.web.render import Pages

_KEPT = 200


@dataclass(frozen=True, slots=True)
class Told:
    """What is told."""

    text: str
    secret: str = ""
    """Shown to be copied, and not again."""
    trouble: bool = False


class Once:
    """What the next page of somebody tells, in memory: a secret stands on no disk and in no address."""

    def __init__(self) -> None:
        self._told: OrderedDict[str, Told] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, visitor: Visitor, told: Told) -> None:
        """Keep it for this visitor's next page; a program has none, and reads no secret of its account."""
        if visitor.session is None:
            return
        with self._lock:
            self._told[visitor.name] = told
            while len(self._told) > _KEPT:
                self._told.popitem(last=False)

    def take(self, visitor: Visitor) -> Told | None:
        """What this page tells."""
        with self._lock:
            return None if visitor.session is None else self._told.pop(visitor.name, None)


def afterwards(request: Request, visitor: Visitor, path: str, act: Callable[[], Told]) -> Response:
    """Do what a form asks for, and go to a page that tells it, or what was wrong with it."""
    once: Once = request.app.state.once
    pages: Pages = request.app.state.pages
    try:
        told = act()
    except (InputError, SignInError, StoreError) as error:
        told = Told(error.message, trouble=True)
    once.keep(visitor, told)
    return RedirectResponse(f"{pages.prefix}{path}", HTTPStatus.SEE_OTHER)
