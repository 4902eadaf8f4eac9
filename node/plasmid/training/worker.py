"""The worker process: it loads the base model once per run, stays warm, and runs site halves.

Rules
-----
1. It knows what the gateway sends over the channel (document, rows, base model path, states) and
   nothing else of the site.
2. ``loss``: the node trains (:mod:`plasmid.training.engine`). ``per_record``: the node clips every
   record to [-1, 1] per coordinate and sums. ``vector``: finished.
3. A reader thread watches the channel: ``stop`` interrupts training at the next step, end-of-file ends
   the process at once, whatever it is doing.
4. Frames in: ``open`` (document, base; body: table), ``compute`` (round, seed; body: state), ``stop``.
   Frames out: ``opened``, ``progress`` (step, steps), ``result`` (body: vector), ``error``.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.computations import api
from plasmid.core.errors import PlasmidError, RunFailed, place
from plasmid.data.table import Table
from plasmid.models.store import BaseModel, open_model
from plasmid.protocol.body import Body, pack, unpack
from plasmid.recipes.documents import parse_document
from plasmid.training.channel import Channel, ChannelClosed

Frame = tuple[dict[str, Any], Body]


class Session:
    """One run inside the worker."""

    def __init__(self, channel: Channel, stop: threading.Event, frame: Frame) -> None:
        header, body = frame
        self._channel = channel
        self._stop = stop
        self.document: Any = parse_document(header["document"])
        self.computation: Any = api.load(self.document.computation)
        self.table = Table.from_bytes(bytes(body)) if body else None
        base: BaseModel | None = None
        if header["base"] is not None:
            base = open_model(
                header["base"]["id"], revision=header["base"]["revision"], digest=header["base"]["digest"]
            )
        self.shape = self.computation.shape(self.document, base)
        self.dtype = self.computation.initial(self.document, self.shape).dtype
        self._engine: Any = None
        if self.computation.SITE_HALF == "loss":
            from plasmid.training.engine import Engine

            assert base is not None, "a document with a loss names a base model"
            assert self.table is not None, "a document with a loss has a contract"
            document: Any = self.document
            self._engine = Engine(
                document,
                base,
                self.table,
                progress=lambda step, steps: channel.send({"type": "progress", "step": step, "steps": steps}),
                should_stop=stop.is_set,
            )

    def compute(self, frame: Frame) -> NDArray[Any]:
        """Return this site's raw vector for the state in *frame*, of the state's shape and dtype."""
        header, body = frame
        state = unpack(body, "state", length=self.shape.schema.size, dtype=self.dtype)
        match self.computation.SITE_HALF:
            case "loss":
                trained = self._engine.train(state, steps=self.document.training.steps, seed=header["seed"])
                return np.asarray(trained - state)
            case "per_record":
                return self._sum_of_records(state)
            case _:
                return np.asarray(self.computation.vector(self.document, state), dtype=state.dtype)

    def _sum_of_records(self, state: NDArray[Any]) -> NDArray[np.float64]:
        assert self.table is not None
        total = np.zeros(self.shape.schema.size)
        for index in range(self.table.rows):
            if self._stop.is_set():
                raise RunFailed("run.stopped", "The run was stopped.")
            row = {name: values[index] for name, values in self.table.columns.items()}
            record = self.computation.per_record(self.document, state, row)
            if record is not None:
                total += np.clip(np.nan_to_num(record, nan=0.0), -1.0, 1.0)
        return total


def serve(channel: Channel) -> None:
    """Answer frames until the gateway closes the channel."""
    frames: queue.SimpleQueue[Frame] = queue.SimpleQueue()
    stop = threading.Event()

    def read() -> None:
        try:
            while True:
                frame = channel.receive()
                if frame[0]["type"] == "stop":
                    stop.set()
                else:
                    frames.put(frame)
        except ChannelClosed:
            os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    session: Session | None = None
    while True:
        frame = frames.get()
        try:
            if frame[0]["type"] == "open":
                session = Session(channel, stop, frame)
                channel.send({"type": "opened"})
            elif session is not None:
                channel.send({"type": "result"}, pack("vector", session.compute(frame)))
        except PlasmidError as error:
            channel.send({"type": "error", **error.as_dict()})
        except ChannelClosed:
            os._exit(0)
        except Exception as error:  # noqa: BLE001 - a defect; where it is stays in the site's own worker log
            sys.stderr.write(place(error) + "\n")
            sys.stderr.flush()
            channel.send(
                {
                    "type": "error",
                    "code": "site.failed",
                    "message": "The worker failed; its log has the details.",
                    "hint": "",
                }
            )


def main() -> None:
    """Run on the channel that the launcher gave as standard input."""
    end = socket.socket(fileno=os.dup(0))
    null = os.open(Path(os.devnull), os.O_RDONLY)
    os.dup2(null, 0)
    serve(Channel(end))


if __name__ == "__main__":
    main()
