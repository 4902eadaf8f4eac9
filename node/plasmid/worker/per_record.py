"""A vector per record from a bundle's code that nobody trusts, under a privacy unit.

Differential privacy for a sum needs that one record moves one vector. Code that sees one record after another
could remember it and change all vectors that follow; so every record is computed by a process of its own
(:mod:`plasmid.worker.per_record_child`), which has seen no other.

Rules
-----
1. A record's vector follows from the record, the public state and its turn alone. Turns are dealt at random
   among ``max_rows`` ones, most of which are nobody's: that a record is there moves no other one's turn.
2. Each turn begins at its own time, whatever came of the one before, and takes as long as the document says.
   So a record's code tells nothing by taking long, neither to the next one nor to the coordinator.
3. A record whose code fails, returns something else or is late counts as zero: a refusal would tell of it.
4. What a process still shares with its predecessor is the processor: caches, and the load on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.data.snapshot import Snapshot
from plasmid.data.table import Table
from plasmid.dp.noise import Source
from plasmid.protocol.channel import Channel, ChannelClosed
from plasmid.recipes.bundle import Bundle
from plasmid.worker.bundle import failure
from plasmid.worker.per_record_child import RECORD, STATE

ANSWER_SHARE = 0.9
"""The part of a turn in which its record must have answered; the rest is for ending it."""


class Apart:
    """The records of one run.

    Parameters
    ----------
    turns
        How many turns a round has: the public ``max_rows``.

    Raises
    ------
    RunFailed
        ``run.bundle``: the code cannot even be imported; that says nothing about a row.
    """

    def __init__(self, bundle: Bundle, *, turns: int) -> None:
        self._size, self._turns = bundle.size, turns
        self._turn_s = bundle.record_ms / 1000.0
        self._end, theirs = socket.socketpair()
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with theirs:
            self._keeper = subprocess.Popen(
                [sys.executable, "-P", "-m", "plasmid.worker.per_record_child"],
                stdin=theirs.fileno(),
                env={**os.environ, **single},
                close_fds=True,
            )
        self._channel = Channel(self._end)
        order = {
            "files": bundle.files,
            "entry": bundle.entry,
            "package": bundle.package,
            "settings": bundle.settings,
            "size": bundle.size,
            "limit_s": ANSWER_SHARE * self._turn_s,
        }
        try:
            self._channel.send(order)
            sound = self._channel.receive()[0]["sound"]
        except ChannelClosed:
            sound = False
        if not sound:
            self.close()
            raise failure()

    def vectors(
        self, state: NDArray[np.float64], table: Table | Snapshot, *, stop: Callable[[], None]
    ) -> Iterator[NDArray[np.float64]]:
        """Yield the vectors of the records of *table* that have one, float64 [size], in random order.

        Parameters
        ----------
        stop
            Called before each turn; what it raises ends the round.

        Raises
        ------
        RunFailed
            ``run.bundle``: the keeper is gone.
        """
        with self._kept():
            self._end.sendall(STATE)
            self._channel.send({}, np.ascontiguousarray(state, np.float64).tobytes())
        began, silent = time.monotonic(), 0
        for turn, ticket in enumerate(Source().order(self._turns)):
            stop()
            time.sleep(max(0.0, began + turn * self._turn_s - time.monotonic()))
            index = int(ticket)
            row = table.record(index) if index < table.rows else None
            answer = self._answer(row)
            if answer is None:
                silent += row is not None
            elif answer.size:
                yield answer
        if silent:
            what = (
                f"{silent} of {table.rows} records failed, or took longer than their turn, and count as zero"
            )
            print(f"bundle: {what}", file=sys.stderr, flush=True)  # noqa: T201 - worker.log, at home

    def close(self) -> None:
        """End the keeper; a second call does nothing."""
        self._channel.close()
        self._keeper.kill()
        self._keeper.wait()

    def _answer(self, row: Mapping[str, Any] | None) -> NDArray[np.float64] | None:
        """Return a record's vector, empty if it has none to add; None if it did not answer as it must."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs, self._kept():
                socket.send_fds(self._end, [RECORD], [theirs.fileno()])
            text = json.dumps(row, allow_nan=False).encode()
            ours.settimeout(ANSWER_SHARE * self._turn_s)
            with contextlib.suppress(OSError):
                ours.sendall(len(text).to_bytes(8, "big") + text)
                return self._vector(_received(ours, 1 + 8 * self._size, ANSWER_SHARE * self._turn_s))
        return None

    def _vector(self, answer: bytes) -> NDArray[np.float64] | None:
        if answer == b"\0":
            return np.empty(0)
        if len(answer) != 1 + 8 * self._size or answer[:1] != b"\1":
            return None
        vector = np.frombuffer(answer[1:])
        return vector if np.isfinite(vector).all() else None

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ChannelClosed) as error:
            raise failure() from error


def _received(end: socket.socket, size: int, limit_s: float) -> bytes:
    """Return at most *size* bytes that come within *limit_s*."""
    until = time.monotonic() + limit_s
    data = bytearray()
    while len(data) < size:
        left = until - time.monotonic()
        if left <= 0:
            break
        end.settimeout(left)
        part = end.recv(min(size - len(data), 2**20))
        if not part:
            break
        data += part
    return bytes(data)
