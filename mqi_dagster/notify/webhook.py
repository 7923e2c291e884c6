"""Messages as JSON, posted to a URL."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import urllib.error
import urllib.request
from dataclasses import asdict
from datetime import UTC

from mqi_dagster.errors import NotTakenError
from mqi_dagster.no_redirect import NoRedirect
from mqi_dagster.notify.message import Message
from mqi_dagster.settings import Webhook
from mqi_dagster.settings.passwords import read_password

SIGNATURE = "X-MQI-Signature"
"""``sha256=`` and the hexadecimal HMAC-SHA256 of the body under the shared secret."""


class WebhookChannel:
    """Posts messages.

    Args:
        settings: Where to, and how they are signed.
    """

    name = "webhook"

    def __init__(self, settings: Webhook) -> None:
        self._settings = settings

    def send(self, message: Message) -> str:
        """Post a message; see `Channel.send`."""
        content = {
            **asdict(message),
            "happened_at": message.happened_at.astimezone(UTC).isoformat(),
            "title": message.title,
        }
        body = json.dumps(content).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "mqi-dagster"}
        if self._settings.secret_file is not None:
            secret = read_password(self._settings.secret_file, "the webhook's secret_file")
            headers[SIGNATURE] = f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
        request = urllib.request.Request(self._settings.url, data=body, headers=headers, method="POST")
        opener = urllib.request.build_opener(NoRedirect)
        try:
            with opener.open(request, timeout=self._settings.timeout_seconds) as answer:
                return f"HTTP {answer.status}"
        except urllib.error.HTTPError as error:
            raise NotTakenError(f"the webhook's receiver answers HTTP {error.code}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            words = getattr(reason, "strerror", None) or type(reason).__name__
            raise NotTakenError(f"the webhook's receiver cannot be reached: {words}") from None
