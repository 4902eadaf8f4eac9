"""The outbox: every byte that left a site and everything that was refused, read from the site's own log.

Rules
-----
1. Nothing is kept twice: what is shown is what the log says, in its order.
2. A release without a line does not exist: the line is durable before a byte of it leaves.
3. Pure: entries in, lines out. An entry that is no release and no refusal is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

REFUSALS = ("refused", "failed")
"""Results of an entry that stopped something."""


@dataclass(frozen=True)
class Release:
    """One body that left.

    Attributes
    ----------
    time
        UTC, ISO 8601.
    coordinator, project, roster
        To whom: the coordinator's key, the project's digest (None: without a project), the sites in the sum.
    tensors
        ``name [shape]`` of each; ``dtype`` is what they were before fixed point.
    norm, norm_after, clip_fraction
        L2 norm before and after the clip, and the part that the clip took away; None where the contract
        bounds coordinates only.
    epsilon, epsilon_spent
        What the whole run costs, and what the population has spent up to this release; None without a unit.
    body_bytes, body
        Length of what left, and its digest (a Merkle root).
    isolation
        The level at which the worker ran; None where the log does not say.
    """

    seq: int
    time: str
    run: str
    phase: str
    round: int
    epoch: int
    slot: int
    coordinator: str
    project: str | None
    roster: list[str]
    tensors: list[str]
    dtype: str
    norm: float | None
    norm_after: float | None
    clip_fraction: float | None
    bound: float
    mechanism: str
    epsilon: float | None
    population: str | None
    epsilon_spent: float | None
    body_bytes: int
    body: str
    manifest: str
    masked: bool
    isolation: str | None


@dataclass(frozen=True)
class Refusal:
    """Something that was asked for and did not happen. ``rule`` is its code, ``reason`` stays at home."""

    seq: int
    time: str
    action: str
    actor: str
    run: str | None
    rule: str
    reason: str


@dataclass(frozen=True)
class Outbox:
    """What left and what did not, oldest first."""

    released: tuple[Release, ...]
    refused: tuple[Refusal, ...]

    @property
    def body_bytes(self) -> int:
        """Bytes of all bodies that left."""
        return sum(release.body_bytes for release in self.released)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON values of the machine interface."""
        return {
            "released": [asdict(release) for release in self.released],
            "refused": [asdict(refusal) for refusal in self.refused],
            "bytes": self.body_bytes,
        }


def read_outbox(entries: Iterable[Mapping[str, Any]], *, run: str | None = None) -> Outbox:
    """Return the outbox that *entries* of the log make, of one *run* or (None) of all."""
    released: list[Release] = []
    refused: list[Refusal] = []
    for entry in entries:
        if run is not None and entry.get("run") != run:
            continue
        if entry["action"] == "released":
            released.append(_release(entry))
        elif entry["result"] in REFUSALS:
            refused.append(
                Refusal(
                    seq=entry["seq"],
                    time=entry["time"],
                    action=entry["action"],
                    actor=entry["actor"],
                    run=entry.get("run"),
                    rule=entry.get("rule") or "",
                    reason=entry.get("reason") or "",
                )
            )
    return Outbox(tuple(released), tuple(refused))


def _release(entry: Mapping[str, Any]) -> Release:
    facts: Mapping[str, Any] = entry["facts"]
    return Release(
        seq=entry["seq"],
        time=entry["time"],
        run=entry["run"],
        body=entry["object"],
        body_bytes=facts["bytes"],
        project=facts.get("project"),
        isolation=facts.get("isolation"),
        **{name: facts[name] for name in _SAME_NAME},
    )


_SAME_NAME = (
    "phase", "round", "epoch", "slot", "manifest", "coordinator", "roster", "tensors", "dtype", "norm",
    "norm_after", "clip_fraction", "bound", "mechanism", "epsilon", "population", "epsilon_spent", "masked",
)  # fmt: skip
