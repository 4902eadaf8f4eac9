"""What every service has: one base in memory, adapters of it by name, callers, and what it says of itself.

Rules
-----
1. A caller has at most :data:`MOST_AT_ONCE` requests under way.
2. Loading and waiting for a hub are done in threads.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic

from plasmid.adapters.pool import Held, Pool
from plasmid.bases.store import BaseModel
from plasmid.endpoint.access import Caller
from plasmid.endpoint.metrics import Measured
from plasmid.endpoint.problems import Problem
from plasmid.endpoint.sources import Sources

MOST_AT_ONCE = 64


class Serving(ABC, Generic[Held]):
    """A base and its adapters; what is asked of them is a subclass's."""

    def __init__(self, base: BaseModel, pool: Pool[Held], sources: Sources) -> None:
        self.base, self.pool, self.sources = base, pool, sources
        self.measured = Measured()
        self.started = int(time.time())
        self._under_way: Counter[str] = Counter()

    @property
    def base_id(self) -> str:
        """The base model's name."""
        return self.base.id

    @property
    @abstractmethod
    def stuck(self) -> bool:
        """Whether what is computed has been under way for too long."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How much waits to be computed."""

    @abstractmethod
    def about_base(self) -> dict[str, Any]:
        """Return what ``/v1/models`` says of the base beside its name."""

    @abstractmethod
    def about(self, held: Held) -> dict[str, Any]:
        """Return what ``/v1/models`` says of the adapter *held* beside its name."""

    @abstractmethod
    async def close(self) -> None:
        """End what is under way."""

    @contextmanager
    def under_way(self, caller: Caller) -> Iterator[None]:
        """Count a request of *caller*. Raises Problem (429) for one too many."""
        key = caller.key or caller.name
        if self._under_way[key] >= MOST_AT_ONCE:
            raise Problem(
                429,
                "rate_limit_exceeded",
                f"You have {MOST_AT_ONCE} requests under way; wait for one to end.",
                kind="requests",
                headers={"Retry-After": "1"},
            )
        self._under_way[key] += 1
        try:
            yield
        finally:
            self._under_way[key] -= 1
            if not self._under_way[key]:
                del self._under_way[key]

    async def adapter(self, name: str, caller: Caller) -> tuple[str, Held | None]:
        """Return the model's whole name, and its adapter, loaded; None is the base alone.

        Raises
        ------
        Problem, PlasmidError
        """
        if name == self.base_id:
            return name, None
        found = await asyncio.to_thread(self.sources.find, name, caller)
        held = self.pool.find(found.key)
        if held is None:
            held = await asyncio.to_thread(self.pool.get, found.key, found.fetch)
        return found.key, held

    async def models(self, caller: Caller) -> list[dict[str, Any]]:
        """Return the base, the operator's adapters, and those in memory that *caller* may know of."""
        base = self.base_id
        shared = {"object": "model", "created": self.started, "owned_by": "plasmid", "root": base}
        found: list[dict[str, Any]] = [{"id": base, **shared, "parent": None, **self.about_base()}]
        held = self.pool.held()
        for key in dict.fromkeys([*self.sources.folders, *held]):
            if await asyncio.to_thread(self.sources.may, key, caller):
                one = held.get(key)
                about = self.sources.warning(key) | ({} if one is None else self.about(one))
                found.append({"id": key, **shared, "parent": base} | about)
        return found

    async def model_of(self, name: str, caller: Caller) -> dict[str, Any]:
        """Return one of :meth:`models`, loaded if it was not. Raises Problem (404)."""
        key, held = await self.adapter(name, caller)
        return next(one for one in await self.models(caller) if one["id"] == key) | (
            {} if held is None else self.about(held)
        )

    def metrics(self) -> str:
        """Return the page of figures."""
        held = self.pool.held()
        return self.measured.text(
            waiting=self.waiting,
            held=len(held),
            held_bytes=sum(one.size_bytes for one in held.values()),
            loads=self.pool.loads,
            evictions=self.pool.evictions,
        )
