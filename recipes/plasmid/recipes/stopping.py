"""When a run ends early, and which of its states it releases: by the sites' loss on rows that they hold back.

Rules
-----
1. Each site holds back a share of its rows for the whole run, and never trains on them. In each round it adds
   to its vector, behind the update, two numbers: the mean loss of those rows at the state with which the
   round began, cut to [0, :data:`MOST_LOSS`] and scaled to the vector's bound, and whether it has such rows.
   Both are in the same secure sum as the update: nobody sees a site's own loss, every site has the same
   weight, and how many rows a site has is not told.
2. The totals are published anyway, and every site computes from them what the coordinator does: the mean loss
   of each state, when the run is over, and which state is the best. It countersigns no other choice.
3. A state is judged in the round that begins with it, so that the state after the last round is not judged:
   ``best`` never releases it.
4. A state is better if its loss is lower by more than ``min_delta`` than that of the best one so far. After
   ``patience`` judged states in a row that are not better, the run is over (Prechelt 1998, "Early Stopping -
   But When?").
5. It is for runs without a privacy unit: under one, held back rows are somebody's rows, too, and what is told
   about them would need noise and a charge of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from plasmid.adapters.adapter import TensorSpec
from plasmid.bases.specs import Strict
from plasmid.computations.api import Shape, State, Sum
from plasmid.recipes.protection import Location

HELD = TensorSpec("held_back", (2,))
"""Loss, and whether there are rows: what a site adds to its vector."""
MOST_LOSS = 16.0
"""In nats, or in the unit of the task's loss; a larger one counts as this."""


class Stop(Strict):
    """``federation.stop``: see the module's rules.

    ``share`` is that of the rows (of the people, where ``data.patient`` names them) that a site holds back.
    """

    share: Annotated[float, Field(gt=0, le=0.5)]
    patience: Annotated[int, Field(ge=1, le=100_000)]
    min_delta: Annotated[float, Field(ge=0, le=MOST_LOSS)] = 0.0
    release: Literal["best", "last"] = "best"


class Choice:
    """What follows from the losses of a run's states, in order.

    Attributes
    ----------
    losses
        Of the first state, and of that after each round but the last.
    best
        After how many rounds the best state is.
    over
        Whether the run is over.
    """

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self.losses: list[float] = []
        self.best = 0
        self.over = False

    @classmethod
    def of(cls, stop: Stop, losses: Iterable[float]) -> Choice:
        """Return the choice over *losses*, of which the last one ended the run or its rounds were done."""
        made = cls(stop)
        for loss in losses:
            made.add(loss)
        return made

    @property
    def releases_best(self) -> bool:
        """Whether the best state is released, not the last one."""
        return self._stop.release == "best"

    def add(self, loss: float) -> bool:
        """Take the *loss* of the next state; return whether it is the best so far."""
        if better := not self.losses or loss < self.losses[self.best] - self._stop.min_delta:
            self.best = len(self.losses)
        self.losses.append(loss)
        self.over = self.over or len(self.losses) - 1 - self.best >= self._stop.patience
        return better

    def as_json(self) -> dict[str, Any]:
        """Return ``release``, ``after`` (how many rounds the released state is) and ``losses``."""
        last = self._stop.release == "last"
        after = len(self.losses) if last else self.best
        return {"release": self._stop.release, "after": after, "losses": list(self.losses)}


def stop_of(document: Any) -> Stop | None:
    """Return when *document* says that its run ends early; None where it does not."""
    found: Stop | None = getattr(getattr(document, "federation", None), "stop", None)
    return found


def judged(losses: NDArray[Any], shape: Shape) -> State:
    """Return what a site adds behind its update from the *losses* of its held back rows, [n]: [2].

    A loss that is not a number counts as the largest.
    """
    found = np.zeros(HELD.size, shape.dtype)
    if len(losses):
        mean = float(np.nan_to_num(losses, nan=MOST_LOSS).clip(0.0, MOST_LOSS).mean(dtype=np.float64))
        found[:] = shape.bound * mean / MOST_LOSS, shape.bound
    return found


def loss_in(summed: Sum, shape: Shape) -> float:
    """Return the mean over the sites of what they held back, from a whole total; none at all: the largest."""
    loss, sites = (float(value) for value in summed.values[-HELD.size :])
    return MOST_LOSS * loss / sites if round(sites / shape.bound) >= 1 else MOST_LOSS


def stop_contradictions(sections: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """Yield ``(path, what)`` where another of the *sections* does not allow ``federation.stop``."""
    federation, privacy = sections.get("federation"), sections.get("privacy")
    if federation is None or federation.stop is None:
        return
    stop = federation.stop
    if stop.patience >= federation.rounds:
        what = f"a patience of {stop.patience} cannot end a run of {federation.rounds} rounds; lower it"
        yield ("federation", "stop", "patience"), what
    if privacy and privacy.unit != "none":
        what = (
            "under a privacy unit the loss of held back rows would need noise and a charge of its own; fix "
            "the rounds beforehand, on a rehearsal or on public rows"
        )
        yield ("federation", "stop"), what
    elif privacy and privacy.protect == "none":
        what = "each site's loss would be seen by the coordinator; use protect: masked"
        yield ("federation", "stop"), what
    if privacy and getattr(privacy, "audit", None) is not None:
        yield ("federation", "stop"), "a canary audit is of the last state after all rounds; leave one out"
