"""Requests that authenticate themselves, and answers that do: for a connection that a proxy may read.

Rules
-----
1. Every request is signed by the member's identity key, with a fresh nonce and this host's time.
2. An answer that succeeds must be signed by the coordinator, over itself and its request; so must every
   error of ours but those that the coordinator gives before it knows who asks. What is neither is no answer.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator

import httpx

from plasmid.core.clock import Clock, now
from plasmid.protocol.http_signatures import SIGNATURE, check_answer, sign_request
from plasmid.protocol.identity import Signer

UNSIGNED_ERRORS = frozenset({"link.signature", "link.clock", "link.not_enrolled", "link.busy"})
"""Error codes that are believed without a signature: they stop this member, which a proxy can do anyway."""


class SignedRequests(httpx.Auth):
    """Signs what a client sends and checks what it gets.

    Parameters
    ----------
    signer
        The member's identity.
    coordinator
        The coordinator's pinned key.
    """

    requires_request_body = True
    requires_response_body = True

    def __init__(self, signer: Signer, coordinator: str, *, clock: Clock = now) -> None:
        self._signer, self._coordinator, self._clock = signer, coordinator, clock

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign *request* and check its answer. Raises LinkError (``link.signature``)."""
        path, _, query = request.url.raw_path.decode("latin-1").partition("?")
        signed = sign_request(
            self._signer,
            method=request.method,
            path=path,
            query=query,
            body=request.content,
            coordinator=self._coordinator,
            created=int(self._clock().timestamp()),
            nonce=secrets.token_hex(16),
        )
        request.headers.update(signed)
        response = yield request
        code = _code(response)
        if response.is_success or (code and code not in UNSIGNED_ERRORS):
            check_answer(
                response.headers,
                status=response.status_code,
                body=response.content,
                request=signed[SIGNATURE],
                coordinator=self._coordinator,
            )


def from_in_between(response: httpx.Response) -> bool:
    """Return whether *response* is a proxy's word that it cannot reach the coordinator: worth another try."""
    return response.status_code in (502, 503, 504) and SIGNATURE not in response.headers


def _code(response: httpx.Response) -> str:
    if response.is_success:
        return ""
    try:
        return str(response.json()["error"]["code"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
