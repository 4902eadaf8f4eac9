"""A company's proxies on this host: one that opens tunnels, one that terminates TLS and may lie.

Both take CONNECT for any name and go to this host. They run in threads and are ended by their block.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import select
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

TIMEOUT_S = 40.0


class CompanyCa:
    """A CA of a company, and a leaf for ``localhost``: ``company.pem``, ``proxy.pem``, ``proxy.key``."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.leaf, self.key = (folder / name for name in ("company.pem", "proxy.pem", "proxy.key"))
        ca_key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        ca = _certificate("A company's CA", "A company's CA", ca_key, ca_key, ca=True)
        leaf = _certificate("localhost", "A company's CA", leaf_key, ca_key, ca=False)
        self.ca.write_bytes(ca.public_bytes(Encoding.PEM))
        self.leaf.write_bytes(leaf.public_bytes(Encoding.PEM))
        self.key.write_bytes(leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def context(self) -> ssl.SSLContext:
        """Return the server's side of a connection that shows the leaf."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.leaf, self.key)
        return context


def _certificate(name: str, issuer: str, key: Any, signer: Any, *, ca: bool) -> x509.Certificate:
    now = datetime.now(UTC)
    subject, issued_by = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer)
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issued_by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(_usage(ca=ca), critical=True)
    )
    if not ca:
        names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(signer, SHA256())


def _usage(*, ca: bool) -> x509.KeyUsage:
    names = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    off = dict.fromkeys((*names, "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **off)


@dataclass
class Passed:
    """One request that a terminating proxy has relayed, in the clear; a change to it is what travels on."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int = 0
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer: bytes = b""


class Proxy:
    """A context manager.

    Parameters
    ----------
    password
        ``user:password`` that it asks for; None for none.
    company
        Whose leaf is shown to the client instead of the coordinator's: TLS ends here. None opens tunnels.
    coordinator_ca
        What a terminating proxy trusts on its own way to the coordinator.
    reverse
        The coordinator's port: no CONNECT, the proxy stands in front of the coordinator.

    Attributes
    ----------
    asked
        (target, whether it was let through) of every CONNECT.
    passed
        What went through in the clear.
    on_request, on_answer
        Called with each :class:`Passed`, before and after it went on.
    """

    def __init__(
        self,
        *,
        password: str | None = None,
        company: CompanyCa | None = None,
        coordinator_ca: Path | None = None,
        reverse: int | None = None,
    ) -> None:
        self.password, self.company, self.reverse = password, company, reverse
        self.upstream = ssl.create_default_context(cafile=str(coordinator_ca)) if coordinator_ca else None
        self.asked: list[tuple[str, bool]] = []
        self.passed: list[Passed] = []
        self.ends: set[socket.socket] = set()
        self.on_request: Callable[[Passed], None] = lambda passed: None
        self.on_answer: Callable[[Passed], None] = lambda passed: None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        if reverse is not None:
            assert company is not None
            self._server.socket = company.context().wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._server.daemon_threads = False  # so that closing waits for all of them
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.port = self._server.server_address[1]

    @property
    def url(self) -> str:
        """What goes into ``network.proxy``."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        for end in list(self.ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT_S
    target: str = ""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def handle(self) -> None:
        self.proxy.ends.add(self.request)
        try:
            super().handle()
        except OSError:  # the client hung up, or did not like the certificate
            self.close_connection = True
        finally:
            self.proxy.ends -= {self.request, self.connection}
            for end in (self.rfile, self.wfile, self.connection):
                with contextlib.suppress(OSError):
                    end.close()

    def do_CONNECT(self) -> None:
        wanted = self.proxy.password
        given = self.headers.get("Proxy-Authorization", "").removeprefix("Basic ")
        allowed = wanted is None or given == base64.b64encode(wanted.encode()).decode()
        self.proxy.asked.append((self.path, allowed))
        if not allowed:
            self.send_response(407)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.target = self.path
        self.send_response(200)
        self.end_headers()
        if self.proxy.company is None:
            self._tunnel()
            return
        self.rfile.close()
        self.wfile.close()
        self.connection = self.proxy.company.context().wrap_socket(
            self.connection, server_side=True, do_handshake_on_connect=False
        )
        self.proxy.ends.add(self.connection)
        self.connection.do_handshake()
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)

    def _tunnel(self) -> None:
        self.close_connection = True
        port = int(self.target.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as there:
            ends = {self.connection: there, there: self.connection}
            while True:
                ready, _, _ = select.select(list(ends), [], [], TIMEOUT_S)
                for end in ready or [there]:
                    data = end.recv(65536) if ready else b""
                    if not data:
                        return
                    ends[end].sendall(data)

    def _relay(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        said = Passed(self.command, self.path, dict(self.headers.items()), self.rfile.read(length))
        self.proxy.passed.append(said)
        self.proxy.on_request(said)
        port = self.proxy.reverse or int(self.target.rpartition(":")[2])
        onward = http.client.HTTPSConnection(
            "localhost", port, timeout=TIMEOUT_S, context=self.proxy.upstream
        )
        try:
            headers = said.headers | {"Content-Length": str(len(said.body)), "Via": "1.1 company"}
            onward.request(said.method, said.path, said.body, headers)
            answer = onward.getresponse()
            said.status, said.answer_headers = answer.status, dict(answer.getheaders())
            said.answer = answer.read()
        except OSError:
            said.status, said.answer = 502, b"the company's proxy cannot reach it"
        finally:
            onward.close()
        self.proxy.on_answer(said)
        self.send_response(said.status)
        for name, value in said.answer_headers.items():
            if name.lower() not in ("content-length", "date", "transfer-encoding", "connection"):
                self.send_header(name, value)
        if said.status != 204:
            self.send_header("Content-Length", str(len(said.answer)))
        self.end_headers()
        self.wfile.write(said.answer)

    do_GET = do_POST = do_PUT = do_DELETE = _relay
