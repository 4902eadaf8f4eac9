"""The steps that a site trains for itself after a run: every method's adapter takes them, whole."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from plasmid.bases.store import BaseModel
from plasmid.computations import _factors, api
from plasmid.computations._personal import personal_of
from plasmid.protocol.body import pack
from plasmid.worker.worker import Session
from support.hospital.snapshots import snapshot_of
from support.tiny.method_rounds import Rounds
from support.tiny.tiny_task import tiny_table

pytestmark = pytest.mark.usefixtures("at_home")


def _opened(rounds: Rounds) -> tuple[Session, list[dict[str, Any]]]:
    """Return a worker's session on the table of *rounds*, and where what it sends is kept."""
    base, document = rounds.base, rounds.document
    named = {"id": base.id, "revision": base.revision, "digest": base.digest}
    header = {"document": document.model_dump(mode="json"), "base": named}
    header["descriptor"] = snapshot_of(tiny_table(40), document)
    told: list[dict[str, Any]] = []
    channel: Any = SimpleNamespace(send=lambda said, body=b"": told.append(said))
    return Session(channel, threading.Event(), (header, b"")), told


ORDER = {"phase": "personal", "round": 3, "seed": 1, "sampling": None}


@pytest.mark.parametrize("name", api.METHODS)
def test_every_method_s_adapter_learns_on_whole_after_the_run(name: str, tiny: dict[str, BaseModel]) -> None:
    rounds = Rounds(tiny["esm"], name, training={"personal_steps": 2})
    for round_ in (1, 2):
        rounds.advance(rounds.summed(rounds.trained(round_), round_, exact=True))
    base, document = rounds.base, rounds.document
    session, told = _opened(rounds)
    own = np.full(personal_of(document, base).size, 0.02, np.float32)
    if own.size:
        session.take_personal(pack("personal", own))
    found = session.compute((ORDER, pack("state", rounds.state)))
    assert found.shape == (rounds.whole.size,)
    before, after = (_factors.parts(rounds.whole, one) for one in (rounds.adapter(), found))
    for key, value in after.items():
        began = np.full_like(value, 0.02) if name == "fedsa" and key.endswith(_factors.UP) else before[key]
        moved = np.abs(value - began).max()
        assert 0.0 < moved < 0.2, key
    # what is told besides is how far it is: nothing is to be kept that is not in the result
    assert {said["type"] for said in told} == {"progress"}
    # without the site's own part it is another adapter, and the next call has not kept it
    if own.size:
        assert not np.array_equal(session.compute((ORDER, pack("state", rounds.state))), found)


def test_their_rates_follow_the_schedule_anew(tiny: dict[str, BaseModel]) -> None:
    """Two steps, the second at half the rate, move further than one, and less far than two."""
    moved = []
    for steps, schedule in ((1, None), (2, None), (2, {"kind": "linear"})):
        rounds = Rounds(tiny["esm"], "finetune", training={"personal_steps": steps, "schedule": schedule})
        session, _ = _opened(rounds)
        found = session.compute((ORDER, pack("state", rounds.state)))
        moved.append(float(np.linalg.norm(found - rounds.adapter())))
    assert moved[0] < moved[2] < moved[1]
