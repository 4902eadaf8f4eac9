"""How approvers are told: a constant text, one try, and no word more leaves."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from plasmid.gateway.notify import SUBJECT, TEXT, Mail, Notify, tell

HOOK = "https://chat.test/hooks/1"


def told(handler: Any, notify: Notify | None = None) -> list[tuple[str, str]]:
    return list(tell(notify or Notify(webhook=HOOK), transport=httpx.MockTransport(handler)))


def test_a_webhook_gets_the_constant_text_and_nothing_else() -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(204)

    assert told(answer) == [("webhook", "")]
    (request,) = requests
    assert (request.method, str(request.url)) == ("POST", HOOK)
    assert json.loads(request.content) == {"text": TEXT}
    assert {"cookie", "authorization"}.isdisjoint(request.headers)


@pytest.mark.parametrize("status", [301, 307, 404, 500])
def test_a_redirect_or_a_refusal_is_a_failure_and_is_not_followed(status: int) -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(status, headers={"location": "https://elsewhere.test/"})

    assert told(answer) == [("webhook", f"it answered with status {status}")]
    assert len(requests) == 1


def test_a_server_that_does_not_answer_is_a_failure() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("no", request=request)

    assert told(answer) == [("webhook", "ConnectTimeout")]


def test_by_default_nobody_is_told() -> None:
    assert told(lambda _: pytest.fail("nobody was to be told"), Notify()) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://chat.test/x",
        "ftp://chat.test/x",
        "file:///etc/passwd",
        "chat.test/x",
        "https://user:secret@chat.test/x",
        "http://127.0.0.1.chat.test/x",
    ],
)
def test_a_webhook_is_https_or_this_host(url: str) -> None:
    with pytest.raises(ValidationError):
        Notify(webhook=url)
    assert Notify(webhook="http://127.0.0.1:9000/x").webhook


class Relay(socketserver.StreamRequestHandler):
    """A mail server that takes one message."""

    def handle(self) -> None:
        self.wfile.write(b"220 relay\r\n")
        data = False
        while line := self.rfile.readline():
            self.server.lines.append(line.decode().rstrip("\r\n"))  # type: ignore[attr-defined]
            if data:
                if line == b".\r\n":
                    data = False
                    self.wfile.write(b"250 taken\r\n")
            elif line.upper().startswith(b"DATA"):
                data = True
                self.wfile.write(b"354 go on\r\n")
            elif line.upper().startswith(b"QUIT"):
                self.wfile.write(b"221 bye\r\n")
                return
            else:
                self.wfile.write(b"250 fine\r\n")


@pytest.fixture
def relay() -> Iterator[Any]:
    with socketserver.TCPServer(("127.0.0.1", 0), Relay) as server:
        server.lines = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def mail(relay: Any, **changes: Any) -> Notify:
    values = {
        "host": "127.0.0.1",
        "port": relay.server_address[1],
        "sender": "site@a.test",
        "to": ["dpo@a.test"],
    }
    return Notify(mail=Mail.model_validate(values | changes))


def test_a_mail_says_the_same(relay: Any) -> None:
    assert list(tell(mail(relay, security="none"))) == [("mail", "")]
    lines = relay.lines
    assert [line for line in lines if line.upper().startswith(("MAIL", "RCPT"))] == [
        "mail FROM:<site@a.test>",
        "rcpt TO:<dpo@a.test>",
    ]
    assert f"Subject: {SUBJECT}" in lines
    assert TEXT in lines


def test_mail_is_not_sent_in_the_clear_unless_that_is_said(relay: Any) -> None:
    """The relay offers no TLS, and starttls is the default."""
    assert list(tell(mail(relay))) == [("mail", "SMTPNotSupportedError")]
    assert not [line for line in relay.lines if line.upper().startswith("MAIL")]


@pytest.mark.parametrize(
    "changes",
    [
        {"to": []},
        {"to": ["nobody"]},
        {"to": ["a@b.test\r\nBcc: c@d.test"]},
        {"sender": "x"},
        {"port": 0},
        {"host": "a b"},
    ],
)
def test_an_address_that_cannot_be_one_is_refused(changes: dict[str, Any]) -> None:
    values = {"host": "relay.test", "sender": "site@a.test", "to": ["dpo@a.test"]}
    with pytest.raises(ValidationError):
        Mail.model_validate(values | changes)
