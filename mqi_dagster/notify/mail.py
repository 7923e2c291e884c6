"""Messages as e-mail."""

from __future__ import annotations

import smtplib
import ssl
from email.message import EmailMessage
from email.utils import format_datetime

from mqi_dagster.errors import ConfigurationError, NotTakenError, PartlyTakenError
from mqi_dagster.languages import translated
from mqi_dagster.languages.messages import message as in_language
from mqi_dagster.notify.message import Message
from mqi_dagster.settings import Mail, MailSecurity
from mqi_dagster.settings.passwords import read_password

LISTED = "`mqi alarms` lists what stands."
"""Last line of every mail."""


class MailChannel:
    """Sends mails through one server.

    Args:
        settings: Server, account and recipients.
    """

    name = "mail"

    def __init__(self, settings: Mail) -> None:
        self._settings = settings

    def send(self, message: Message) -> str:
        """Mail a message to every recipient; see `Channel.send`."""
        settings = self._settings
        password = None
        if settings.password_file is not None:
            password = read_password(settings.password_file, "the mail's password_file")
        try:
            with self._connected() as server:
                if settings.user is not None and password is not None:
                    server.login(settings.user, password)
                refused = server.send_message(self._mail(message))
        except smtplib.SMTPResponseException as error:
            # Its own words may repeat what was sent to it.
            raise NotTakenError(f"the mail server answers {error.smtp_code}") from None
        except smtplib.SMTPRecipientsRefused as error:
            codes = ", ".join(sorted({str(code) for code, _ in error.recipients.values()}))
            raise NotTakenError(f"the mail server refuses every recipient: {codes}") from None
        except ssl.SSLError as error:
            raise NotTakenError(f"the mail server's TLS: {error.reason or type(error).__name__}") from None
        except (OSError, smtplib.SMTPException) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise NotTakenError(f"the mail server cannot be used: {reason}") from None
        everybody = len(settings.recipients)
        if refused:
            whom = ", ".join(f"{address} ({code})" for address, (code, _) in sorted(refused.items()))
            raise PartlyTakenError(
                f"the mail server refuses {len(refused)} of {everybody} recipients: {whom}"
            )
        return f"taken for {everybody} of {everybody} recipients"

    def _connected(self) -> smtplib.SMTP:
        settings = self._settings
        limit = settings.timeout_seconds
        if settings.security is MailSecurity.TLS:
            return smtplib.SMTP_SSL(settings.host, settings.port, timeout=limit, context=self._trust())
        server = smtplib.SMTP(settings.host, settings.port, timeout=limit)
        if settings.security is MailSecurity.STARTTLS:
            try:
                server.starttls(context=self._trust())
            except BaseException:
                server.close()
                raise
        return server

    def _trust(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._settings.ca_file)
        except OSError:
            raise ConfigurationError("the mail's ca_file cannot be read") from None

    def _mail(self, message: Message) -> EmailMessage:
        settings = self._settings
        mail = EmailMessage()
        mail["From"] = settings.sender
        mail["To"] = ", ".join(settings.recipients)
        mail["Subject"] = " ".join(message.title_in(settings.language).split())
        mail["Date"] = format_datetime(message.happened_at)
        # The same for every try, so that a mail that comes twice can be told from two.
        mail["Message-ID"] = f"<{message.event}.{message.id}.{int(message.happened_at.timestamp())}@mqi>"
        mail["Auto-Submitted"] = "auto-generated"
        text = in_language(message.text, settings.language)
        when = f"{message.happened_at:%Y-%m-%d %H:%M:%S %Z}"
        mail.set_content(f"{text}\n\n{when}\n{translated(LISTED, settings.language)}\n")
        return mail
