"""The client end of the link. It only dials out.

Rules
-----
1. HTTPS with mutual TLS under the CA pinned at enrolment; nothing from the environment (proxies, CAs)
   is trusted for it.
2. A transport error is tried again with growing pauses until ``patience_s``; every request is
   idempotent. An answer with an error code is final and raises that error.
3. Bodies move in chunks of at most 4 MiB, each with its SHA-256; a whole body is checked against the
   digest that names it.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Any

import httpx

from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import LinkError, PlasmidError, from_dict
from plasmid.protocol.body import CHUNK_BYTES, MAX_BODY_BYTES
from plasmid.protocol.messages import Signed, wire

POLL_S = 20.0
_CHUNK_HEADER = "X-Chunk-SHA256"


class LinkClient:
    """A connection to one coordinator. Safe to use from several threads."""

    def __init__(self, url: str, *, ca: Path, certificate: Path, key: Path, patience_s: float = 30.0) -> None:
        context = ssl.create_default_context(cafile=str(ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(certificate, key)
        self._patience_s = patience_s
        self.url = url
        self._http = httpx.Client(
            base_url=url, verify=context, trust_env=False, timeout=httpx.Timeout(30.0, connect=5.0)
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def request(self, method: str, path: str, *, timeout_s: float = 30.0, **arguments: Any) -> httpx.Response:
        """Return a successful response.

        Raises
        ------
        LinkError
            ``link.unreachable`` after ``patience_s`` of trying; ``link.refused``: an answer not of ours.
        PlasmidError
            The error that the coordinator answered with.
        """
        give_up = time.monotonic() + self._patience_s
        pause_s = 0.1
        while True:
            try:
                response = self._http.request(method, path, timeout=timeout_s, **arguments)
                break
            except httpx.TransportError as error:
                if time.monotonic() > give_up or _is_somebody_else(error):
                    raise LinkError(
                        "link.unreachable",
                        f"the coordinator at {self.url} cannot be reached ({type(error).__name__}).",
                        "Check the address and that 'plasmid coordinator start' is running there.",
                    ) from error
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
        ).json()
        return answer["boot"], [
            (int(item["seq"]), Signed.model_validate(item["signed"])) for item in answer["messages"]
        ]

    # -- bodies --------------------------------------------------------------------------------

    def upload(self, digest: str, body: bytes, *, run: str) -> None:
        """Send *body*, which has *digest*, in chunks; what the server already holds is not sent again."""
        offset = 0
        view = memoryview(body)
        while offset < len(body):
            chunk = view[offset : offset + CHUNK_BYTES]
            answer = self.request(
                "PUT",
                f"/v1/site/bodies/{digest}",
                params={"run": run, "offset": offset, "total": len(body)},
                headers={_CHUNK_HEADER: digest if len(chunk) == len(body) else sha256_hex(chunk)},
                content=bytes(chunk),
            ).json()
            offset = int(answer["have"])

    def download(self, digest: str, size: int) -> bytes:
        """Return the published body *digest* of *size* bytes. Raises LinkError (``link.body_differs``)."""
        if size > MAX_BODY_BYTES:
            raise LinkError("link.body_differs", f"a body of {size} bytes is larger than {MAX_BODY_BYTES}.")
        parts, have, found = [], 0, ""
        while have < size:
            response = self.request("GET", f"/v1/bodies/{digest}", params={"offset": have})
            chunk, found = response.content, sha256_hex(response.content)
            damaged = response.headers.get(_CHUNK_HEADER) != found
            if not chunk or have + len(chunk) > size or damaged:
                raise LinkError("link.body_differs", f"a chunk of the body {digest} is damaged.")
            parts.append(chunk)
            have += len(chunk)
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        if digest != (found if size <= CHUNK_BYTES else sha256_hex(body)):
            raise LinkError(
                "link.body_differs", f"the body {digest} does not have that digest.", "Try again."
            )
        return body


def _is_somebody_else(error: BaseException | None) -> bool:
    """Return whether a certificate was refused: httpx and httpcore each wrap the error once."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


def answered_error(response: httpx.Response) -> PlasmidError:
    """Return the error in an unsuccessful *response*."""
    try:
        return from_dict(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return LinkError("link.refused", f"the coordinator answered {response.status_code}.")
