"""Rows that come one by one share forward passes: how many go into one, and how long it waits for them.

Rules
-----
1. A row waits for at most the pass that is under way, and is computed in the next. So a pass may take half
   of the latency target, by seconds = fixed + each x padded tokens: their ratio is measured at the start,
   the machine's speed is followed from pass to pass.
2. Where the machine is too slow for that, a pass is not made so small that its fixed part is more than a
   fifth of it: small passes would only make all wait for longer.
3. A batch waits for another row only while that costs those who wait less than the fixed part of a pass,
   which is what sharing it saves; not for longer than two such rows usually take to come, nor for a quarter
   of the target.
4. Rows are taken in the order in which they came. One is always taken, however long it is.
5. More rows than can be computed within :data:`PATIENCE_TARGETS` targets are refused, not queued: their
   callers learn at once that they should come back later.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from plasmid.adapters.adapter import Vector
from plasmid.core.errors import ModelError
from plasmid.encoders.mixed import Item

MAX_ROWS = 256
"""Rows of one batch."""
PATIENCE_TARGETS = 20
LEAST_QUEUE_ROWS = 256
"""Rows that may always wait, however slow the machine is."""
_SHARE = 0.1
"""What one pass counts for in the machine's speed."""


@dataclass
class Pace:
    """What passes take, learned from them. Pure: times are handed in.

    Parameters
    ----------
    target_s
        The latency that 95 of 100 rows should stay under.

    Attributes
    ----------
    fixed_s, each_s
        Seconds of a pass, and of each padded token in it.
    """

    target_s: float
    fixed_s: float = 0.0
    each_s: float = 0.0
    _gap_s: float = float("inf")
    _last_s: float | None = None

    def start(self, measured: Sequence[tuple[int, float]]) -> None:
        """Learn both parts from *measured* passes: padded tokens, of two sizes or more, and seconds."""
        tokens, seconds = (np.array(column, float) for column in zip(*measured, strict=True))
        slope = float(np.polynomial.Polynomial.fit(tokens, seconds, 1).convert().coef[1])
        most = float(seconds.mean() / tokens.mean())
        self.each_s = min(max(slope, most / 10), most)  # between nine tenths fixed and nothing
        self.fixed_s = float(seconds.mean()) - self.each_s * float(tokens.mean())

    def passed(self, tokens: int, seconds: float) -> None:
        """Learn from a pass over *tokens* padded tokens that took *seconds*."""
        if not self.each_s:
            self.each_s = seconds / tokens
        slower = (seconds / self.seconds(tokens)) ** _SHARE
        self.each_s, self.fixed_s = self.each_s * slower, self.fixed_s * slower

    def came(self, now_s: float) -> None:
        """Learn that rows came at *now_s*."""
        if self._last_s is not None:
            gap = now_s - self._last_s
            self._gap_s = gap if self._gap_s == float("inf") else 0.8 * self._gap_s + 0.2 * gap
        self._last_s = now_s

    def seconds(self, tokens: int) -> float:
        """Return what a pass over *tokens* padded tokens should take; 0 where nothing is known."""
        return self.fixed_s + self.each_s * tokens

    def fits(self, tokens: int) -> bool:
        """Return whether *tokens* padded tokens are few enough for one pass (rules 1 and 2)."""
        return self.seconds(tokens) <= self.target_s / 2 or self.each_s * tokens <= 4 * self.fixed_s

    def wait_s(self, now_s: float, oldest_s: float, rows: int) -> float:
        """Return how long to wait for another row at *now_s* (rule 3).

        Parameters
        ----------
        oldest_s, rows
            When the oldest of those who wait came, and their number.
        """
        if self._gap_s * rows >= self.fixed_s:
            return 0.0
        return max(0.0, min(2 * self._gap_s, oldest_s + self.target_s / 4 - now_s))


@dataclass
class Watched:
    """What the batcher tells: sizes and times of passes, latencies of rows, in seconds."""

    on_pass: Callable[[int, int, float], None] = lambda _rows, _adapters, _seconds: None
    on_row: Callable[[float], None] = lambda _seconds: None


@dataclass
class _Waiting:
    item: Item
    came_s: float
    done: asyncio.Future[Vector] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """Runs rows through *run*, a batch at a time, in a thread of its own. Use it in one event loop.

    Parameters
    ----------
    run
        :meth:`plasmid.encoders.mixed.MixedModel.run`.
    clock
        Seconds that never go back.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], list[Vector]],
        *,
        target_s: float,
        watched: Watched | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pace = Pace(target_s)
        self._run, self._clock, self._watched = run, clock, watched or Watched()
        self._queue: deque[_Waiting] = deque()
        self._more = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "batches")
        self._task: asyncio.Task[None] | None = None
        self.since_s: float | None = None
        """When the pass under way began, None while there is none."""

    @property
    def waiting(self) -> int:
        """Rows that wait."""
        return len(self._queue)

    async def submit(self, items: Sequence[Item]) -> list[Vector]:
        """Return what *run* gives for each of *items*.

        Raises
        ------
        ModelError
            ``model.busy``: too many rows wait already.
        """
        self._refuse_if_full(items)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        now = self._clock()
        self.pace.came(now)
        waiting = [_Waiting(item, now) for item in items]
        self._queue.extend(waiting)
        self._more.set()
        try:
            return list(await asyncio.gather(*(one.done for one in waiting)))
        finally:
            for one in waiting:  # a caller that hung up needs no result
                one.done.cancel()

    def _refuse_if_full(self, items: Sequence[Item]) -> None:
        before = len(self._queue)
        tokens = sum(len(one.item.tokens.ids) for one in self._queue)
        late = self.pace.each_s * tokens > PATIENCE_TARGETS * self.pace.target_s
        if before and late and before + len(items) > LEAST_QUEUE_ROWS:
            raise ModelError(
                "model.busy",
                f"{before} rows are waiting already, more than can be computed in "
                f"{PATIENCE_TARGETS * self.pace.target_s:g} s.",
                "Come back in a few seconds, or with fewer rows at a time.",
            )

    async def close(self) -> None:
        """Stop; whoever waits is told so."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for one in self._queue:
            one.done.cancel()
        self._queue.clear()
        self._thread.shutdown(wait=False)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._gather()
            batch = self._take()
            if not batch:
                continue
            began = self.since_s = self._clock()
            try:
                results = await loop.run_in_executor(self._thread, self._run, [one.item for one in batch])
            except Exception as error:  # noqa: BLE001 - it is handed to those whose rows these are
                for one in batch:
                    if not one.done.done():
                        one.done.set_exception(error)
                continue
            finally:
                self.since_s = None
            self._finish(batch, results, began)

    async def _gather(self) -> None:
        """Wait until there are rows, and then for more as long as it pays."""
        while True:
            if not self._queue:
                self._more.clear()
                await self._more.wait()
            tokens = max(len(one.item.tokens.ids) for one in self._queue) * (len(self._queue) + 1)
            wait_s = self.pace.wait_s(self._clock(), self._queue[0].came_s, len(self._queue))
            if not wait_s or not self.pace.fits(tokens) or len(self._queue) >= MAX_ROWS:
                return
            self._more.clear()
            try:
                await asyncio.wait_for(self._more.wait(), wait_s)
            except TimeoutError:
                return

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        longest = 0
        while self._queue and len(batch) < MAX_ROWS:
            one = self._queue[0]
            if one.done.done():
                self._queue.popleft()
                continue
            longest = max(longest, len(one.item.tokens.ids))
            if batch and not self.pace.fits(longest * (len(batch) + 1)):
                break
            batch.append(self._queue.popleft())
        return batch

    def _finish(self, batch: Sequence[_Waiting], results: Sequence[Vector], began_s: float) -> None:
        now = self._clock()
        tokens = len(batch) * max(len(one.item.tokens.ids) for one in batch)
        self.pace.passed(tokens, now - began_s)
        self._watched.on_pass(len(batch), len({id(one.item.adapter) for one in batch}), now - began_s)
        for one, result in zip(batch, results, strict=True):
            if not one.done.done():
                one.done.set_result(result)
                self._watched.on_row(now - one.came_s)
