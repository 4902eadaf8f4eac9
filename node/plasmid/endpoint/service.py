"""One base model and its adapters, behind two questions: embeddings, and predictions.

Rules
-----
1. Inputs are held for as long as their request takes. None is written or logged, here or below.
2. Tokenizing, loading and waiting for a hub are done in threads; the event loop only hands rows on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasmid.adapters.adapter import Vector
from plasmid.adapters.pool import AdapterPool, Pool
from plasmid.bases.specs import Cell
from plasmid.bases.store import BaseModel, ensure_model
from plasmid.bases.tokenizing import Encoded
from plasmid.core.errors import UsageError
from plasmid.encoders.batching import Batcher, Watched
from plasmid.encoders.mixed import Item, Loaded, MixedModel
from plasmid.encoders.slots import encode_covariates
from plasmid.endpoint.access import Caller
from plasmid.endpoint.contract import clean, input_column, one_column, wanted
from plasmid.endpoint.problems import Problem
from plasmid.endpoint.requests import Embed, Predict, texts
from plasmid.endpoint.serving import Serving
from plasmid.endpoint.sources import Sources
from plasmid.release.folder import Trust

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
    trust, unsigned
        Who may have signed what comes from the hub, and whether nobody need have
        (:class:`plasmid.endpoint.sources.Sources`).
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
    trust: Trust | None = None
    unsigned: bool = False


def placed(settings: Settings) -> tuple[str, Any]:
    """Return the device and torch's type of the weights."""
    import torch

    gpu = torch.cuda.is_available()
    device = ("cuda" if gpu else "cpu") if settings.device == "auto" else settings.device
    half = settings.precision == "bf16" or (settings.precision == "auto" and device.startswith("cuda"))
    return device, torch.bfloat16 if half else torch.float32


def sources_of(settings: Settings, base_id: str, *, needs: str = "head.json") -> Sources:
    """Return where adapters come from; one of a hub is one that has the file *needs*.

    Raises
    ------
    UsageError
        ``usage.adapter_name``: an adapter's name is the base's.
    HubError
        ``hub.url``: the hub's address is none.
    """
    if base_id in settings.adapters:
        raise UsageError(
            "usage.adapter_name",
            f"an adapter cannot be called {base_id}: the base model is.",
            "Give it another name: --adapter NAME=FOLDER.",
        )
    folders = {name: Path(folder) for name, folder in settings.adapters.items()}
    return Sources(
        folders,
        settings.hub,
        personal=settings.personal,
        trust=settings.trust,
        unsigned=settings.unsigned,
        needs=needs,
    )


def pin(settings: Settings, sources: Sources, pool: Pool[Any]) -> None:
    """Load the pinned adapters. Raises Problem or PlasmidError: one is not to be had."""
    for name in settings.pinned:
        found = sources.find(name, Caller("operator"))
        pool.get(found.key, found.fetch, pin=True)


class Service(Serving[Loaded]):
    """The encoder in memory, and what may be asked of it."""

    def __init__(self, model: MixedModel, pool: AdapterPool, sources: Sources, *, target_ms: float) -> None:
        super().__init__(model.base, pool, sources)
        self.model = model
        self.batcher = Batcher(
            model.run,
            target_s=target_ms / 1000,
            watched=Watched(self.measured.on_pass, self.measured.latency.add),
        )

    @classmethod
    def open(cls, settings: Settings, base: BaseModel | None = None) -> Service:
        """Return the service, its base and pinned adapters loaded; *base* is the settings', if it is open.

        Raises
        ------
        ModelError
            The base or a pinned adapter cannot be loaded.
        UsageError
            ``usage.adapter_name``: an adapter's name is the base's.
        HubError
            ``hub.url``: the hub's address is none.
        """
        base = base or ensure_model(settings.base)
        device, dtype = placed(settings)
        sources = sources_of(settings, base.id)
        model = MixedModel.load(base, device=device, dtype=dtype)
        pool = AdapterPool(model, capacity_bytes=settings.capacity_bytes)
        pin(settings, sources, pool)
        service = cls(model, pool, sources, target_ms=settings.target_ms)
        service.warm_up()
        return service

    def warm_up(self) -> None:
        """Learn what passes take here, before the first request."""
        letters = 14 * {"text": "a ", "molecule": "C"}.get(self.model.base.entry.input, "A")
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
    def stuck(self) -> bool:
        """Whether a forward pass has been under way for too long."""
        since = self.batcher.since_s
        return since is not None and time.monotonic() - since > STUCK_S

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
        name, adapter = await self.adapter(asked.model, caller)
        values = texts(asked.input)
        encoded = await asyncio.to_thread(self._read_texts, values, adapter, asked.truncate)
        found = await self.batcher.submit([Item(tokens, adapter, scored=False) for tokens in encoded])
        return name, found, self._count(encoded)

    async def predict(self, asked: Predict, caller: Caller) -> tuple[str, Loaded, list[Vector], int]:
        """Return the model's name, the adapter, its answer for each row, and the tokens of all.

        Raises
        ------
        Problem, PlasmidError
        """
        name, adapter = await self.adapter(asked.model, caller)
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

    @property
    def waiting(self) -> int:
        """Rows that wait for a pass."""
        return self.batcher.waiting

    def about_base(self) -> dict[str, Any]:
        """Return what ``/v1/models`` says of the base beside its name."""
        return {"max_model_len": self.model.longest, "task": "embeddings"}

    def about(self, held: Loaded) -> dict[str, Any]:
        """Return what ``/v1/models`` says of the adapter *held* beside its name."""
        about = held.about
        return {
            "max_model_len": about.max_length,
            "task": about.head.kind,
            **about.head.facts(),
            "columns": list(wanted(about)),
            **calibrated(held),
        }

    async def close(self) -> None:
        """End what is under way."""
        await self.batcher.close()


ANY_NUMBER = 2**30
"""Of tokens: nothing is cut."""


def calibrated(adapter: Loaded) -> dict[str, bool]:
    """Return whether the adapter's probabilities were calibrated; nothing where it gives none."""
    about = adapter.about
    return {"calibrated": about.temperature is not None} if about.head.probabilistic else {}


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
