"""Answers of a causal model in OpenAI's shapes: whole, or piece by piece as server-sent events.

    https://platform.openai.com/docs/api-reference/chat, /chat-streaming and /completions

Rules
-----
1. A stream is ``data: {chunk}`` and an empty line for each piece, then ``data: [DONE]``. The first chunk
   of a chat has the role, the last the reason of the end; with ``include_usage`` one more has the counts.
2. Nothing is sent before the first piece is there, so that refusals have a status of their own. What goes
   wrong later is one more event, ``data: {"error": ...}``, and the end.
3. While nothing can be sent it is looked whether the caller is still there.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse

from plasmid.endpoint.access import Caller
from plasmid.endpoint.chat import Asked, ChatService
from plasmid.endpoint.chat_requests import Write
from plasmid.endpoint.problems import Problem, problem_of
from plasmid.language.causal import Written

LOOK_S = 0.2
_OBJECTS = {
    "chat": ("chatcmpl", "chat.completion", "chat.completion.chunk"),
    "completion": ("cmpl", "text_completion", "text_completion"),
}
T = TypeVar("T")


async def answered(service: ChatService, asked: Asked, body: Write, request: Request, caller: Caller) -> Any:
    """Return the answer to *asked*: JSON, or a stream of events.

    Raises
    ------
    Problem, PlasmidError
        What :meth:`plasmid.endpoint.chat.ChatService.write` raises, and 499: the caller has gone.
    """
    usage = body.tells_usage
    pieces = service.write(asked)
    if not body.stream:
        text, written = await _while_there(request, _collected(pieces))
        return _Shapes(service, asked).whole(text, written)
    first = await _while_there(request, anext(pieces))
    events = _events(_Shapes(service, asked), first, pieces, service.under_way(caller), usage=usage)
    return StreamingResponse(events, media_type="text/event-stream")


async def _collected(pieces: AsyncIterator[str | Written]) -> tuple[str, Written]:
    texts: list[str] = []
    async for piece in pieces:
        if isinstance(piece, Written):
            return "".join(texts), piece
        texts.append(piece)
    raise AssertionError("a text has an end")


async def _while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what *work* gives; it is cancelled when the caller goes."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=LOOK_S)
            if not task.done() and await request.is_disconnected():
                raise Problem(499, "client_closed_request", "The caller has gone.")
        return task.result()
    finally:
        task.cancel()


async def _events(
    shapes: _Shapes,
    first: str | Written,
    pieces: AsyncGenerator[str | Written],
    under_way: AbstractContextManager[None],
    *,
    usage: bool,
) -> AsyncGenerator[bytes]:
    noted = {"usage": None} if usage else {}
    try:
        with under_way:
            if shapes.chat:
                yield _event(shapes.chunk({"role": "assistant", "content": ""}, None) | noted)
            piece: str | Written = first
            while isinstance(piece, str):
                yield _event(shapes.chunk(shapes.piece(piece), None) | noted)
                piece = await anext(pieces)
            yield _event(shapes.chunk(shapes.piece(""), piece) | noted)
            if usage:
                yield _event(shapes.head(True) | {"choices": [], "usage": shapes.usage(piece)})
            yield b"data: [DONE]\n\n"
    except Exception as error:  # noqa: BLE001 - everything becomes an event
        yield b"data: " + bytes(problem_of(error).response().body) + b"\n\n"
    finally:
        await pieces.aclose()


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class _Shapes:
    """The objects of one answer: they share id, time and model."""

    def __init__(self, service: ChatService, asked: Asked) -> None:
        self._asked = asked
        self.chat = asked.kind == "chat"
        prefix, self._whole, self._chunk = _OBJECTS[asked.kind]
        self._shared = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": asked.name,
            "system_fingerprint": f"fp_{service.base.digest[:12]}",
            **service.sources.warning(asked.name),
        }

    def head(self, streamed: bool) -> dict[str, Any]:
        return {"object": self._chunk if streamed else self._whole, **self._shared}

    def whole(self, text: str, written: Written) -> dict[str, Any]:
        said = (
            {"message": {"role": "assistant", "content": text, "refusal": None}}
            if self.chat
            else {"text": text}
        )
        return self.head(False) | {"choices": [_choice(said, written)], "usage": self.usage(written)}

    def piece(self, text: str) -> dict[str, Any]:
        """Return what a chunk says; the last piece of a chat says nothing."""
        if not self.chat:
            return {"text": text}
        return {"content": text} if text else {}

    def chunk(self, said: dict[str, Any], written: Written | None) -> dict[str, Any]:
        content = {"delta": said} if self.chat else said
        return self.head(True) | {"choices": [_choice(content, written)]}

    def usage(self, written: Written) -> dict[str, int]:
        prompt = len(self._asked.prompt)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": written.tokens,
            "total_tokens": prompt + written.tokens,
        }


def _choice(said: dict[str, Any], written: Written | None) -> dict[str, Any]:
    return {
        "index": 0,
        **said,
        "logprobs": None,
        "finish_reason": None if written is None else written.reason,
    }
