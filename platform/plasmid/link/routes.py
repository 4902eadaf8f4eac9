"""The HTTP routes of the coordinator.

Rules
-----
1. ``/v1/card`` and ``/v1/enrol`` are open to everyone; every other route needs the certificate of an
   enrolled member of the right role. Roles are checked by the router, not by the handlers.
2. A body is read up to the route's cap and no further.
3. Only known errors are answered, as ``{"error": {"code", "message", "hint"}}``.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from plasmid.core.errors import LinkError, PlasmidError, ProtocolError
from plasmid.link.authority import Authority
from plasmid.link.bodies import Bodies
from plasmid.link.registry import Member, Registry
from plasmid.link.switchboard import Switchboard
from plasmid.privacy.statements import Advert, Consent, Contribution, Ready, Shares
from plasmid.protocol.body import CHUNK_BYTES, MAX_BODY_BYTES
from plasmid.protocol.enrolment import CoordinatorCard, EnrolRequest
from plasmid.protocol.messages import (
    Admission,
    Blobs,
    Bundles,
    Failed,
    Heartbeat,
    RunRequest,
    StopRequest,
    open_signed,
    parse_signed,
)

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
MAX_ENROL_BYTES = 64 * 1024
MAX_WAIT_S = 30.0
_FROM_SITE = (Admission, Advert, Bundles, Blobs, Ready, Contribution, Consent, Shares, Heartbeat, Failed)
_STATUS = {"link.not_enrolled": 401, "link.wrong_role": 403, "link.no_body": 404, "run.unknown": 404,
           "link.too_large": 413}  # fmt: skip

Offset = Annotated[int, Query(ge=0, le=MAX_BODY_BYTES)]
Ask = Callable[..., Awaitable[Any]]
"""Calls the controller: ``await ask(method, *arguments)``."""


async def read_body(request: Request, cap: int) -> bytes:
    """Return the request's body. Raises LinkError (``link.too_large``) at more than *cap* bytes."""
    parts, size = [], int(request.headers.get("content-length") or 0)
    if size <= cap:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > cap:
                break
            parts.append(part)
    if size > cap:
        raise LinkError("link.too_large", f"a request of more than {cap} bytes is not taken.")
    return b"".join(parts)


def member_of_role(registry: Registry, *roles: str) -> Callable[[Request], Awaitable[Member]]:
    """Return a dependency that yields the calling member, or refuses."""

    async def check(request: Request) -> Member:  # async, or each request would hop to a thread and back
        certificate = getattr(request.state, "peer_certificate", None)
        member = registry.by_certificate(certificate) if certificate else None
        if member is None:
            raise LinkError("link.not_enrolled", "this route needs the certificate of an enrolled member.")
        if member.role not in roles:
            raise LinkError("link.wrong_role", f"this route is not for a {member.role}.")
        return member

    return check


def build_app(
    *,
    card: CoordinatorCard,
    registry: Registry,
    authority: Authority,
    switchboard: Switchboard,
    bodies: Bodies,
    ask: Ask,
) -> FastAPI:
    """Return the coordinator's application."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.exception_handler(PlasmidError)
    async def _known(_: Request, error: PlasmidError) -> JSONResponse:
        return JSONResponse({"error": error.as_dict()}, status_code=_STATUS.get(error.code, 409))

    @app.exception_handler(RequestValidationError)
    async def _malformed(request: Request, _: RequestValidationError) -> JSONResponse:
        return await _known(request, ProtocolError("protocol.malformed", "a parameter is missing or wrong."))

    app.include_router(_open_routes(card, registry, authority))
    app.include_router(_member_routes(registry, switchboard, bodies))
    app.include_router(_site_routes(registry, switchboard, bodies))
    app.include_router(_person_routes(registry, ask))
    return app


def _open_routes(card: CoordinatorCard, registry: Registry, authority: Authority) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.get("/card")
    async def show_card() -> dict[str, Any]:
        return card.model_dump()

    @router.post("/enrol")
    async def enrol(request: Request) -> dict[str, str]:
        try:
            wanted = EnrolRequest.model_validate_json(await read_body(request, MAX_ENROL_BYTES))
        except ValidationError as error:
            raise ProtocolError(
                "protocol.malformed", "the enrolment request does not have its form."
            ) from error
        return {"certificate": registry.enrol(wanted, authority)}

    return router


def _member_routes(registry: Registry, switchboard: Switchboard, bodies: Bodies) -> APIRouter:
    router = APIRouter(prefix="/v1", dependencies=[Depends(member_of_role(registry, "site", "person"))])

    @router.get("/roster")
    async def roster() -> dict[str, Any]:
        return {"sites": [entry.model_dump() for entry in registry.sites()], "online": switchboard.online()}

    @router.get("/bodies/{digest}")
    async def body(digest: str, offset: Offset = 0) -> Response:
        chunk, checksum = bodies.read_chunk(digest, offset)
        return Response(chunk, media_type="application/octet-stream", headers={"X-Chunk-SHA256": checksum})

    return router


def _site_routes(registry: Registry, switchboard: Switchboard, bodies: Bodies) -> APIRouter:
    site = member_of_role(registry, "site")
    router = APIRouter(prefix="/v1/site", dependencies=[Depends(site)])
    caller_type = Annotated[Member, Depends(site)]

    @router.get("/messages")
    async def messages(
        caller: caller_type, boot: str = "", after: Annotated[int, Query(ge=0)] = 0, wait_s: float = 0.0
    ) -> dict[str, Any]:
        waiting = await switchboard.receive(caller.name, boot, after, min(MAX_WAIT_S, max(0.0, wait_s)))
        return {
            "boot": switchboard.boot,
            "messages": [{"seq": seq, "signed": signed.model_dump(mode="json")} for seq, signed in waiting],
        }

    @router.post("/messages", status_code=204)
    async def say(request: Request, caller: caller_type) -> None:
        signed = parse_signed(await read_body(request, MAX_MESSAGE_BYTES))
        message = open_signed(signed, caller.key)
        if signed.signer != caller.name or not isinstance(message, _FROM_SITE) or message.site != caller.name:
            raise ProtocolError("protocol.signature", f"this is not a message that {caller.name} may send.")
        switchboard.take(caller.name, message, signed)

    @router.put("/bodies/{digest}")
    async def upload(
        request: Request,
        caller: caller_type,
        digest: str,
        run: str,
        offset: Offset,
        total: Annotated[int, Query(ge=1, le=MAX_BODY_BYTES)],
        x_chunk_sha256: Annotated[str, Header()],
    ) -> dict[str, int]:
        chunk = await read_body(request, CHUNK_BYTES)
        have = bodies.take_chunk(run, caller.name, digest, offset, total, chunk, x_chunk_sha256)
        return {"have": have}

    return router


def _person_routes(registry: Registry, ask: Ask) -> APIRouter:
    person = member_of_role(registry, "person")
    router = APIRouter(prefix="/v1", dependencies=[Depends(person)])
    caller_type = Annotated[Member, Depends(person)]

    async def opened(request: Request, caller: Member, kind: type[Any]) -> Any:
        message = open_signed(parse_signed(await read_body(request, MAX_MESSAGE_BYTES)), caller.key)
        if not isinstance(message, kind):
            raise ProtocolError("protocol.malformed", f"this route takes a {kind.__name__}.")
        return message

    @router.post("/plan")
    async def plan(request: Request, caller: caller_type) -> Any:
        return await ask("plan", await opened(request, caller, RunRequest))

    @router.post("/runs")
    async def create(request: Request, caller: caller_type) -> Any:
        return await ask("create", await opened(request, caller, RunRequest), caller.name)

    @router.get("/runs")
    async def runs() -> Any:
        return {"runs": await ask("runs")}

    @router.get("/runs/{run}")
    async def show(run: str) -> Any:
        return await ask("show", run)

    @router.get("/runs/{run}/log")
    async def log(run: str, after: Annotated[int, Query(ge=0)] = 0) -> Any:
        return {"lines": await ask("log", run, after)}

    @router.post("/runs/{run}/stop")
    async def stop(request: Request, caller: caller_type, run: str) -> Any:
        message = await opened(request, caller, StopRequest)
        if message.run != run:
            raise ProtocolError("protocol.malformed", "the request names another run.")
        return await ask("stop", run, caller.name)

    return router
