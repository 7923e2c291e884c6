"""Requests that go to the address in the settings and to no other."""

from __future__ import annotations

import http.client
import urllib.request
from typing import IO


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Nothing is told to another address than the one that was asked; nor does a password go there."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> None:
        """No request is made for a redirection."""
        return
