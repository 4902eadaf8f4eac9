"""Who is calling: the member whose certificate the connection shows, or whose signature the request carries.

Rules
-----
1. A certificate counts if its member is enrolled with it. A signature counts if it is a member's, fresh, and
   not seen before (:mod:`plasmid.protocol.http_signatures`); what was signed before this process is old.
2. A certificate or signature that is there must hold, and both must be the same member's.
3. The body of a signed request must have the digest that was signed; :func:`~plasmid.link.routes.read_body`
   sees to it. The answer to a signed request is signed, over itself and the request.
4. How much a member's unfinished requests hold in memory is capped.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plasmid.core.clock import Clock, now
from plasmid.core.errors import LinkError
from plasmid.link.registry import Member, Registry
from plasmid.protocol.http_signatures import MAX_SKEW_S, SignedRequest, read_request, sign_answer
from plasmid.protocol.identity import Signer

MAX_NONCES = 20_000
"""Of one member, over the two minutes for which a nonce is kept."""
MAX_HELD_BYTES = 128 * 1024 * 1024


@dataclass
class Held:
    """Bytes of one member's unfinished requests."""

    size: int = 0

    def take(self, count: int) -> None:
        """Count *count* bytes more. Raises LinkError (``link.busy``) beyond ``MAX_HELD_BYTES``."""
        self.size += count
        if self.size > MAX_HELD_BYTES:
            raise LinkError(
                "link.busy", "this member's unfinished requests hold too much memory.", "Send fewer at once."
            )

    def give_back(self, count: int) -> None:
        """Count *count* bytes less."""
        self.size -= count


@dataclass
class _Seen:
    """Nonces of one member by the second at which they are forgotten."""

    until: dict[str, float] = field(default_factory=dict)

    def once(self, signed: SignedRequest, now_s: float) -> None:
        for nonce, until in list(self.until.items()):
            if until >= now_s:
                break
            del self.until[nonce]
        if signed.nonce in self.until:
            raise LinkError("link.signature", "a signed request was used before.", "Sign it anew.")
        if len(self.until) >= MAX_NONCES:
            raise LinkError("link.busy", "this member has signed too many requests.", "Wait a minute.")
        self.until[signed.nonce] = max(now_s, signed.created) + MAX_SKEW_S


class Callers:
    """The members, as they call.

    Parameters
    ----------
    coordinator
        The coordinator's own public key.
    """

    def __init__(self, registry: Registry, coordinator: str, *, clock: Clock = now) -> None:
        self._registry, self._coordinator, self._clock = registry, coordinator, clock
        self._began = int(clock().timestamp())
        self._seen: dict[str, _Seen] = defaultdict(_Seen)
        self._held: dict[str, Held] = defaultdict(Held)

    def identify(self, request: Request) -> Member:
        """Return the member that *request* comes from.

        Raises
        ------
        LinkError
            ``link.not_enrolled``: nobody's; ``link.signature``, ``link.clock``: rule 1 or 2 is broken;
            ``link.busy``.
        """
        certificate = getattr(request.state, "peer_certificate", None)
        shown = self._registry.by_certificate(certificate) if certificate else None
        signed = read_request(request.headers)
        if (certificate and shown is None) or (signed is None and shown is None):
            raise _nobody()
        member = shown if signed is None else self._signer(request, signed, shown)
        assert member is not None
        request.state.held = self._held[member.name]
        self._registry.note_connection(member.name, end_to_end=shown is not None)
        return member

    def _signer(self, request: Request, signed: SignedRequest, shown: Member | None) -> Member:
        now_s = self._clock().timestamp()
        signed.check(
            method=request.method,
            path=request.scope["raw_path"].decode("latin-1"),
            query=request.scope["query_string"].decode("latin-1"),
            coordinator=self._coordinator,
            now_s=now_s,
        )
        if signed.created < self._began:
            raise LinkError(
                "link.clock", "the request was signed before the coordinator began.", "Sign it anew."
            )
        member = self._registry.by_key(signed.keyid)
        if member is None:
            raise _nobody()
        if shown is not None and shown != member:
            raise LinkError("link.signature", "certificate and signature are not the same member's.")
        self._seen[member.key].once(signed, now_s)
        request.state.content_digest = signed.digest
        request.state.request_signature = signed.value
        return member


def is_signed(request: Request) -> bool:
    """Return whether a request that :meth:`Callers.identify` let pass carries its member's own signature."""
    return getattr(request.state, "request_signature", None) is not None


def _nobody() -> LinkError:
    return LinkError(
        "link.not_enrolled", "this route needs the certificate or signature of an enrolled member."
    )


class SignedAnswers:
    """Signs the answers to requests whose signature held. ASGI middleware."""

    def __init__(self, app: ASGIApp, *, identity: Signer, clock: Clock = now) -> None:
        self._app, self._identity, self._clock = app, identity, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or not any(name == b"signature" for name, _ in scope["headers"]):
            await self._app(scope, receive, send)
            return
        start: dict[str, Any] = {}
        parts: list[bytes] = []

        async def hold(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            parts.append(message.get("body", b""))
            if message.get("more_body"):
                return
            body = b"".join(parts)
            request = scope.get("state", {}).get("request_signature")
            if request is not None:
                created = int(self._clock().timestamp())
                signed = sign_answer(
                    self._identity, status=start["status"], body=body, request=request, created=created
                )
                added = [(name.lower().encode(), value.encode()) for name, value in signed.items()]
                start["headers"] = [*start["headers"], *added]
            await send(start)
            await send({"type": "http.response.body", "body": body})

        await self._app(scope, receive, hold)
