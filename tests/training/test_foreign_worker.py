"""What a gateway believes of a worker that runs somebody else's Python: one vector, and a few codes.

The worker here is the test itself, at the other end of the channel.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from plasmid.core.errors import PlasmidError
from plasmid.gateway.session import WorkerSession
from plasmid.protocol.body import pack
from plasmid.protocol.channel import Channel
from plasmid.recipes.query import PingDocument
from support.federation.attacks import refusal
from support.federation.bundle_recipes import bundle_recipe

ROW = "CANARY-4711"
FOREIGN = bundle_recipe("def vector(state, view, settings): return state", half="vector")
OWN = PingDocument(length=3)

Worker = Callable[[Channel], None]
Compute = Callable[[Any, Worker], tuple[Any, list[tuple[int, int]]]]


@pytest.fixture
def compute() -> Iterator[Compute]:
    """Yield a function that has a worker of the test's compute a document; it returns vector and steps."""
    channels: list[Channel] = []

    def run(document: Any, worker: Worker) -> tuple[Any, list[tuple[int, int]]]:
        ours, theirs = socket.socketpair()
        channels.extend((Channel(ours), Channel(theirs)))
        launcher = SimpleNamespace(launch=lambda *_, **__: SimpleNamespace(channel=channels[-2]))
        session = WorkerSession(launcher, Path("unused"), notice=lambda _: None)  # type: ignore[arg-type]
        session.open(document.model_dump(mode="json"), None, None)
        answering = threading.Thread(target=_answer, args=(channels[-1], worker), daemon=True)
        answering.start()
        steps: list[tuple[int, int]] = []
        dtype = np.dtype("<f8") if document is FOREIGN else np.dtype("<f4")
        try:
            vector = session.compute(
                np.zeros(3, dtype),
                order={"phase": "train", "round": 1, "seed": 0, "sampling": None},
                length=3,
                dtype=dtype,
                progress=lambda step, steps_: steps.append((step, steps_)),
            )
        finally:
            answering.join(10)
        return vector, steps

    yield run
    for channel in channels:
        channel.close()


def _answer(channel: Channel, worker: Worker) -> None:
    channel.receive()
    channel.send({"type": "opened"})
    channel.receive()
    worker(channel)


def fails(code: str) -> Worker:
    return lambda channel: channel.send({"type": "error", "code": code, "message": ROW, "hint": ROW})


def test_steps_of_a_foreign_worker_go_no_further(compute: Compute) -> None:
    """They would leave with the next heartbeat, unbounded and without noise."""

    def worker(channel: Channel) -> None:
        channel.send({"type": "progress", "step": 4711, "steps": 815})
        dtype = "<f8" if foreign else "<f4"
        channel.send({"type": "result"}, pack("vector", np.ones(3, dtype)))

    foreign = True
    vector, steps = compute(FOREIGN, worker)
    assert (vector.tolist(), steps) == ([1.0] * 3, [])
    foreign = False
    assert compute(OWN, worker)[1] == [(4711, 815)]


@pytest.mark.parametrize(
    ("code", "told"),
    [("run.bundle", "run.bundle"), ("run.not_finite", "run.not_finite"), ("site.sandbox", "site.sandbox"),
     ("data.row_4711", "run.bundle"), ("run.unknown", "run.bundle"), (ROW, "run.bundle")],
)  # fmt: skip
def test_its_errors_are_a_code_and_our_words(compute: Compute, code: str, told: str) -> None:
    with pytest.raises(PlasmidError) as caught:
        compute(FOREIGN, fails(code))
    assert caught.value.code == told
    assert ROW not in json.dumps(caught.value.as_dict())
    with pytest.raises(PlasmidError, match=ROW):
        compute(OWN, fails("run.not_finite"))


def test_a_body_larger_than_the_vector_is_not_even_read(compute: Compute) -> None:
    """2 GiB are announced; nobody asks for the memory."""

    def worker(channel: Channel) -> None:
        header = b'{"type": "result"}'
        channel._end.sendall(struct.pack(">IQ", len(header), 2**31) + header)

    for document in (FOREIGN, OWN):
        with refusal("protocol.frame"):
            compute(document, worker)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x" * 40,
        pack("other", np.zeros(3)),
        pack("vector", np.zeros(2)),
        pack("vector", np.zeros(3, "<f4")),
    ],
)
def test_what_is_no_vector_of_the_plan_is_refused(compute: Compute, body: bytes) -> None:
    with refusal("protocol.body"):
        compute(FOREIGN, lambda channel: channel.send({"type": "result"}, body))
