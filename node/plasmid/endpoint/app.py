"""The ASGI application: routes, and what every request goes through.

    POST /v1/embeddings     as OpenAI's                     POST /v1/predict    labels, or numbers
    POST /v1/chat/completions, /v1/completions              as OpenAI's, of a causal base
    GET  /v1/models         base, adapters with ``parent``  GET  /v1/models/ID
    GET  /health            the process lives               GET  /ready         it can compute
    GET  /metrics           Prometheus

Rules
-----
1. All of ``/v1`` needs a caller (:mod:`plasmid.endpoint.access`); health, readiness and figures name
   nobody.
2. Inputs are neither stored nor logged, and each answer says so in ``X-Plasmid-Inputs``, with whether they
   have left the caller's machine for this one.
3. Who uses an adapter that was retired is told so, in ``retired``.
4. No web page speaks for its reader, at whatever address (:mod:`plasmid.web.request_checks`): bodies are
   JSON.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from plasmid.adapters.adapter import Vector
from plasmid.endpoint.access import Access, Caller
from plasmid.endpoint.chat import ChatService
from plasmid.endpoint.chat_answers import answered
from plasmid.endpoint.chat_requests import Chat, Complete
from plasmid.endpoint.metrics import TEXT
from plasmid.endpoint.problems import Problem, problem_of
from plasmid.endpoint.requests import Embed, Predict, read
from plasmid.endpoint.service import Service, calibrated
from plasmid.web.request_checks import LOOPBACK_NAMES, Guard, Known, Refusal, named

LOCAL = "not stored, not logged; computed on this machine"
REMOTE = "not stored, not logged; inputs leave the caller for this server"
_ON_LOOPBACK = named(LOOPBACK_NAMES)

AnyService = Service | ChatService
Endpoint = Callable[[Request], Awaitable[Response]]
Work = Callable[[Request, Caller], Awaitable[Any]]


class _Routes:
    def __init__(self, service: AnyService, access: Access, *, local: bool) -> None:
        self._service, self._access = service, access
        self._note = LOCAL if local else REMOTE

    def guarded(self, work: Work) -> Endpoint:
        """Return the endpoint that does *work* for a known caller, and answers what goes wrong."""
        route = work.__name__

        async def endpoint(request: Request) -> Response:
            try:
                caller = await self._caller(request)
                with self._service.under_way(caller):
                    found = await work(request, caller)
                answer: Response = found if isinstance(found, Response) else JSONResponse(found)
            except Exception as error:  # noqa: BLE001 - everything becomes an answer
                answer = problem_of(error).response()
            answer.headers["X-Plasmid-Inputs"] = self._note
            answer.headers["Cache-Control"] = "no-store"
            self._service.measured.requests[route, answer.status_code] += 1
            return answer

        return endpoint

    async def _caller(self, request: Request) -> Caller:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        caller = await self._access.who(token.strip() if kind.lower() == "bearer" and token else None)
        if caller is None:
            raise Problem(
                401,
                "invalid_api_key",
                "The bearer token is missing or is nobody's.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return caller

    async def embeddings(self, request: Request, caller: Caller) -> Any:
        asked = await read(request, Embed)
        name, found, tokens = await self._encoder().embed(asked, caller)
        shown = _base64 if asked.encoding_format == "base64" else _floats
        data = [
            {"object": "embedding", "index": place, "embedding": shown(one)}
            for place, one in enumerate(found)
        ]
        answer = {"object": "list", "data": data, "model": name, "usage": _usage(tokens)}
        return answer | self._service.sources.warning(name)

    async def predict(self, request: Request, caller: Caller) -> Any:
        asked = await read(request, Predict)
        name, adapter, found, tokens = await self._encoder().predict(asked, caller)
        head = adapter.about.head
        data = [{"object": "prediction", "index": place, **head.told(one)} for place, one in enumerate(found)]
        return {
            "object": "list",
            "data": data,
            "model": name,
            "task": head.kind,
            **head.facts(),
            **calibrated(adapter),
            "usage": _usage(tokens),
            **self._service.sources.warning(name),
        }

    async def chat_completions(self, request: Request, caller: Caller) -> Any:
        asked, service = await read(request, Chat), self._writer()
        return await answered(service, await service.chat(asked, caller), asked, request, caller)

    async def completions(self, request: Request, caller: Caller) -> Any:
        asked, service = await read(request, Complete), self._writer()
        return await answered(service, await service.complete(asked, caller), asked, request, caller)

    def _encoder(self) -> Service:
        if isinstance(self._service, Service):
            return self._service
        raise Problem(
            400,
            "model_not_an_encoder",
            f"{self._service.base_id} is a causal language model: ask /v1/chat/completions or "
            "/v1/completions. Embeddings and predictions are for encoders.",
            param="model",
        )

    def _writer(self) -> ChatService:
        if isinstance(self._service, ChatService):
            return self._service
        raise Problem(
            400,
            "model_without_text",
            f"{self._service.base_id} is an encoder and writes no text: ask /v1/predict or /v1/embeddings. "
            "Chat and completions are for causal language models.",
            param="model",
        )

    async def models(self, request: Request, caller: Caller) -> Any:  # noqa: ARG002 - see Work
        return {"object": "list", "data": await self._service.models(caller), "inputs": self._note}

    async def model(self, request: Request, caller: Caller) -> Any:
        return await self._service.model_of(request.path_params["name"], caller)

    async def health(self, request: Request) -> Response:  # noqa: ARG002 - starlette's signature
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:  # noqa: ARG002 - starlette's signature
        stuck = self._service.stuck
        return JSONResponse({"status": "stuck" if stuck else "ready"}, 503 if stuck else 200)

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002 - starlette's signature
        return PlainTextResponse(self._service.metrics(), media_type=TEXT)


def make_app(service: AnyService, access: Access, *, local: bool, known: Known = _ON_LOOPBACK) -> Starlette:
    """Return the application.

    Parameters
    ----------
    local
        It listens on loopback: the caller's inputs stay on this machine.
    known
        Whether a ``Host`` header is one of this server's.
    """
    routes = _Routes(service, access, local=local)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await service.close()
        await access.close()

    async def not_found(_request: Request, _error: Exception) -> Response:
        return Problem(404, "not_found", "There is no such address; see /v1/models.").response()

    async def not_allowed(_request: Request, _error: Exception) -> Response:
        return Problem(405, "method_not_allowed", "This address takes another method.").response()

    def refuse(refusal: Refusal) -> Response:
        return Problem(refusal.status, refusal.code, refusal.sentence).response()

    return Starlette(
        middleware=[Middleware(Guard, known=known, takes="application/json", refuse=refuse)],
        routes=[
            Route("/v1/embeddings", routes.guarded(routes.embeddings), methods=["POST"]),
            Route("/v1/predict", routes.guarded(routes.predict), methods=["POST"]),
            Route("/v1/chat/completions", routes.guarded(routes.chat_completions), methods=["POST"]),
            Route("/v1/completions", routes.guarded(routes.completions), methods=["POST"]),
            Route("/v1/models", routes.guarded(routes.models)),
            Route("/v1/models/{name:path}", routes.guarded(routes.model)),
            Route("/health", routes.health),
            Route("/ready", routes.ready),
            Route("/metrics", routes.metrics),
        ],
        exception_handlers={404: not_found, 405: not_allowed},
        lifespan=lifespan,
    )


def _floats(vector: Vector) -> Any:
    return vector.tolist()


def _base64(vector: Vector) -> Any:
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "total_tokens": tokens}
