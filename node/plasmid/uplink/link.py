"""The client end of the link. It only dials out.

Rules
-----
1. HTTPS with mutual TLS under the CA pinned at enrolment; nothing from the environment (proxies, CAs)
   is trusted for it. What the owner's settings say of a proxy or another CA is
   :mod:`plasmid.uplink.network`'s.
2. Where those settings let TLS end at a proxy, every request and its answer are signed, whether or not a
   proxy is there; ``end_to_end`` says what the last answer's connection was.
3. A transport error is tried again with growing pauses until ``patience_s``; every request is
   idempotent. An answer with an error code is final and raises that error.
4. An answer is read up to a cap. Bodies move in chunks of at most 4 MiB, each with its SHA-256, or the digest
   of a body that is one chunk; a whole body is checked against the digest that names it.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from plasmid.core.bounds import MAX_BODY_BYTES, parse_json
from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import KeysError, LinkError, PlasmidError, from_dict
from plasmid.protocol.body import CHUNK_BYTES
from plasmid.protocol.messages import Signed, wire
from plasmid.uplink.capped_response import CappedTransport
from plasmid.uplink.network import Network
from plasmid.uplink.signing import from_in_between

POLL_S = 20.0
MAX_ANSWER_BYTES = 40 * 1024 * 1024
"""The coordinator sends messages of up to 32 MiB, several at once if they are small."""
UNREADABLE = (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion)
"""What a certificate of somebody else's may raise."""
_SPARE_REQUESTS = 8
_CHUNK_HEADER = "X-Chunk-Digest"


class LinkClient:
    """A connection to one coordinator. Safe to use from several threads.

    Parameters
    ----------
    ca, certificate
        The pinned CA; this member's certificate and its TLS key, one after the other in one file, so that
        neither is ever there without the other.
    password
        Of the TLS key.
    network
        The owner's settings; files that they name lie beside *ca*.
    auth
        Signs requests; needed where ``network.may_be_intercepted``.

    Attributes
    ----------
    end_to_end
        Whether TLS ended at the coordinator for the last answer; None before the first.
    """

    def __init__(
        self,
        url: str,
        *,
        ca: Path,
        certificate: Path,
        password: bytes,
        patience_s: float = 30.0,
        network: Network | None = None,
        auth: httpx.Auth | None = None,
    ) -> None:
        network = network or Network()
        assert auth is not None or not network.may_be_intercepted
        self._network, self._auth = network, auth
        self._ca_file, self._certificate, self._password = ca, certificate, password
        self._patience_s = patience_s
        self._ca = x509.load_pem_x509_certificate(ca.read_bytes())
        self.url = url
        self.end_to_end: bool | None = None
        self._retired: list[httpx.Client] = []
        self._http = self._dialler()

    def _dialler(self) -> httpx.Client:
        context = self._network.context(self._ca_file)
        try:
            context.load_cert_chain(self._certificate, password=self._password)
        except (ssl.SSLError, OSError) as error:
            raise KeysError(
                "keys.tls",
                f"{self._certificate} does not hold a certificate and its key under this password.",
                "Run 'plasmid site rotate' for new ones.",
            ) from error
        proxy = self._network.through(self._ca_file.parent)
        through = httpx.HTTPTransport(verify=context, trust_env=False, proxy=proxy)
        return httpx.Client(
            base_url=self.url,
            transport=CappedTransport(through, MAX_ANSWER_BYTES),
            trust_env=False,
            timeout=httpx.Timeout(30.0, connect=5.0),
            auth=self._auth,
            event_hooks={"response": [self._look]},
        )

    def reload(self) -> None:
        """Dial with the certificate that the file holds now; what is under way ends on the old one.

        Raises
        ------
        KeysError
            ``keys.tls``: the file does not hold a certificate and its key; the old one stays.
        """
        fresh = self._dialler()
        self._retired.append(self._http)
        self._http = fresh

    def _look(self, response: httpx.Response) -> None:
        """Note who was at the other end of the connection; called before the body is read."""
        tls = response.extensions["network_stream"].get_extra_info("ssl_object")
        shown = tls.getpeercert(True) if tls is not None else None
        self.end_to_end = shown is not None and issued_by(shown, self._ca)

    def close(self) -> None:
        """Close all connections."""
        for client in (*self._retired, self._http):
            client.close()

    def request(self, method: str, path: str, *, timeout_s: float = 30.0, **arguments: Any) -> httpx.Response:
        """Return a successful response.

        Raises
        ------
        LinkError
            ``link.unreachable`` after ``patience_s`` of trying; ``link.refused``: an answer not of ours;
            ``link.proxy``: the proxy wants other credentials; ``link.signature``: the answer was changed.
        PlasmidError
            The error that the coordinator answered with.
        """
        give_up = time.monotonic() + self._patience_s
        pause_s = 0.1
        failure: httpx.TransportError | None
        while True:
            try:
                response = self._http.request(method, path, timeout=timeout_s, **arguments)
                if not from_in_between(response):
                    break
                failure, why = None, f"a proxy answered {response.status_code}"
            except httpx.TransportError as error:
                failure, why = error, type(error).__name__
                _refuse_hopeless(error)
            if time.monotonic() > give_up or _is_somebody_else(failure):
                raise LinkError(
                    "link.unreachable",
                    f"the coordinator at {self.url} cannot be reached ({why}).",
                    "Check the address and that 'plasmid coordinator start' is running there.",
                ) from failure
            time.sleep(pause_s)
            pause_s = min(2.0, 2 * pause_s)
        if response.is_success:
            return response
        raise answered_error(response)

    # -- messages ------------------------------------------------------------------------------

    def post(self, signed: Signed) -> None:
        """Send one signed message to the coordinator."""
        self.request("POST", "/v1/site/messages", content=wire(signed))

    def poll(self, boot: str, after: int) -> tuple[str, list[tuple[int, Signed]]]:
        """Wait for messages numbered above *after*; return the server's boot name and the messages."""
        answer = self.request(
            "GET",
            "/v1/site/messages",
            params={"boot": boot, "after": after, "wait_s": POLL_S},
            timeout_s=POLL_S + 10.0,
        )
        return messages_in(answer.content)

    # -- bodies --------------------------------------------------------------------------------

    def upload(self, digest: str, body: bytes, *, run: str) -> None:
        """Send this site's *body* for *run*, which has *digest*, in chunks.

        What the server already holds is not sent again.

        Raises
        ------
        LinkError
            As :meth:`request`; ``link.refused``: the server keeps asking for what it was sent.
        """
        self._put(f"/v1/site/bodies/{digest}", {"run": run}, digest, body)

    def give(self, digest: str, body: bytes) -> None:
        """Send *body*, which has *digest* and which a run's document names as ``given``, as a person.

        Raises
        ------
        LinkError
            As :meth:`upload`.
        """
        self._put(f"/v1/given/{digest}", {}, digest, body)

    def _put(self, path: str, params: dict[str, str], digest: str, body: bytes) -> None:
        offset = 0
        view = memoryview(body)
        for _ in range(2 * (len(body) // CHUNK_BYTES) + _SPARE_REQUESTS):
            if offset >= len(body):
                return
            chunk = view[offset : offset + CHUNK_BYTES]
            answer = self.request(
                "PUT",
                path,
                params={**params, "offset": offset, "total": len(body)},
                headers={_CHUNK_HEADER: digest if len(chunk) == len(body) else sha256_hex(chunk)},
                content=bytes(chunk),
            )
            try:
                offset = max(0, int(answered_json(answer)["have"]))
            except (KeyError, TypeError, ValueError) as error:
                raise LinkError("link.refused", "the answer to an upload does not have its form.") from error
        raise LinkError("link.refused", f"the coordinator does not take the body {digest}.", "Try again.")

    def download(self, digest: str, size: int) -> bytes:
        """Return the published body *digest* of *size* bytes. Raises LinkError (``link.body_differs``)."""
        if size > MAX_BODY_BYTES:
            raise LinkError("link.body_differs", f"a body of {size} bytes is larger than {MAX_BODY_BYTES}.")
        body, found = self._get(f"/v1/bodies/{digest}", size)
        if digest != (found if size <= CHUNK_BYTES else sha256_hex(body)):
            raise LinkError(
                "link.body_differs", f"the body {digest} does not have that digest.", "Try again."
            )
        return body

    def sample(self, run: str, manifest: str, part: str, size: int) -> bytes:
        """Return *size* bytes about an opened sum. Raises LinkError (``link.body_differs``)."""
        return self._get(f"/v1/site/sums/{run}/{manifest}/{part}", size)[0]

    def _get(self, path: str, size: int) -> tuple[bytes, str]:
        """Return *size* bytes that are served in chunks, and the SHA-256 of the last chunk."""
        parts, have, found = [], 0, ""
        while have < size:
            response = self.request("GET", path, params={"offset": have})
            chunk, found = response.content, sha256_hex(response.content)
            damaged = response.headers.get(_CHUNK_HEADER) != found
            if not chunk or have + len(chunk) > size or damaged:
                raise LinkError("link.body_differs", f"a chunk of {path} is damaged.")
            parts.append(chunk)
            have += len(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts), found


def _is_somebody_else(error: BaseException | None) -> bool:
    """Return whether a certificate was refused: httpx and httpcore each wrap the error once."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


def issued_by(certificate: bytes, ca: x509.Certificate) -> bool:
    """Return whether *ca* itself issued the *certificate* (DER): it issues no other CA."""
    try:
        x509.load_der_x509_certificate(certificate).verify_directly_issued_by(ca)
    except UNREADABLE:
        return False
    return True


def _refuse_hopeless(error: httpx.TransportError) -> None:
    """Raise LinkError (``link.proxy``) where trying again would not help."""
    if isinstance(error, httpx.ProxyError) and str(error)[:3] in ("401", "403", "407"):
        raise LinkError(
            "link.proxy",
            f"the proxy answers {str(error)[:3]} instead of opening a connection.",
            "Check network.proxy and the file that network.proxy_auth names.",
        ) from error


def messages_in(content: bytes) -> tuple[str, list[tuple[int, Signed]]]:
    """Return boot name and numbered messages of a poll's answer. Raises LinkError (``link.refused``)."""
    try:
        answer = json_in(content)
        return str(answer["boot"]), [
            (int(item["seq"]), Signed.model_validate(item["signed"])) for item in answer["messages"]
        ]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise LinkError("link.refused", "the coordinator's messages do not have their form.") from error


def json_in(content: bytes) -> Any:
    """Return the JSON value in *content*. Raises LinkError (``link.refused``)."""
    try:
        return parse_json(content)
    except ValueError as error:
        raise LinkError("link.refused", "an answer is not JSON of sensible size.") from error


def answered_json(response: httpx.Response) -> Any:
    """Return the JSON value in *response*. Raises LinkError (``link.refused``)."""
    return json_in(response.content)


def answered_part(response: httpx.Response, name: str) -> Any:
    """Return the value under *name* of the JSON object in *response*. Raises LinkError (``link.refused``)."""
    try:
        return answered_json(response)[name]
    except (KeyError, TypeError, IndexError) as error:
        raise LinkError("link.refused", f"the coordinator's answer says no {name}.") from error


def answered_error(response: httpx.Response) -> PlasmidError:
    """Return the error in an unsuccessful *response*."""
    try:
        return from_dict(answered_json(response)["error"])
    except (LinkError, KeyError, TypeError, AttributeError):
        return LinkError("link.refused", f"the coordinator answered {response.status_code}.")
