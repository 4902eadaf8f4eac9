"""What the gateway itself spends on one contribution: CPU of everything but training and masks.

Rules
-----
1. One site of three, as :mod:`support.federation.in_memory` has them. Its policy asks for two approvals,
   which are there; the run is of a project, by a named requester. The computation returns a vector that is
   ready.
2. The vector is a float32 adapter of :data:`TENSORS` tensors, longer than its L2 bound, so it is scaled, too.
3. Masks are timed inside the same call, and taken off.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from plasmid.adapters.adapter import AdapterSchema, TensorSpec
from plasmid.dp.noise import skellam
from plasmid.recipes.query import PingDocument
from support.federation import approving
from support.federation.in_memory import Federation

LENGTH = 1_000_000
TENSORS = 100
_NORM = 10.0
_VARIANCE = 1e8


@dataclass(frozen=True)
class Contribution:
    """Medians, in ms of CPU of this process."""

    gateway: float
    masks: float
    noise: float


def measure(rounds: int) -> Contribution:
    """Return what a contribution costs, over *rounds* rounds after the first."""
    with tempfile.TemporaryDirectory() as folder:
        federation = Federation(Path(folder), document=PingDocument(length=LENGTH, rounds=rounds + 1))
        _approve(federation)
        federation.set_up()
        run = federation.gateways["alpha"].run(federation.run)
        tensors = [
            TensorSpec(f"layer.{number}.A", (10, LENGTH // TENSORS // 10)) for number in range(TENSORS)
        ]
        for gateway in federation.gateways.values():
            of_run = gateway.run(federation.run)
            of_run.shape = replace(of_run.shape, schema=AdapterSchema(tuple(tensors)), norm=_NORM)
        assert run.epoch is not None, "it is masked"
        masks = _Timed(run.epoch.mask)
        run.epoch.mask = masks  # type: ignore[method-assign]
        vector = np.random.default_rng(0).standard_normal(LENGTH, np.float32)
        all_of_it = []
        for round_ in range(1, rounds + 2):
            manifest = federation.manifest(round_)
            before = time.process_time()
            answer = federation.gateways["alpha"].contribute(manifest, lambda _: vector)
            all_of_it.append(time.process_time() - before)
            released = federation.log("alpha")[-1]
            rest = federation.answers(manifest, dict.fromkeys(manifest.invited[1:], vector))
            federation.open_sum([answer, *rest.values()], manifest)
    assert released["action"] == "released", released
    assert released["norm"] > released["norm_after"], "it was scaled"
    own = [whole - mask for whole, mask in zip(all_of_it, masks.seconds, strict=True)]
    noise = _Timed(lambda: skellam(LENGTH, _VARIANCE))
    for _ in range(5):
        noise()
    return Contribution(_ms(own), _ms(masks.seconds), _ms(noise.seconds))


def _approve(federation: Federation) -> None:
    """Have two people approve the run at the first site."""
    approving.allow_approved(federation)
    approvals = approving.add_people(federation)
    assert not federation.admit("alpha").accepted, "it waits"
    case = approvals.files.cases()[0]
    for name in ("ann", "bob"):
        approving.sign(approvals, case, name)


class _Timed:
    """A function with the CPU seconds of each call."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.seconds: list[float] = []

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        before = time.process_time()
        result = self._function(*arguments, **named)
        self.seconds.append(time.process_time() - before)
        return result


def _ms(seconds: list[float]) -> float:
    """Return the median of all but the first, in ms."""
    return 1e3 * statistics.median(seconds[1:])
