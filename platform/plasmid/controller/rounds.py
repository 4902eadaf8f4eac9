"""The rounds of a run: manifest, contributions, ring sum, server step, checkpoint.

Rules
-----
1. The coordinator sums words; it holds no key that opens a contribution.
2. The sum is over the whole roster or not at all (protocol version 0).
3. Sum and decode happen here, from bodies on disk, one in memory at a time.
4. A state is published before the manifest that names it; the one before the last is deleted only when
   its successor is on disk and recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from plasmid.computations import api
from plasmid.controller.context import RunContext
from plasmid.controller.plan import Job
from plasmid.core.errors import ProtocolError
from plasmid.federation.server import ServerOptimiser, build_strategy
from plasmid.privacy.ring import TAIL, Encoding, decode_sum
from plasmid.privacy.statements import PROTOCOL
from plasmid.protocol.body import body_bytes, pack, unpack
from plasmid.protocol.messages import Contribution, Manifest

EPOCH = 1


class Rounds:
    """All rounds of one run over a fixed roster."""

    def __init__(self, context: RunContext, job: Job, roster: list[str], rho: str | None) -> None:
        self._context, self._job, self._roster, self._rho = context, job, roster, rho
        self._computation = api.load(job.document.computation)
        self._encoding = job.encoding(len(roster))
        self._state_digest, self._state_bytes = "", 0

    def run(self) -> NDArray[Any]:
        """Run every round and return the last state."""
        job, context = self._job, self._context
        size = body_bytes("words", self._encoding.length + TAIL, self._encoding.dtype)
        ray.get(context.link.expect.remote(context.run, size))
        server = getattr(job.document.federation, "server", None)
        optimiser = server and ServerOptimiser(
            build_strategy(server.strategy, server.options), job.shape.schema
        )
        state = self._computation.initial(job.document, job.shape)
        self._publish(state)
        for round_ in range(1, job.document.rounds + 1):
            before = self._state_digest
            if optimiser:
                state = optimiser.step(round_, state, self._secure_mean(round_))
            else:
                state = self._round(round_, state)
            self._publish(state)
            context.runs.end_round(context.run, round_, self._state_digest)
            if before != self._state_digest:
                context.bodies.published(before).unlink(missing_ok=True)
        return state

    def _secure_mean(self, round_: int) -> Any:
        schema = self._job.shape.schema

        def secure(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            return dict(schema.unflatten(self._round(round_, schema.flatten(arrays))))

        return secure

    def _publish(self, state: NDArray[Any]) -> None:
        body = pack("state", state)
        self._state_digest, self._state_bytes = self._context.bodies.publish(body), len(body)

    def _round(self, round_: int, state: NDArray[Any]) -> NDArray[Any]:
        """Return what the computation makes of one secure sum."""
        context, job = self._context, self._job
        manifest = self._manifest(round_)
        context.runs.begin_round(context.run, round_, manifest.digest())
        context.send((site, manifest) for site in self._roster)
        signed = context.collect(
            "contribution", self._roster, round_=round_, timeout_s=job.document.federation.round_timeout_s
        )
        bodies = [
            self._checked(Contribution.model_validate(said.payload), manifest) for said in signed.values()
        ]
        total = sum_bodies(bodies, self._encoding)
        for body in bodies:
            body.unlink()
        decoded = decode_sum(total, self._encoding, len(self._roster))
        return self._computation.advance(job.document, state, decoded, len(self._roster))

    def _checked(self, contribution: Contribution, manifest: Manifest) -> Path:
        if contribution.manifest != manifest.digest():
            raise ProtocolError(
                "protocol.manifest", f"{contribution.site} answered another manifest than the one sent."
            )
        path = self._context.bodies.received(self._context.run, contribution.site, contribution.body)
        if not path.exists():
            raise ProtocolError("protocol.body", f"{contribution.site} named a body that it did not upload.")
        return path

    def _manifest(self, round_: int) -> Manifest:
        job, encoding = self._job, self._encoding
        return Manifest(
            protocol=PROTOCOL if job.masked else "none",
            run=self._context.run,
            epoch=EPOCH,
            slot=round_ - 1,
            round=round_,
            rho=self._rho,
            document=job.digest,
            base=job.base.digest if job.base else None,
            state=self._state_digest,
            state_bytes=self._state_bytes,
            invited=self._roster,
            ring_bits=encoding.bits,
            scale_log2=encoding.scale_log2,
            bound=encoding.bound,
            length=encoding.length,
            min_sites=job.document.federation.min_sites,
        )


def sum_bodies(bodies: Sequence[Path], encoding: Encoding) -> NDArray[Any]:
    """Return the ring sum [length + TAIL] of contribution bodies; one is in memory at a time."""
    total = np.zeros(encoding.length + TAIL, dtype=encoding.dtype)
    for path in bodies:
        total += unpack(path.read_bytes(), "words", length=total.size, dtype=encoding.dtype)
    return total
