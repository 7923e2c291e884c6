"""The certificate with which our own pages speak TLS."""

from __future__ import annotations

import ssl
from datetime import datetime
from pathlib import Path

from cryptography import x509

from mqi_dagster.errors import ConfigurationError
from mqi_dagster.settings.web import Web


def require_certificate(web: Web) -> None:
    """Check that the certificate and its key are there and belong together.

    Raises:
        ConfigurationError: They cannot be used.
    """
    if web.tls_certificate is None or web.tls_key is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # Nobody is there to type a password.
        context.load_cert_chain(web.tls_certificate, web.tls_key, password=lambda: "")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "it is no certificate"
        raise ConfigurationError(
            f"web.tls_certificate and web.tls_key cannot be used ({str(reason).lower().replace('_', ' ')}):"
            " they are PEM files that belong together, the key without a password"
        ) from None


def end_of(certificate: Path) -> datetime:
    """When a certificate is valid no more.

    Raises:
        ConfigurationError: It cannot be read.
    """
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        raise ConfigurationError("web.tls_certificate cannot be read") from None
