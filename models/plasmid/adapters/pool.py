"""The adapters that are in memory: loaded at first use, the least recently used dropped for new ones.

Rules
-----
1. What is held takes at most the capacity; an adapter that is larger by itself is refused. Rows that are
   being computed keep theirs alive for that long, dropped or not.
2. Pinned adapters stay.
3. An adapter that is asked for by many at once is loaded once; a failure is told to all of them, and not
   kept.
4. Base and vocabulary are compared (:func:`plasmid.adapters.fitting.check_fits`) before a tensor is read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from plasmid.adapters.artifact import read_adapter, read_head
from plasmid.adapters.fitting import check_fits
from plasmid.core.errors import ModelError
from plasmid.encoders.mixed import Loaded, MixedModel

Fetch = Callable[[], AbstractContextManager[Path]]
"""Gives an adapter's folder, for as long as it is read."""


class Sized(Protocol):
    """An adapter in memory."""

    @property
    def size_bytes(self) -> int:
        """What it takes."""


Held = TypeVar("Held", bound=Sized)


class Pool(Generic[Held]):
    """Adapters of one model, by key: a name and a revision, say, for a key means the same files for ever.

    Parameters
    ----------
    read
        Returns the adapter in a folder in memory, checked against the model.
    capacity_bytes
        Of factors and heads in memory.

    Attributes
    ----------
    loads, evictions
        How many there have been.
    """

    def __init__(self, read: Callable[[Path], Held], *, capacity_bytes: int) -> None:
        self._read, self.capacity_bytes = read, capacity_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._pinned: set[str] = set()
        self._loading: dict[str, Future[Held]] = {}
        self.loads = self.evictions = 0

    @property
    def size_bytes(self) -> int:
        """What the held adapters take."""
        return sum(loaded.size_bytes for loaded in self._held.values())

    def held(self) -> dict[str, Held]:
        """Return the adapters in memory by key, the least recently used first."""
        with self._lock:
            return dict(self._held)

    def find(self, key: str) -> Held | None:
        """Return the adapter *key* if it is in memory; it is then the most recently used."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def get(self, key: str, fetch: Fetch, *, pin: bool = False) -> Held:
        """Return the adapter *key*, from the folder that *fetch* gives if it is not in memory.

        Waits for the disk or the network.

        Raises
        ------
        ModelError
            ``model.no_room``; what reading it raises.
        PlasmidError
            What *fetch* raises.
        """
        with self._lock:
            if pin:
                self._pinned.add(key)
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
            waiting = self._loading.get(key)
            if waiting is None:
                promise = self._loading[key] = Future[Held]()
        if waiting is not None:
            return waiting.result()
        try:
            with fetch() as folder:
                loaded = self._read(folder)
            with self._lock:
                self._take(key, loaded)
                del self._loading[key]
        except BaseException as error:
            with self._lock:
                self._loading.pop(key, None)
                self._pinned.discard(key)
            promise.set_exception(error)
            raise
        promise.set_result(loaded)
        return loaded

    def _take(self, key: str, loaded: Held) -> None:
        pinned = sum(one.size_bytes for name, one in self._held.items() if name in self._pinned)
        if pinned + loaded.size_bytes > self.capacity_bytes:
            raise ModelError(
                "model.no_room",
                f"the adapter takes {loaded.size_bytes} bytes, but of {self.capacity_bytes} for adapters "
                f"{pinned} are taken by pinned ones.",
                "Raise the capacity for adapters, or pin fewer.",
            )
        for name in [name for name in self._held if name not in self._pinned]:
            if self.size_bytes + loaded.size_bytes <= self.capacity_bytes:
                break
            del self._held[name]
            self.evictions += 1
        self._held[key] = loaded
        self.loads += 1


class AdapterPool(Pool[Loaded]):
    """Adapters with heads on the encoder *model*; reading one raises what :func:`check_fits`,
    :func:`plasmid.adapters.artifact.read_adapter` and :meth:`plasmid.encoders.mixed.MixedModel.hold` raise.
    """

    def __init__(self, model: MixedModel, *, capacity_bytes: int) -> None:
        def read(folder: Path) -> Loaded:
            check_fits(read_head(folder), folder, model.base)
            return model.hold(read_adapter(folder))

        super().__init__(read, capacity_bytes=capacity_bytes)


def at(folder: Path) -> Fetch:
    """Return what gives *folder*, which stays where it is."""
    return lambda: nullcontext(folder)
