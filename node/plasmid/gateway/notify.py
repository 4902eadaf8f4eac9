"""Telling approvers that a run waits: a webhook, an e-mail, or both.

Rules
-----
1. The text is constant: no name of a recipe, a project or a person leaves the site by this way.
2. A failure is the owner's to see in the log; it changes nothing about the run. Nothing is sent twice for
   one request.
3. No redirect is followed and no proxy setting of the environment is used; an answer is not read.
"""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Annotated, Literal
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

SUBJECT = "A run waits for approval"
TEXT = "A run waits for approval at your Plasmid site. 'plasmid approvals ls' there shows it."
TIMEOUT_S = 10.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

Address = Annotated[
    str, StringConstraints(max_length=254, pattern=r"^[^\s@<>,;:\x00-\x1f]+@[^\s@<>,;:\x00-\x1f]+$")
]
Host = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.:-]+$")]


class Mail(BaseModel):
    """An e-mail server that takes mail from this host without a password, as a company's relay does.

    ``security`` is ``starttls`` (default), ``tls`` from the first byte, or ``none``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    host: Host
    port: Annotated[int, Field(ge=1, le=65535)] = 25
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: Address
    to: Annotated[list[Address], Field(min_length=1, max_length=64)]


class Notify(BaseModel):
    """The ``notify`` section of a policy; by default nobody is told."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    webhook: Annotated[str, StringConstraints(max_length=2000)] | None = None
    mail: Mail | None = None

    @field_validator("webhook")
    @classmethod
    def _safe(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "https://a.test")
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise ValueError("a webhook is an https:// address, or http:// on this host")
        if parts.username or parts.password:
            raise ValueError("a webhook's address holds no user name and password")
        return url


def tell(notify: Notify, *, transport: httpx.BaseTransport | None = None) -> Iterator[tuple[str, str]]:
    """Tell the approvers; yield each channel with its problem, empty where there was none."""
    if notify.webhook is not None:
        yield "webhook", _post(notify.webhook, transport)
    if notify.mail is not None:
        yield "mail", _mail(notify.mail)


def _post(url: str, transport: httpx.BaseTransport | None) -> str:
    try:
        with httpx.Client(
            timeout=TIMEOUT_S, follow_redirects=False, trust_env=False, transport=transport
        ) as client, client.stream("POST", url, json={"text": TEXT}) as answer:  # fmt: skip
            return "" if answer.is_success else f"it answered with status {answer.status_code}"
    except (httpx.HTTPError, OSError, ValueError) as error:
        return type(error).__name__


def _mail(mail: Mail) -> str:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = SUBJECT, mail.sender, ", ".join(mail.to)
    message.set_content(TEXT, cte="7bit")
    context = ssl.create_default_context()
    try:
        client: smtplib.SMTP
        if mail.security == "tls":
            client = smtplib.SMTP_SSL(mail.host, mail.port, timeout=TIMEOUT_S, context=context)
        else:
            client = smtplib.SMTP(mail.host, mail.port, timeout=TIMEOUT_S)
        with client:
            if mail.security == "starttls":
                client.starttls(context=context)
            client.send_message(message)
    except (OSError, smtplib.SMTPException, ValueError) as error:
        return type(error).__name__
    return ""
