"""Our own pages: where they listen, and how people sign in."""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, IPvAnyNetwork, model_validator

from mqi_dagster.settings.section import Section

Port = Annotated[int, Field(ge=1, le=65535)]


class Language(StrEnum):
    """A language of the pages."""

    ENGLISH = "en"
    KOREAN = "ko"


class ProxyLogin(Section):
    """A proxy in front of the pages that has already asked who somebody is."""

    header: str = Field(
        pattern=r"^[A-Za-z][A-Za-z0-9-]{1,60}$",
        description="Header in which the proxy tells the login (`X-Remote-User`); it removes one that a"
        " browser sends.",
    )
    addresses: tuple[IPvAnyNetwork, ...] = Field(
        min_length=1, description="Addresses or networks of the proxy; the header counts from nobody else."
    )


class OpenIdConnect(Section):
    """Sign-in at an OpenID Connect provider; the accounts are here, and their roles."""

    issuer: str = Field(pattern=r"^https?://[^\s?#]+$", description="Address of the provider.")
    client_id: str = Field(min_length=1, description="What the provider calls these pages.")
    client_secret_file: Path = Field(description="File with the secret, mode 0600.")
    claim: str = Field("preferred_username", description="Claim that is the login here.")
    name: str = Field("single sign-on", description="The provider as the button names it.")

    @model_validator(mode="after")
    def _nothing_in_clear(self) -> Self:
        parts = urlsplit(self.issuer)
        if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("web.openid.issuer begins with https://, but for a provider on this machine")
        return self


class Web(Section):
    """Our own pages (`mqi web`): worklist, live board, cases and courses."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(8000, description="Port to listen on.")
    prefix: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._-]+)*$",
        description="Path below which a proxy shows them (`/mqi`); empty: at the top.",
    )
    origins: tuple[Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.:\[\]-]+$")], ...] = Field(
        (),
        description="Addresses of a proxy by which a browser reaches them (`https://mqi.example.org`).",
    )
    tls_certificate: Path | None = Field(
        None, description="Certificate chain (PEM): they speak TLS themselves."
    )
    tls_key: Path | None = Field(None, description="Its private key (PEM).")
    behind_proxy: bool = Field(
        False, description="A proxy that speaks TLS stands in front: listening on other addresses is meant."
    )
    language: Language = Field(Language.ENGLISH, description="Language where a browser asks for neither.")
    idle_minutes: Annotated[float, Field(gt=0)] = Field(30.0, description="Unused for so long, signed out.")
    session_hours: Annotated[float, Field(gt=0)] = Field(12.0, description="Signed out after so long anyway.")
    proxy_login: ProxyLogin | None = Field(None, description="Trust the login that a proxy has asked for.")
    openid: OpenIdConnect | None = Field(None, description="Sign-in at an OpenID Connect provider.")

    @property
    def only_here(self) -> bool:
        """Whether they are reached from this machine alone, as far as the address says it for sure."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def in_clear(self) -> str:
        """Why passwords would cross a network in clear; empty where they do not."""
        if self.only_here or self.tls_certificate is not None or self.behind_proxy:
            return ""
        return (
            f"web.host is {self.host}: passwords would cross the network in clear. Set web.tls_certificate"
            " and web.tls_key, or web.behind_proxy where a proxy in front speaks TLS"
        )

    def address(self, port: int | None = None) -> str:
        """Where a browser finds them: the first of the origins, else where they listen.

        Args:
            port: In place of ``port``, where they were started with another one.
        """
        if self.origins and port in (None, self.port):
            return f"{self.origins[0]}{self.prefix}"
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        scheme = "http" if self.tls_certificate is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port or self.port}{self.prefix}"

    @model_validator(mode="after")
    def _both_of_tls(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("web.tls_certificate and web.tls_key go together")
        return self
