"""One causal model and its adapters, behind two questions: the answer in a chat, and how a text goes on.

Rules
-----
1. One text is written at a time; :data:`MOST_WAITING` more may wait, and who comes then is told so (429).
2. A caller that goes away ends its text at the next pass of the model, waiting or not.
3. What a request is refused for is found before the first piece of an answer is sent.
4. Prompts and answers are held for as long as their request takes. None is written or logged, here or below.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from plasmid.adapters.causal_adapter import CONFIG
from plasmid.adapters.pool import Pool
from plasmid.bases.store import BaseModel, ensure_model
from plasmid.endpoint.access import Caller
from plasmid.endpoint.chat_requests import Chat, Complete, Write
from plasmid.endpoint.problems import Problem
from plasmid.endpoint.service import Settings, pin, placed, sources_of
from plasmid.endpoint.serving import Serving
from plasmid.endpoint.sources import Sources
from plasmid.language.causal import CausalLoaded, CausalModel, Sampling, Written

MOST_WAITING = 16
MOST_UNASKED = {"chat": 1024, "completion": 16}
"""Tokens of an answer where a request does not say how many. OpenAI has the second; the first is ours."""
STUCK_S = 60.0
"""A pass over a part of a prompt, or for a token, that takes longer is one that will not end."""


@dataclass(frozen=True)
class Asked:
    """A request that can be met.

    Attributes
    ----------
    kind
        ``chat`` or ``completion``.
    name
        The model's, whole.
    prompt
        Its tokens.
    """

    kind: str
    name: str
    adapter: CausalLoaded | None
    prompt: list[int]
    sampling: Sampling


class ChatService(Serving[CausalLoaded]):
    """The causal model in memory, and what may be asked of it."""

    def __init__(self, model: CausalModel, pool: Pool[CausalLoaded], sources: Sources) -> None:
        super().__init__(model.base, pool, sources)
        self.model = model
        self._turn = asyncio.Lock()
        self._here = 0

    @classmethod
    def open(cls, settings: Settings, base: BaseModel | None = None) -> ChatService:
        """Return the service, its base and pinned adapters loaded; *base* is the settings', if it is open.

        Raises
        ------
        ModelError, UsageError, HubError, Problem
            As :meth:`plasmid.endpoint.service.Service.open`.
        """
        base = base or ensure_model(settings.base)
        device, dtype = placed(settings)
        sources = sources_of(settings, base.id, needs=CONFIG)
        model = CausalModel.load(base, device=device, dtype=dtype)
        pool = Pool(model.read, capacity_bytes=settings.capacity_bytes)
        pin(settings, sources, pool)
        return cls(model, pool, sources)

    @property
    def stuck(self) -> bool:
        """Whether a pass has been under way for too long."""
        silent = self.model.silent_s
        return silent is not None and silent > STUCK_S

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return max(0, self._here - 1)

    def about_base(self) -> dict[str, Any]:
        """Return what ``/v1/models`` says of the base beside its name."""
        chat = self.model.prompts.template is not None
        return {"max_model_len": self.model.longest, "task": "text-generation", "chat": chat}

    def about(self, held: CausalLoaded) -> dict[str, Any]:
        """Return what ``/v1/models`` says of the adapter *held* beside its name."""
        return {**self.about_base(), "rank": held.rank}

    async def close(self) -> None:
        """Do nothing: a text ends with its request."""

    # -- the two questions -------------------------------------------------------------------------

    async def chat(self, asked: Chat, caller: Caller) -> Asked:
        """Return the request, its adapter loaded, its messages as tokens.

        Raises
        ------
        Problem, PlasmidError
        """
        if self.model.prompts.template is None:
            raise Problem(
                400,
                "model_without_chat",
                f"{self.base_id} goes on with texts and has no chat template: ask /v1/completions.",
                param="model",
            )
        name, adapter = await self.adapter(asked.model, caller)
        messages = [one.message() for one in asked.messages]
        prompt = await asyncio.to_thread(self.model.prompts.chat, messages)
        return self._fitting("chat", name, adapter, prompt, asked, "messages")

    async def complete(self, asked: Complete, caller: Caller) -> Asked:
        """Return the request, its adapter loaded, its prompt as tokens.

        Raises
        ------
        Problem, PlasmidError
        """
        name, adapter = await self.adapter(asked.model, caller)
        prompt = await asyncio.to_thread(self.model.prompts.text, asked.text)
        return self._fitting("completion", name, adapter, prompt, asked, "prompt")

    def _fitting(
        self, kind: str, name: str, adapter: CausalLoaded | None, prompt: list[int], asked: Write, param: str
    ) -> Asked:
        room = self.model.longest - len(prompt)
        if room < (asked.most or 1):
            wanted = "" if asked.most is None else f" and {asked.most} tokens of answer are asked for"
            raise Problem(
                400,
                "context_length_exceeded",
                f"This model's maximum context length is {self.model.longest} tokens; your {param} has "
                f"{len(prompt)}{wanted}. Shorten it, or ask for fewer tokens.",
                param=param,
            )
        most = asked.most or min(room, MOST_UNASKED[kind])
        return Asked(kind, name, adapter, prompt, asked.sampling(most))

    async def write(self, asked: Asked) -> AsyncGenerator[str | Written]:
        """Yield the pieces of the text, then how it ended. Closing it, or cancelling, ends the text.

        Raises
        ------
        Problem
            429: too many wait.
        PlasmidError
            What :meth:`plasmid.language.causal.CausalModel.write` raises.
        """
        if self._here > MOST_WAITING:
            raise Problem(
                429,
                "rate_limit_exceeded",
                f"{MOST_WAITING} requests wait already, and one text is written at a time; try again later.",
                kind="requests",
                headers={"Retry-After": "5"},
            )
        self._here += 1
        began, first = time.monotonic(), True
        try:
            async with self._turn, aclosing(self._written(asked)) as pieces:
                async for piece in pieces:
                    if first:
                        self.measured.first.add(time.monotonic() - began)
                        first = False
                    yield piece
        finally:
            self._here -= 1

    async def _written(self, asked: Asked) -> AsyncGenerator[str | Written]:
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        loop, gone = asyncio.get_running_loop(), threading.Event()

        def tell(text: str) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, text)

        def write() -> Written:
            return self.model.write(
                asked.prompt, asked.adapter, asked.sampling, tell=tell, cancelled=gone.is_set
            )

        work = asyncio.ensure_future(asyncio.to_thread(write))
        work.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (text := await pieces.get()) is not None:
                yield text
            written = work.result()
            self.measured.tokens += len(asked.prompt)
            self.measured.written += written.tokens
            yield written
        finally:
            gone.set()  # the thread ends by itself, at its next pass; the model's own lock waits for it
            work.add_done_callback(_looked_at)


def _looked_at(work: asyncio.Future[Written]) -> None:
    """Take note of the error of a text whose caller has gone, so that nobody is told of it later."""
    if not work.cancelled():
        work.exception()
