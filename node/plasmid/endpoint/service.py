"""One base model and its adapters, behind two questions: embeddings, and predictions.

Rules
-----
1. Inputs are held for as long as their request takes. None is written or logged, here or below.
2. Tokenizing, loading and waiting for a hub are done in threads; the event loop only hands rows on.
3. A caller has at most :data:`MOST_AT_ONCE` requests under way.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasmid.core.errors import UsageError
from plasmid.endpoint.access import Caller
from plasmid.endpoint.asked import Embed, Predict, texts
from plasmid.endpoint.contract import clean, input_column, one_column, wanted
from plasmid.endpoint.measured import Measured
from plasmid.endpoint.problems import Problem
from plasmid.endpoint.sources import Sources
from plasmid.models.adapter import Vector
from plasmid.models.batching import Batcher, Watched
from plasmid.models.mixed import Item, Loaded, MixedModel
from plasmid.models.pool import AdapterPool
from plasmid.models.specs import Cell, encode_covariates
from plasmid.models.store import ensure_model
from plasmid.models.tokenizing import Encoded

MOST_AT_ONCE = 64
STUCK_S = 60.0
"""A forward pass that takes longer is one that will not end."""


@dataclass(frozen=True)
class Settings:
    """What a server is started with.

    Attributes
    ----------
    base
        The base model's id in the catalogue.
    adapters
        The operator's own adapters: folders by name.
    pinned
        Names, of these or of a hub's, that are loaded at the start and stay.
    hub
        Where other adapters come from, by id; None: nowhere.
    capacity_bytes
        Of adapters in memory.
    target_ms
        The latency that 95 of 100 rows should stay under.
    device, precision
        ``auto`` is a GPU in bfloat16 if there is one, else the CPU in float32.
    personal
        Who runs the server is who calls it (:func:`plasmid.endpoint.access.server_token`).
    """

    base: str
    adapters: Mapping[str, str]
    pinned: tuple[str, ...] = ()
    hub: str | None = None
    capacity_bytes: int = 2 * 2**30
    target_ms: float = 200.0
    device: str = "auto"
    precision: str = "auto"
    personal: bool = False


class Service:
    """The model in memory, and who may ask it what."""

    def __init__(self, model: MixedModel, pool: AdapterPool, sources: Sources, *, target_ms: float) -> None:
        self.model, self.pool, self.sources = model, pool, sources
        self.measured = Measured()
        self.batcher = Batcher(
            model.run,
            target_s=target_ms / 1000,
            watched=Watched(self.measured.on_pass, self.measured.latency.add),
        )
        self.started = int(time.time())
        self._under_way: Counter[str] = Counter()

    @classmethod
    def open(cls, settings: Settings) -> Service:
        """Return the service, its base and pinned adapters loaded.

        Raises
        ------
        ModelError
            The base or a pinned adapter cannot be loaded.
        UsageError
            ``usage.adapter_name``: an adapter's name is the base's.
        HubError
            ``hub.url``: the hub's address is none.
        """
        import torch

        gpu = torch.cuda.is_available()
        device = ("cuda" if gpu else "cpu") if settings.device == "auto" else settings.device
        half = settings.precision == "bf16" or (settings.precision == "auto" and device.startswith("cuda"))
        base = ensure_model(settings.base)
        if base.id in settings.adapters:
            raise UsageError(
                "usage.adapter_name",
                f"an adapter cannot be called {base.id}: the base model is.",
                "Give it another name: --adapter NAME=FOLDER.",
            )
        model = MixedModel.load(base, device=device, dtype=torch.bfloat16 if half else torch.float32)
        pool = AdapterPool(model, capacity_bytes=settings.capacity_bytes)
        folders = {name: Path(folder) for name, folder in settings.adapters.items()}
        sources = Sources(folders, settings.hub, personal=settings.personal)
        for name in settings.pinned:
            found = sources.find(name, Caller("operator"))
            pool.get(found.key, found.fetch, pin=True)
        service = cls(model, pool, sources, target_ms=settings.target_ms)
        service.warm_up()
        return service

    def warm_up(self) -> None:
        """Learn what passes take here, before the first request."""
        letters = "A" * 14 if self.model.base.entry.input == "protein" else "a " * 14
        (tokens,) = self.model.tokens([letters], self.model.longest)
        best: dict[int, float] = {}
        for _ in range(4):
            for rows in (1, 4, 16):
                began = time.monotonic()
                self.model.run([Item(tokens, None, scored=False)] * rows)
                seconds, padded = time.monotonic() - began, rows * len(tokens.ids)
                best[padded] = min(seconds, best.get(padded, seconds))
        self.batcher.pace.start(list(best.items()))

    @property
    def base_id(self) -> str:
        """The base model's name."""
        return self.model.base.id

    @property
    def stuck(self) -> bool:
        """Whether a forward pass has been under way for too long."""
        since = self.batcher.since_s
        return since is not None and time.monotonic() - since > STUCK_S

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

    # -- the two questions -------------------------------------------------------------------------

    async def embed(self, asked: Embed, caller: Caller) -> tuple[str, list[Vector], int]:
        """Return the model's name, float32 [hidden] of each input, and the tokens of all.

        Raises
        ------
        Problem, PlasmidError
        """
        if asked.dimensions not in (None, self.model.hidden):
            raise Problem(
                400,
                "dimensions_unsupported",
                f"{self.base_id} gives {self.model.hidden} dimensions, not {asked.dimensions}.",
                param="dimensions",
            )
        name, adapter = await self._adapter(asked.model, caller)
        values = texts(asked.input)
        encoded = await asyncio.to_thread(self._read_texts, values, adapter, asked.truncate)
        found = await self.batcher.submit([Item(tokens, adapter, scored=False) for tokens in encoded])
        return name, found, self._count(encoded)

    async def predict(self, asked: Predict, caller: Caller) -> tuple[str, Loaded, list[Vector], int]:
        """Return the model's name, the adapter, float32 [labels] of each row, and the tokens of all.

        Raises
        ------
        Problem, PlasmidError
        """
        name, adapter = await self._adapter(asked.model, caller)
        if adapter is None:
            raise Problem(
                400,
                "model_without_labels",
                f"{self.base_id} is the base model and has no labels: name an adapter of it.",
                param="model",
            )
        columns, rows = _columns(asked, adapter)
        items = await asyncio.to_thread(self._read_rows, columns, rows, adapter, asked.truncate)
        found = await self.batcher.submit(items)
        return name, adapter, found, self._count([item.tokens for item in items])

    async def _adapter(self, name: str, caller: Caller) -> tuple[str, Loaded | None]:
        if name == self.base_id:
            return name, None
        found = await asyncio.to_thread(self.sources.find, name, caller)
        held = self.pool.find(found.key)
        if held is None:
            held = await asyncio.to_thread(self.pool.get, found.key, found.fetch)
        return found.key, held

    def _read_texts(self, values: list[str], adapter: Loaded | None, truncate: bool) -> list[Encoded]:
        about = None if adapter is None else adapter.about
        column = input_column(about, self.model.base.entry.input)
        return self._encode(one_column(values, column), adapter, truncate)

    def _read_rows(
        self, columns: Mapping[str, Sequence[Cell]], rows: int, adapter: Loaded, truncate: bool
    ) -> list[Item]:
        about = adapter.about
        cleaned = clean(columns, wanted(about), rows)
        encoded = self._encode([str(cell) for cell in cleaned[about.input]], adapter, truncate)
        slots = encode_covariates(about.head.covariates, cleaned, rows)
        return [Item(one, adapter, True, slots[row]) for row, one in enumerate(encoded)]

    def _encode(self, values: list[str], adapter: Loaded | None, truncate: bool) -> list[Encoded]:
        most = self.model.longest if adapter is None else min(adapter.about.max_length, self.model.longest)
        if truncate:
            return self.model.tokens(values, most)
        encoded = self.model.tokens(values, ANY_NUMBER)
        for place, one in enumerate(encoded):
            if len(one.ids) > most:
                raise Problem(
                    400,
                    "context_length_exceeded",
                    f"Input {place + 1} has {len(one.ids)} tokens, special ones included; the model reads "
                    f'at most {most}. Shorten it, or ask with "truncate": true.',
                    param="input",
                )
        return encoded

    def _count(self, encoded: Sequence[Encoded]) -> int:
        tokens = sum(len(one.ids) for one in encoded)
        self.measured.tokens += tokens
        return tokens

    # -- what there is -----------------------------------------------------------------------------

    async def models(self, caller: Caller) -> list[dict[str, Any]]:
        """Return the base, the operator's adapters, and those in memory that *caller* may know of."""
        base = self.base_id
        shared = {"object": "model", "created": self.started, "owned_by": "plasmid", "root": base}
        found: list[dict[str, Any]] = [
            {"id": base, **shared, "parent": None, "max_model_len": self.model.longest, "task": "embeddings"}
        ]
        held = self.pool.held()
        for key in dict.fromkeys([*self.sources.folders, *held]):
            if await asyncio.to_thread(self.sources.may, key, caller):
                one = held.get(key)
                about = self.sources.warning(key) | ({} if one is None else _about(one))
                found.append({"id": key, **shared, "parent": base} | about)
        return found

    async def model_of(self, name: str, caller: Caller) -> dict[str, Any]:
        """Return one of :meth:`models`, loaded if it was not. Raises Problem (404)."""
        key, adapter = await self._adapter(name, caller)
        return next(one for one in await self.models(caller) if one["id"] == key) | (
            {} if adapter is None else _about(adapter)
        )

    def metrics(self) -> str:
        """Return the page of figures."""
        held = self.pool.held()
        return self.measured.text(
            waiting=self.batcher.waiting,
            held=len(held),
            held_bytes=sum(one.size_bytes for one in held.values()),
            loads=self.pool.loads,
            evictions=self.pool.evictions,
        )


ANY_NUMBER = 2**30
"""Of tokens: nothing is cut."""


def _about(adapter: Loaded) -> dict[str, Any]:
    about = adapter.about
    return {
        "max_model_len": about.max_length,
        "task": "classification",
        "labels": about.head.labels,
        "columns": list(wanted(about)),
        "calibrated": about.temperature is not None,
    }


def _columns(asked: Predict, adapter: Loaded) -> tuple[dict[str, list[Cell]], int]:
    """Return the request's cells by column, and the number of rows."""
    if (asked.input is None) == (asked.rows is None):
        raise Problem(400, "invalid_request", "Give either input or rows.", param="input")
    if asked.rows is None:
        values: list[Cell] = list(texts(asked.input or []))
        return {adapter.about.input: values}, len(values)
    names = list(wanted(adapter.about))
    given = {name for row in asked.rows for name in row}
    return {name: [row.get(name) for row in asked.rows] for name in names if name in given}, len(asked.rows)
