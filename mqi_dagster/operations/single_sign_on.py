"""Sign-in that somebody else has seen to: an OpenID Connect provider, or a proxy in front.

An account has to be here already, with its roles; nobody gets one by signing in elsewhere.
"""

from __future__ import annotations

import ipaddress
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn
from urllib.parse import quote

import httpx
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OctKey

from mqi_dagster.errors import InfrastructureError, SignInError, TooManyTriesError, shown
from mqi_dagster.ledger.accounts import Account
from mqi_dagster.operations.people import NOBODY, refused_sign_in
from mqi_dagster.people.passwords import new_secret
from mqi_dagster.people.tries import SignInTries
from mqi_dagster.resources.site import Site
from mqi_dagster.settings.passwords import read_password
from mqi_dagster.settings.web import OpenIdConnect, ProxyLogin

PENDING = timedelta(minutes=10)
"""For so long a browser may be at the provider."""
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Of signatures of ID tokens: only such as the provider alone can make."""
_SCOPE = "openid profile email"
_KNOWN_SECONDS = 3600.0
_SECONDS = 10.0
_AWAY_SECONDS = 5.0
"""A provider that does not answer is asked no sooner: whoever waits for it holds a thread."""
_AT_ONCE = 8
_SECRET = "the secret of web.openid"
_CLOCKS_DIFFER_SECONDS = 60
_AWAY = "the single sign-on does not answer: try again in a while, or sign in by a password"


class OpenIdSignIn:
    """Sign-in at the OpenID Connect provider of a site: authorization code with PKCE.

    State, nonce and verifier of a sign-in are with the browser that has begun it, signed.

    Args:
        settings: The provider.
    """

    def __init__(self, settings: OpenIdConnect) -> None:
        self._settings = settings
        self._signs = OctKey.generate_key(256)
        self._reading = threading.Lock()
        self._few = threading.BoundedSemaphore(_AT_ONCE)
        self._provider: Mapping[str, Any] = {}
        self._keys: KeySet | None = None
        self._known_until = self._away_until = 0.0

    @contextmanager
    def few_at_once(self) -> Iterator[None]:
        """A block that asks the provider: while that is slow, strangers must not take every thread.

        Raises:
            TooManyTriesError: Many are in it already.
        """
        if not self._few.acquire(blocking=False):
            raise TooManyTriesError("too many sign in at this moment: try again", 1)
        try:
            yield
        finally:
            self._few.release()

    def begin(self, callback: str, target: str) -> tuple[str, str]:
        """Where the browser goes, and what it keeps for `finish`.

        Args:
            callback: Address of ours to which the provider sends it back.
            target: The page of ours that it wants.

        Raises:
            InfrastructureError: The provider does not answer, or not as one.
            TooManyTriesError: Many are on their way to it at this moment.
        """
        with self.few_at_once():
            provider = self._discovered()
        kept = {name: new_secret() for name in ("state", "nonce", "verifier")}
        address = prepare_grant_uri(
            provider["authorization_endpoint"],
            self._settings.client_id,
            "code",
            callback,
            _SCOPE,
            kept["state"],
            nonce=kept["nonce"],
            code_challenge=create_s256_code_challenge(kept["verifier"]),
            code_challenge_method="S256",
        )
        expires = int(time.time() + PENDING.total_seconds())
        content = {**kept, "target": target, "exp": expires}
        return str(address), jwt.encode({"alg": "HS256"}, content, self._signs)

    def finish(self, callback: str, kept: str, said: Mapping[str, str]) -> tuple[str, str]:
        """The login that the provider vouches for, and the page that was wanted.

        Args:
            callback: As in `begin`.
            kept: What the browser has kept.
            said: What the provider has sent with it.

        Raises:
            SignInError: The provider has refused, or this browser has begun something else.
            InfrastructureError: The provider does not answer, or not as one.
        """
        begun = self._begun(kept)
        if not begun or begun["state"] != said.get("state"):
            raise SignInError("this sign-in was begun in another browser, or too long ago: begin again")
        if said.get("iss", self._settings.issuer) != self._settings.issuer:
            raise SignInError("this answer comes from another provider: begin again")
        if "code" not in said:
            raise SignInError(f"{self._settings.name} has not let you in ({said.get('error', 'no code')})")
        token = self._token(callback, said["code"], str(begun["verifier"]))
        claims = self._verified(token, str(begun["nonce"]))
        name = self._settings.claim
        if name not in claims and (asked := self._discovered().get("userinfo_endpoint")):
            told = _json(asked, {"Authorization": f"Bearer {token.get('access_token', '')}"})
            if told.get("sub") != claims["sub"]:
                raise SignInError("the single sign-on speaks of somebody else: begin again")
            claims = {**told, **claims}
        login = claims.get(name)
        if not isinstance(login, str) or not login.strip():
            raise SignInError(f"{self._settings.name} does not say who you are: it sends no {name}")
        if name == "email" and claims.get("email_verified") not in (True, "true"):
            raise SignInError(f"{self._settings.name} has not verified this mail address")
        return login.strip().lower(), str(begun["target"])

    def check(self) -> str:
        """The provider's name for itself, where it answers and the secret can be read.

        Raises:
            ConfigurationError: The file of the secret cannot be used.
            InfrastructureError: The provider does not answer, or not as one.
        """
        read_password(self._settings.client_secret_file, _SECRET)
        return str(self._discovered()["issuer"])

    def _token(self, callback: str, code: str, verifier: str) -> dict[str, Any]:
        provider, settings = self._discovered(), self._settings
        secret = read_password(settings.client_secret_file, _SECRET)
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": callback,
            "code_verifier": verifier,
        }
        basic = None
        ways = provider.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if "client_secret_basic" in ways:
            basic = httpx.BasicAuth(quote(settings.client_id, safe=""), quote(secret, safe=""))
        else:
            form |= {"client_id": settings.client_id, "client_secret": secret}
        try:
            answer = httpx.post(
                provider["token_endpoint"], data=form, auth=basic, timeout=_SECONDS, verify=_trusted()
            )
            content = dict(answer.json())
        except (httpx.HTTPError, ValueError, TypeError) as error:
            _away(error)
        if answer.is_error or "id_token" not in content:
            why = content.get("error", f"status {answer.status_code}")
            raise SignInError(f"{settings.name} does not accept the sign-in ({why}): begin again")
        return content

    def _begun(self, kept: str) -> dict[str, Any]:
        try:
            claims = dict(jwt.decode(kept, self._signs, ["HS256"]).claims)
        except (JoseError, ValueError):
            return {}
        return claims if claims["exp"] > time.time() else {}

    def _verified(self, token: Mapping[str, Any], nonce: str) -> dict[str, Any]:
        """The claims of an ID token that is the provider's, for these pages, for this sign-in, and fresh."""
        for fresh in (False, True):
            try:
                decoded = jwt.decode(str(token.get("id_token", "")), self._key_set(fresh), _ALGORITHMS)
                break
            except (JoseError, ValueError) as error:
                # It may be signed by a key that the provider has made since.
                if fresh:
                    _unproved(error)
        options = {
            "iss": {"values": [self._discovered()["issuer"]]},
            "aud": {"essential": True, "value": self._settings.client_id},
        }
        params = {
            "nonce": nonce,
            "client_id": self._settings.client_id,
            "access_token": token.get("access_token", ""),
        }
        claims = CodeIDToken(decoded.claims, decoded.header, options, params)
        try:
            claims.validate(leeway=_CLOCKS_DIFFER_SECONDS)
        except JoseError as error:
            _unproved(error)
        return dict(claims)

    def _discovered(self) -> Mapping[str, Any]:
        with self._reading:
            if not self._provider or time.monotonic() > self._known_until:
                if time.monotonic() < self._away_until:
                    raise InfrastructureError(_AWAY)
                address = f"{self._settings.issuer.rstrip('/')}/.well-known/openid-configuration"
                try:
                    found = _json(address)
                except InfrastructureError:
                    self._away_until = time.monotonic() + _AWAY_SECONDS
                    raise
                self._require_provider(found)
                self._provider, self._keys = found, None
                self._known_until = time.monotonic() + _KNOWN_SECONDS
            return self._provider

    def _require_provider(self, found: Mapping[str, Any]) -> None:
        needed = ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")
        if any(not isinstance(found.get(name), str) for name in needed):
            raise InfrastructureError("what web.openid.issuer names is no OpenID Connect provider")
        if found["issuer"] != self._settings.issuer:
            raise InfrastructureError("the provider calls itself otherwise than web.openid.issuer")
        asked = [str(found.get(name, "https://")) for name in (*needed, "userinfo_endpoint")]
        if self._settings.issuer.startswith("https://") and any(
            not one.startswith("https://") for one in asked
        ):
            raise InfrastructureError("the provider names addresses that do not begin with https://")

    def _key_set(self, fresh: bool) -> KeySet:
        provider = self._discovered()
        with self._reading:
            if self._keys is None or fresh:
                self._keys = KeySet.import_key_set(_json(provider["jwks_uri"]))  # type: ignore[arg-type]
            return self._keys


def _trusted() -> ssl.SSLContext:
    """The authorities that this machine trusts, those of the site among them."""
    return ssl.create_default_context()


def _json(address: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    try:
        answer = httpx.get(address, headers=headers, timeout=_SECONDS, verify=_trusted())
        answer.raise_for_status()
        return dict(answer.json())
    except (httpx.HTTPError, ValueError, TypeError) as error:
        _away(error)


def _away(error: Exception) -> NoReturn:
    raise InfrastructureError(_AWAY, first_cause=type(error).__name__) from None


def _unproved(error: Exception) -> NoReturn:
    raise SignInError(f"the single sign-on does not prove who you are ({error}): begin again") from None


def account_by_provider(
    site: Site,
    provider: OpenIdSignIn,
    callback: str,
    kept: str,
    said: Mapping[str, str],
    tries: SignInTries,
    address: str,
) -> tuple[Account, str]:
    """The account that the provider vouches for, and the page that was wanted; see `OpenIdSignIn.finish`.

    Raises:
        SignInError: There is none here, or nobody is vouched for.
        TooManyTriesError: Many are on their way from the provider at this moment.
    """
    with provider.few_at_once(), _refusals_audited(site, "oidc", tries, address):
        login, target = provider.finish(callback, kept, said)
        return _account(site, login), target


def account_by_proxy(
    site: Site, proxy: ProxyLogin, client: str, headers: Sequence[str], tries: SignInTries, address: str
) -> Account:
    """The account that a proxy in front has asked for.

    Args:
        site: The site.
        proxy: Which proxy, and which header.
        client: Address of whoever has sent the request.
        headers: The values of that header.
        tries: Those that have failed before.
        address: Of the browser.

    Raises:
        SignInError: It was not sent by the proxy, or says nothing, or there is no such account here.
    """
    with _refusals_audited(site, "proxy", tries, address):
        try:
            trusted = any(ipaddress.ip_address(client) in one for one in proxy.addresses)
        except ValueError:
            trusted = False
        if not trusted:
            raise SignInError("this request does not come from the proxy that web.proxy_login names")
        if len(headers) != 1 or not headers[0].strip():
            raise SignInError(f"the proxy does not say who you are: it sends no {proxy.header}")
        return _account(site, headers[0].strip().lower())


@contextmanager
def _refusals_audited(site: Site, via: str, tries: SignInTries, address: str) -> Iterator[None]:
    """A stranger may be refused as often as they like, but must not fill the disk with it."""
    try:
        yield
    except SignInError as error:
        now = site.ledger.database.clock()
        if not tries.waits(address, now):
            tries.failed(address, now)
            refused_sign_in(site, NOBODY, via, error.message, address)
        raise


def _account(site: Site, login: str) -> Account:
    account = site.ledger.accounts.get(login)
    if account is None:
        raise SignInError(f"{shown(login, 100)} has no account here: an admin adds one of this name")
    return account
