"""The process that serves the pages: `mqi web`, `mqi service web`.

python -m mqi_dagster.web.server --port NUMBER
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import uvicorn

from mqi_dagster.errors import ConfigurationError, MqiError
from mqi_dagster.operations.certificate import require_certificate
from mqi_dagster.resources.site import Site
from mqi_dagster.web.application import create_app

_DRAIN_SECONDS = 3


def require_safe(site: Site) -> None:
    """Check that nobody can reach the pages without proving who they are.

    Raises:
        ConfigurationError: They listen beyond this machine without accounts, or without TLS or a proxy, or
            the certificate cannot be used.
    """
    web = site.settings.web
    if web.in_clear:
        raise ConfigurationError(web.in_clear)
    require_certificate(web)
    if not web.only_here and all(one.disabled_at is not None for one in site.ledger.accounts.all()):
        raise ConfigurationError("nobody has an account yet: `mqi user add NAME --role admin` makes one")


def server_of(site: Site, port: int | None = None) -> uvicorn.Server:
    """The server, not started.

    Args:
        site: The site.
        port: In place of ``web.port``.
    """
    web = site.settings.web
    return uvicorn.Server(
        uvicorn.Config(
            create_app(site),
            host=web.host,
            port=web.port if port is None else port,
            log_level="warning",
            # An address may hold the code of a link that signs in.
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ssl_certfile=web.tls_certificate,
            ssl_keyfile=web.tls_key,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
    )


def main() -> None:
    """Serve the pages of the site of the environment until this process is ended."""
    parser = argparse.ArgumentParser(description="The pages of a site.")
    parser.add_argument("--port", type=int)
    port = parser.parse_args().port
    site = Site.from_environment()
    require_safe(site)
    asyncio.run(server_of(site, port).serve())


if __name__ == "__main__":
    try:
        main()
    except MqiError as error:
        sys.exit(f"mqi: {error.message}")
    except KeyboardInterrupt:
        sys.exit(130)
