"""The HTTP routes of the coordinator.

Rules
-----
1. ``/v1/card`` and ``/v1/enrol`` are open to everyone; every other route needs an enrolled member of the
   right role (:mod:`plasmid.link.callers`). Roles are checked by the router, not by the handlers.
2. A body is read up to the route's cap and no further; that of a signed request has the signed digest.
3. Only known errors are answered, as ``{"error": {"code", "message", "hint"}}``.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from plasmid.core.bounds import MAX_BODY_BYTES, MAX_JSON_VALUES, count_json
from plasmid.core.errors import LinkError, PlasmidError, ProtocolError
from plasmid.link.authority import Authority
from plasmid.link.bodies import Bodies
from plasmid.link.callers import Callers, Held, SignedAnswers, is_signed
from plasmid.link.membership import Membership
from plasmid.link.projects import ProjectRegistry
from plasmid.link.registry import Member, Registry
from plasmid.link.switchboard import Switchboard
from plasmid.protocol.body import CHUNK_BYTES
from plasmid.protocol.enrolment import CoordinatorCard, parse_enrol_request
from plasmid.protocol.envelope import parse_envelope
from plasmid.protocol.http_signatures import content_digest
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import (
    Admission,
    Blobs,
    Bundles,
    Countersigned,
    Failed,
    Heartbeat,
    LogCheckpoint,
    LogCosignature,
    RunRequest,
    Signed,
    StopRequest,
    ToSites,
    open_signed,
    parse_signed,
)
from plasmid.secagg.statements import Advert, Consent, Contribution, Ready, Shares

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
MAX_ENROL_BYTES = 64 * 1024
MAX_PROJECT_BYTES = 512 * 1024
MAX_WAIT_S = 30.0
_FROM_SITE = (
    *(Admission, Advert, Bundles, Blobs, Ready, Contribution, Consent, Shares, Heartbeat, Failed),
    *(Countersigned, LogCheckpoint, LogCosignature),
)
_STATUS = {
    "link.not_enrolled": 401,
    "link.signature": 401,
    "link.clock": 401,
    "link.revoked": 401,
    "link.busy": 429,
    "link.wrong_role": 403,
    "link.no_body": 404,
    "run.unknown": 404,
    "link.too_large": 413,
    "project.unknown": 404,
}

MAX_GIVEN_BYTES = 512 * 2**20
"""Of one adapter that a person gives to be judged."""
Offset = Annotated[int, Query(ge=0, le=MAX_BODY_BYTES)]
Ask = Callable[..., Awaitable[Any]]
"""Calls the controller: ``await ask(method, *arguments)``."""


async def read_body(request: Request, cap: int) -> bytes:
    """Return the request's body.

    Raises
    ------
    LinkError
        ``link.too_large``: more than *cap* bytes; ``link.signature``: not what was signed; ``link.busy``.
    ProtocolError
        ``protocol.malformed``: a length that is no number. (The server in front of it lets none through.)
    """
    parts, size = [], _announced(request)
    held: Held = getattr(request.state, "held", None) or Held()
    taken = 0
    try:
        if size <= cap:
            size = 0
            async for part in request.stream():
                size += len(part)
                if size > cap:
                    break
                held.take(len(part))
                taken += len(part)
                parts.append(part)
    finally:
        held.give_back(taken)
    if size > cap:
        raise LinkError("link.too_large", f"a request of more than {cap} bytes is not taken.")
    body = b"".join(parts)
    signed = getattr(request.state, "content_digest", None)
    if signed is not None and content_digest(body) != signed:
        raise LinkError("link.signature", "a body is not the one that its request signed.", "Send it again.")
    return body


def _announced(request: Request) -> int:
    """Return how many bytes the body will have, 0 if that is not said."""
    said = request.headers.get("content-length") or "0"
    if not (said.isascii() and said.isdecimal() and len(said) < 20):
        raise ProtocolError("protocol.malformed", "the length of a body is not a number.")
    return int(said)


class MemberOfRole:
    """A dependency that yields the calling member, or refuses."""

    def __init__(self, *roles: str) -> None:
        self.roles = frozenset(roles)

    async def __call__(
        self, request: Request
    ) -> Member:  # async, or each request would hop to a thread and back
        """Return who calls. Raises LinkError as :meth:`Callers.identify`, and ``link.wrong_role``."""
        callers: Callers = request.app.state.callers
        member = callers.identify(request)
        if member.role not in self.roles:
            raise LinkError("link.wrong_role", f"this route is not for a {member.role}.")
        return member


def build_app(
    *,
    identity: Identity,
    membership: Membership,
    card: CoordinatorCard,
    registry: Registry,
    projects: ProjectRegistry,
    authority: Authority,
    switchboard: Switchboard,
    bodies: Bodies,
    ask: Ask,
) -> FastAPI:
    """Return the coordinator's application."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.state.callers = Callers(registry, identity.public)
    app.add_middleware(SignedAnswers, identity=identity)

    @app.exception_handler(PlasmidError)
    async def _known(_: Request, error: PlasmidError) -> JSONResponse:
        return JSONResponse({"error": error.as_dict()}, status_code=_STATUS.get(error.code, 409))

    @app.exception_handler(RequestValidationError)
    async def _malformed(request: Request, _: RequestValidationError) -> JSONResponse:
        return await _known(request, ProtocolError("protocol.malformed", "a parameter is missing or wrong."))

    app.include_router(_open_routes(card, registry, authority))
    app.include_router(_member_routes(registry, switchboard, bodies))
    app.include_router(_project_routes(registry, projects))
    app.include_router(_membership_routes(membership))
    app.include_router(_site_routes(switchboard, bodies))
    app.include_router(_person_routes(ask, bodies))
    return app


def _open_routes(card: CoordinatorCard, registry: Registry, authority: Authority) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.get("/card")
    async def show_card() -> dict[str, Any]:
        return card.model_dump()

    @router.post("/enrol")
    async def enrol(request: Request) -> dict[str, str]:
        wanted = parse_enrol_request(await read_body(request, MAX_ENROL_BYTES))
        return {"certificate": registry.enrol(wanted, authority)}

    return router


def _member_routes(registry: Registry, switchboard: Switchboard, bodies: Bodies) -> APIRouter:
    router = APIRouter(prefix="/v1", dependencies=[Depends(MemberOfRole("site", "person"))])

    @router.get("/roster")
    async def roster() -> dict[str, Any]:
        return {"sites": [entry.model_dump() for entry in registry.sites()], "online": switchboard.online()}

    @router.get("/bodies/{digest}")
    async def body(digest: str, offset: Offset = 0) -> Response:
        chunk, checksum = bodies.read_chunk(digest, offset)
        return Response(chunk, media_type="application/octet-stream", headers={"X-Chunk-Digest": checksum})

    return router


def _project_routes(registry: Registry, projects: ProjectRegistry) -> APIRouter:
    member = MemberOfRole("site", "person")
    router = APIRouter(prefix="/v1", dependencies=[Depends(member)])
    caller_type = Annotated[Member, Depends(member)]

    @router.get("/members/{name}")
    async def show_member(name: str) -> dict[str, str]:
        for known in registry.members():
            if known.name == name:
                return {
                    "name": name,
                    "role": known.role,
                    "organisation": known.organisation,
                    "key": known.key,
                }
        raise LinkError("link.no_member", f"nobody called {name!r} is enrolled here.")

    @router.post("/projects")
    async def propose(request: Request, caller: caller_type) -> dict[str, str]:
        envelope = parse_envelope(await read_body(request, MAX_PROJECT_BYTES))
        return {"digest": projects.put(envelope, caller, registry.members())}

    @router.get("/projects")
    async def own(caller: caller_type) -> dict[str, Any]:
        return {"projects": [envelope.model_dump(mode="json") for envelope in projects.of(caller.key)]}

    @router.get("/projects/{digest}")
    async def show_project(caller: caller_type, digest: str) -> dict[str, Any]:
        return projects.get(digest, caller.key).model_dump(mode="json")

    return router


def _membership_routes(membership: Membership) -> APIRouter:
    member = MemberOfRole("site", "person")
    router = APIRouter(prefix="/v1", dependencies=[Depends(member)])
    caller_type = Annotated[Member, Depends(member)]

    @router.post("/renew")
    async def renew(request: Request, caller: caller_type) -> dict[str, str]:
        csr = (await read_body(request, MAX_ENROL_BYTES)).decode("ascii", "replace")
        return {"certificate": membership.renew(caller, csr, signed=is_signed(request))}

    @router.post("/leave")
    async def leave(request: Request, caller: caller_type) -> dict[str, str]:
        if await read_body(request, MAX_ENROL_BYTES) != f"{caller.name} leaves".encode():
            raise ProtocolError("protocol.malformed", "the request to leave does not have its form.")
        await membership.leave(caller, signed=is_signed(request))
        return {"left": caller.name}

    return router


def _site_routes(switchboard: Switchboard, bodies: Bodies) -> APIRouter:
    site = MemberOfRole("site")
    router = APIRouter(prefix="/v1/site", dependencies=[Depends(site)])
    caller_type = Annotated[Member, Depends(site)]

    @router.get("/messages")
    async def messages(
        caller: caller_type, boot: str = "", after: Annotated[int, Query(ge=0)] = 0, wait_s: float = 0.0
    ) -> Response:
        waiting = await switchboard.receive(caller.name, boot, after, min(MAX_WAIT_S, max(0.0, wait_s)))
        return Response(_messages(switchboard.boot, waiting), media_type="application/json")

    @router.post("/messages", status_code=204)
    async def say(request: Request, caller: caller_type) -> None:
        signed = parse_signed(await read_body(request, MAX_MESSAGE_BYTES))
        message = open_signed(signed, caller.key)
        if signed.signer != caller.name or not isinstance(message, _FROM_SITE) or message.site != caller.name:
            raise ProtocolError("protocol.signature", f"this is not a message that {caller.name} may send.")
        if isinstance(message, ToSites):
            switchboard.pass_on(caller.name, message.receiver, signed)
        else:
            switchboard.take(caller.name, message, signed)

    @router.put("/bodies/{digest}")
    async def upload(
        request: Request,
        caller: caller_type,
        digest: str,
        run: str,
        offset: Offset,
        total: Annotated[int, Query(ge=1, le=MAX_BODY_BYTES)],
        x_chunk_digest: Annotated[str, Header()],
    ) -> dict[str, int]:
        chunk = await read_body(request, CHUNK_BYTES)
        have = bodies.take_chunk(run, caller.name, digest, offset, total, chunk, x_chunk_digest)
        return {"have": have}

    @router.get("/sums/{run}/{manifest}/{part}")
    def sample(caller: caller_type, run: str, manifest: str, part: str, offset: Offset = 0) -> Response:
        if not switchboard.takes_part(run, caller.name):
            raise LinkError("link.no_body", f"{run} is over, unknown or not for {caller.name}.")
        chunk, checksum = bodies.read_sample(run, manifest, part, offset)  # not async: it hashes
        return Response(chunk, media_type="application/octet-stream", headers={"X-Chunk-Digest": checksum})

    return router


def _messages(boot: str, waiting: Sequence[tuple[int, Signed]]) -> str:
    """Return as many messages as a site reads at once, at least one; the others it asks for next."""
    parts: list[str] = []
    size = values = 0
    for seq, signed in waiting:
        part = f'{{"seq":{seq},"signed":{signed.model_dump_json()}}}'
        size, values = size + len(part), values + count_json(part)
        if parts and (size > MAX_MESSAGE_BYTES or values > MAX_JSON_VALUES - 10):
            break
        parts.append(part)
    return f'{{"boot":"{boot}","messages":[{",".join(parts)}]}}'


def _person_routes(ask: Ask, bodies: Bodies) -> APIRouter:
    person = MemberOfRole("person")
    router = APIRouter(prefix="/v1", dependencies=[Depends(person)])
    caller_type = Annotated[Member, Depends(person)]

    async def opened(request: Request, caller: Member, kind: type[Any]) -> tuple[Any, Signed]:
        signed = parse_signed(await read_body(request, MAX_MESSAGE_BYTES))
        message = open_signed(signed, caller.key)
        if signed.signer != caller.name:
            raise ProtocolError("protocol.signature", f"this is not a message of {caller.name}.")
        if not isinstance(message, kind):
            raise ProtocolError("protocol.malformed", f"this route takes a {kind.__name__}.")
        return message, signed

    @router.put("/given/{digest}")
    async def give(
        request: Request,
        caller: caller_type,
        digest: str,
        offset: Offset,
        total: Annotated[int, Query(ge=1, le=MAX_GIVEN_BYTES)],
        x_chunk_digest: Annotated[str, Header()],
    ) -> dict[str, int]:
        chunk = await read_body(request, CHUNK_BYTES)
        return {"have": bodies.take_given(caller.name, digest, offset, total, chunk, x_chunk_digest)}

    @router.post("/plan")
    async def plan(request: Request, caller: caller_type) -> Any:
        _, signed = await opened(request, caller, RunRequest)
        return await ask("plan", signed, caller.key)

    @router.post("/runs")
    async def create(request: Request, caller: caller_type) -> Any:
        _, signed = await opened(request, caller, RunRequest)
        return await ask("create", signed, caller.key)

    @router.get("/runs")
    async def runs(caller: caller_type) -> Any:
        return {"runs": await ask("runs", caller.key)}

    @router.get("/runs/{run}")
    async def show(caller: caller_type, run: str) -> Any:
        return await ask("show", run, caller.key)

    @router.get("/runs/{run}/log")
    async def log(caller: caller_type, run: str, after: Annotated[int, Query(ge=0)] = 0) -> Any:
        return {"lines": await ask("log", run, after, caller.key)}

    @router.post("/runs/{run}/stop")
    async def stop(request: Request, caller: caller_type, run: str) -> Any:
        message, _ = await opened(request, caller, StopRequest)
        if message.run != run:
            raise ProtocolError("protocol.malformed", "the request names another run.")
        return await ask("stop", run, caller.key)

    return router
