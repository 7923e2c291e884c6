"""A webhook and e-mail, told to real receivers."""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from email.header import decode_header, make_header
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mqi_dagster.errors import ConfigurationError, NotTakenError, PartlyTakenError
from mqi_dagster.notify.mail import MailChannel
from mqi_dagster.notify.message import Message
from mqi_dagster.notify.webhook import WebhookChannel
from mqi_dagster.settings import Mail, Webhook
from tests.notify.receivers import Mails, Posted, http_receiver, mail_receiver, own_certificate

MESSAGE = Message(
    id=7,
    site="QA room",
    event="alarm_raised",
    kind="beam_failed",
    subject="P1.fx0001__b02",
    text="exit code 3. What to do: mqi case retry",
    happened_at=datetime(2026, 3, 1, 12, 0, tzinfo=UTC),
)


@pytest.fixture
def posted() -> Iterator[Posted]:
    with http_receiver() as receiver:
        yield receiver


@pytest.fixture
def mails() -> Iterator[Mails]:
    with mail_receiver() as receiver:
        yield receiver


def webhook(port: int, **settings: Any) -> WebhookChannel:
    return WebhookChannel(
        Webhook.model_validate({"url": f"http://127.0.0.1:{port}/hook", "timeout_seconds": 2, **settings})
    )


def secret(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "secret_of_a_channel"
    path.write_text(f"{text}\n")
    path.chmod(mode)
    return path


def mail(port: int, **settings: Any) -> MailChannel:
    content = {
        "host": "127.0.0.1",
        "port": port,
        "security": "none",
        "sender": "mqi@clinic.example",
        "recipients": ["physics@clinic.example", "it@clinic.example"],
        **settings,
    }
    return MailChannel(Mail.model_validate(content))


def test_a_webhook_posts_the_message_as_json(posted: Posted) -> None:
    assert webhook(posted.port).send(MESSAGE) == "HTTP 200"
    (body,) = posted.bodies
    assert json.loads(body) == {
        "id": 7,
        "site": "QA room",
        "event": "alarm_raised",
        "kind": "beam_failed",
        "subject": "P1.fx0001__b02",
        "state": "",
        "text": "exit code 3. What to do: mqi case retry",
        "happened_at": "2026-03-01T12:00:00+00:00",
        "title": "[QA room] Alarm: beam failed P1.fx0001__b02",
    }
    assert posted.seen[0]["Content-Type"] == "application/json"
    assert "X-MQI-Signature" not in posted.seen[0]


def test_a_webhook_with_a_secret_is_signed(posted: Posted, tmp_path: Path) -> None:
    webhook(posted.port, secret_file=secret(tmp_path, "shared")).send(MESSAGE)
    wanted = hmac.new(b"shared", posted.bodies[0], hashlib.sha256).hexdigest()
    # HTTP's names have no case.
    headers = {name.lower(): value for name, value in posted.seen[0].items()}
    assert headers["x-mqi-signature"] == f"sha256={wanted}"


@pytest.mark.parametrize("status", [301, 302, 400, 404, 429, 500, 503])
def test_a_receiver_that_does_not_take_it_says_so(posted: Posted, status: int) -> None:
    posted.status, posted.headers = status, {"Location": "http://127.0.0.1:1/elsewhere"}
    with pytest.raises(NotTakenError, match=f"HTTP {status}"):
        webhook(posted.port).send(MESSAGE)
    assert len(posted.bodies) == 1, "nothing is sent elsewhere"


def test_a_receiver_that_is_away_or_silent_is_told_and_left(posted: Posted) -> None:
    with http_receiver() as gone:
        port = gone.port
    with pytest.raises(NotTakenError, match="cannot be reached"):
        webhook(port).send(MESSAGE)
    posted.hold.clear()
    with pytest.raises(NotTakenError, match="cannot be reached"):
        webhook(posted.port, timeout_seconds=0.5).send(MESSAGE)


@pytest.mark.parametrize(("text", "mode"), [("shared", 0o640), ("", 0o600)])
def test_a_secret_that_is_open_or_empty_is_not_used(
    posted: Posted, tmp_path: Path, text: str, mode: int
) -> None:
    with pytest.raises(ConfigurationError, match=r"mode 0640|is empty"):
        webhook(posted.port, secret_file=secret(tmp_path, text, mode)).send(MESSAGE)
    assert posted.bodies == []


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/x",
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "https://user:word@hooks.example/x",
        "http://127.0.0.1.example/x",
        "hooks.example",
    ],
)
def test_only_https_or_this_machine_is_posted_to(url: str) -> None:
    with pytest.raises(ValidationError):
        Webhook.model_validate({"url": url})
    Webhook.model_validate({"url": "https://hooks.example/x"})


def test_a_mail_reaches_every_recipient(mails: Mails) -> None:
    assert mail(mails.port).send(MESSAGE) == "taken for 2 of 2 recipients"
    ((sender, recipients, content),) = mails.got
    assert sender == "mqi@clinic.example"
    assert recipients == ["physics@clinic.example", "it@clinic.example"]
    assert content["Subject"] == "[QA room] Alarm: beam failed P1.fx0001__b02"
    assert content["Date"] == "Sun, 01 Mar 2026 12:00:00 +0000"
    body = content.get_payload(decode=True)
    assert isinstance(body, bytes)
    assert b"exit code 3. What to do: mqi case retry" in body and b"2026-03-01 12:00:00 UTC" in body
    mail(mails.port).send(MESSAGE)
    assert mails.got[1][2]["Message-ID"] == content["Message-ID"], "one that comes twice can be told"


def test_what_an_input_has_brought_into_a_message_is_one_line_of_a_mail_and_no_header(
    mails: Mails, posted: Posted
) -> None:
    typed = "P1\r\nBcc: eve@evil.example\x1b[2J\u202e<script>"
    forged = replace(MESSAGE, subject=typed, text=f"{typed}\n.\r\nQUIT")
    mail(mails.port).send(forged)
    ((_, recipients, content),) = mails.got
    assert recipients == ["physics@clinic.example", "it@clinic.example"] and content["Bcc"] is None
    subject = " ".join(str(make_header(decode_header(content["Subject"]))).split())
    assert subject == "[QA room] Alarm: beam failed P1\\r\\nBcc: eve@evil.example\\x1b[2J\\u202e<script>"
    body = content.get_payload(decode=True)
    assert isinstance(body, bytes) and b"\x1b" not in body and "\u202e".encode() not in body
    assert content.get_content_type() == "text/plain" and b"QUIT" in body
    webhook(posted.port).send(forged)
    told = json.loads(posted.bodies[0])
    assert told["subject"].isprintable() and told["title"].isprintable()


def test_a_mail_speaks_the_language_of_the_settings(mails: Mails) -> None:
    mail(mails.port, language="ko").send(MESSAGE)
    ((_, _, content),) = mails.got
    assert str(make_header(decode_header(content["Subject"]))) == "[QA room] 경보: 빔 실패 P1.fx0001__b02"
    payload = content.get_payload(decode=True)
    assert isinstance(payload, bytes)
    body = payload.decode().replace("\r\n", "\n")
    assert body.startswith("exit code 3. 조치: mqi case retry\n"), "causes stay as they are"
    assert "현재 경보는 `mqi alarms`로 볼 수 있습니다." in body


@pytest.mark.parametrize("kind", ["starttls", "tls"])
def test_a_mail_goes_over_tls_to_a_trusted_server_with_a_login(tmp_path: Path, kind: str) -> None:
    server, public = own_certificate(tmp_path)
    options: dict[str, ssl.SSLContext] = {kind: server}
    with mail_receiver(**options, password="right") as mails:
        login = {"user": "mqi", "password_file": secret(tmp_path, "right")}
        mail(mails.port, security=kind, ca_file=public, **login).send(MESSAGE)
        assert len(mails.got) == 1 and mails.logins == ["mqi"]
        with pytest.raises(NotTakenError, match="535"):
            secret(tmp_path, "wrong")
            mail(mails.port, security=kind, ca_file=public, **login).send(MESSAGE)
        logins = len(mails.logins)
        with pytest.raises(NotTakenError, match="TLS"):
            mail(mails.port, security=kind, **login).send(MESSAGE)
        assert len(mails.got) == 1
        assert len(mails.logins) == logins, "no password for a server nobody trusts"


def test_a_mail_server_that_refuses_or_is_away_says_so(mails: Mails) -> None:
    mails.refuse = "451 come back later, Hong^Gildong"
    with pytest.raises(NotTakenError, match="answers 451") as raised:
        mail(mails.port).send(MESSAGE)
    assert "Hong" not in raised.value.message
    with mail_receiver() as gone:
        port = gone.port
    with pytest.raises(NotTakenError, match="Connection refused"):
        mail(port).send(MESSAGE)


def test_a_mail_that_is_taken_for_some_recipients_only_names_the_others(mails: Mails) -> None:
    mails.unknown = {"it@clinic.example": "550 no such user Hong^Gildong"}
    with pytest.raises(PartlyTakenError) as raised:
        mail(mails.port).send(MESSAGE)
    assert raised.value.message == "the mail server refuses 1 of 2 recipients: it@clinic.example (550)"
    ((_, recipients, _),) = mails.got
    assert recipients == ["physics@clinic.example"]
    mails.unknown["physics@clinic.example"] = "451 come back later"
    with pytest.raises(NotTakenError, match="refuses every recipient: 451, 550") as none:
        mail(mails.port).send(MESSAGE)
    assert not isinstance(none.value, PartlyTakenError)


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "mail.example", "security": "none"},
        {"user": "mqi"},
        {"recipients": []},
        {"recipients": ["nobody"]},
        {"sender": "a@b\nBcc: c@d"},
    ],
)
def test_wrong_mail_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        mail(25, **wrong)
