"""A small OpenID Connect provider on the loopback: it checks what a client sends, and may be told to lie."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode

from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.pages.served import listening

CLIENT, SECRET = "mqi", "the pages' / secret"


@dataclass
class Provider:
    """A provider where one person is signed in already."""

    login: str = "Anna"
    issuer: str = ""
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "first"}))
    lies: dict[str, Any] = field(default_factory=dict)
    """Claims of ID tokens that are others than they should be; None: absent."""
    signs_with: Any = None
    """In place of the key that it publishes."""
    algorithm: str = "RS256"
    denies: str = ""
    in_userinfo: bool = False
    """Whether the login stands there alone."""
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def configuration(self, request: Request) -> Response:
        """Discovery."""
        names = ("authorization", "token", "userinfo")
        endpoints = {f"{name}_endpoint": f"{self.issuer}/{name}" for name in names}
        return JSONResponse({"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys", **endpoints})

    def keys(self, request: Request) -> Response:
        """What its tokens are signed with."""
        self.asked.append("keys")
        return JSONResponse(KeySet([self.key]).as_dict(private=False))

    def authorization(self, request: Request) -> Response:
        """Let the person in at once."""
        said = dict(request.query_params)
        assert said["response_type"] == "code" and said["code_challenge_method"] == "S256"
        assert said["client_id"] == CLIENT and "openid" in said["scope"].split()
        answer = {"state": said["state"], "iss": self.issuer}
        if self.denies:
            return RedirectResponse(f"{said['redirect_uri']}?{urlencode({**answer, 'error': self.denies})}")
        code = secrets.token_urlsafe(16)
        self.codes[code] = said
        return RedirectResponse(f"{said['redirect_uri']}?{urlencode({**answer, 'code': code})}")

    async def token(self, request: Request) -> Response:
        """An ID token for a code, once, for the client that has begun."""
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        begun = self.codes.pop(form["code"], None)
        scheme, _, basic = request.headers["authorization"].partition(" ")
        client, _, secret = base64.b64decode(basic).decode().partition(":")
        good = (
            begun is not None
            and (scheme, unquote(client), unquote(secret)) == ("Basic", CLIENT, SECRET)
            and create_s256_code_challenge(form["code_verifier"]) == begun["code_challenge"]
            and form["redirect_uri"] == begun["redirect_uri"]
        )
        if begun is None or not good:
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {
            **{"iss": self.issuer, "aud": CLIENT, "sub": "4711", "iat": now, "exp": now + 300},
            **{"nonce": begun["nonce"]},
            **({} if self.in_userinfo else {"preferred_username": self.login}),
            **self.lies,
        }
        told = {name: value for name, value in claims.items() if value is not None}
        header = {"alg": self.algorithm, "kid": self.key.kid}
        signed = jwt.encode(header, told, self.signs_with or self.key, [self.algorithm])
        return JSONResponse({"access_token": "for-userinfo", "token_type": "Bearer", "id_token": signed})

    def userinfo(self, request: Request) -> Response:
        """Who it is, for who has a token."""
        assert request.headers["authorization"] == "Bearer for-userinfo"
        return JSONResponse({"sub": "4711", "preferred_username": self.login})

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the block runs, it answers at `issuer`."""
        paths = {"/.well-known/openid-configuration": self.configuration, "/keys": self.keys}
        paths |= {"/authorization": self.authorization, "/userinfo": self.userinfo}
        routes = [Route(path, answer) for path, answer in paths.items()]
        with listening(Starlette(routes=[*routes, Route("/token", self.token, methods=["POST"])])) as port:
            self.issuer = f"http://127.0.0.1:{port}"
            yield
