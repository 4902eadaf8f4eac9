"""The step of the server's optimiser, in numpy, for a site that re-runs it: no flwr is needed.

Rules
-----
1. A step is ``(round, state, averaged) -> next state``; *averaged* is the state plus the mean update. It
   gives what the upstream strategy of that name gives, and is tested equal to it.
2. FedAvg; FedAvgM (Hsu, Qi, Brown 2019, arXiv 1909.06335); FedAdagrad, FedAdam and FedYogi (Reddi et al.
   2021, arXiv 2003.00295, with the bias correction of Kingma and Ba in FedAdam): all that a recipe may name.
3. Whoever missed a round cannot re-run the later steps of one that remembers the earlier ones
   (:attr:`ServerStep.remembers`).
4. Each part of an adapter has an optimiser of its own, which steps in those rounds in which the part learns
   and counts those alone (:class:`ByPart`): where A and B take turns, the momentum of one never moves the
   other. Factors that a method makes anew of each sum have none: they are what it made. A state that is no
   adapter is one part, which steps in every round.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from plasmid.adapters.adapter import AdapterSchema
from plasmid.computations import api

Vector = NDArray[np.floating[Any]]


class Step(Protocol):
    """One optimiser, over one run."""

    def step(self, round_: int, state: Vector, averaged: Vector) -> Vector:
        """Return the next state [n] in *state*'s dtype; rounds are given in order, each once."""


class ServerStep(Step, Protocol):
    """A step that follows from what a site has seen, unless it remembers what the site has missed."""

    remembers: bool


class ByPart:
    """The optimiser of a whole state, part by part; see rule 4.

    Parameters
    ----------
    schema
        Of the public state.
    make
        Returns the optimiser of a part of so many numbers.
    """

    def __init__(self, document: Any, schema: AdapterSchema, make: Callable[[int], Step]) -> None:
        computation = api.load(document.computation)
        self._document = document
        self._method = api.method(document) if api.makes_adapter(computation) else None
        part_of = api.part_of if self._method else lambda _: "all"
        parts = np.concatenate([np.full(spec.size, part_of(spec.name)) for spec in schema.tensors])
        self._places = {str(part): np.flatnonzero(parts == part) for part in np.unique(parts)}
        self._steps = {part: make(len(places)) for part, places in self._places.items()}
        self._done = dict.fromkeys(self._places, 0)

    def step(self, round_: int, state: Vector, averaged: Vector) -> Vector:
        """See :class:`Step`. Of parts that do not learn in *round_*, those not made anew are as they were."""
        after, method = state.copy(), self._method
        for part, places in self._places.items():
            if method is not None and part not in api.HEAD and not method.SERVER_OPTIMISERS:
                after[places] = averaged[places]
            elif method is None or part in method.learns(self._document, round_):
                self._done[part] += 1
                after[places] = self._steps[part].step(self._done[part], state[places], averaged[places])
        return after


class FedAvg:
    """The average itself."""

    remembers = False

    def step(self, round_: int, state: Vector, averaged: Vector) -> Vector:  # noqa: ARG002
        """See :class:`ServerStep`."""
        return averaged.astype(state.dtype)


class FedAvgM:
    """Momentum on the pseudo-gradient, state minus average."""

    def __init__(self, *, server_learning_rate: float = 1.0, server_momentum: float = 0.0) -> None:
        self._rate, self._momentum = server_learning_rate, server_momentum
        self._vector: Vector | None = None
        self.remembers = server_momentum > 0.0

    def step(self, round_: int, state: Vector, averaged: Vector) -> Vector:  # noqa: ARG002
        """See :class:`ServerStep`."""
        if self._momentum == 0.0 and self._rate == 1.0:
            return averaged.astype(state.dtype)
        gradient = state - averaged
        if self._momentum > 0.0:
            gradient = gradient if self._vector is None else self._momentum * self._vector + gradient
            self._vector = gradient
        return np.asarray(state - self._rate * gradient).astype(state.dtype)


class _Adaptive(ABC):
    remembers = True

    def __init__(
        self,
        *,
        eta: float,
        eta_l: float = 0.0,  # noqa: ARG002 - the clients' rate, which the server does not use
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        tau: float = 1e-3,
    ) -> None:
        self._eta, self._beta_1, self._beta_2, self._tau = eta, beta_1, beta_2, tau
        self._m: Vector | None = None
        self._v: Vector | None = None

    def step(self, round_: int, state: Vector, averaged: Vector) -> Vector:
        """See :class:`ServerStep`."""
        delta = averaged - state
        m = np.zeros_like(delta) if self._m is None else self._m
        v = np.zeros_like(delta) if self._v is None else self._v
        self._m = self._beta_1 * m + (1 - self._beta_1) * delta
        self._v = self._second(v, delta)
        moved = state + self._rate(round_) * self._m / (np.sqrt(self._v) + self._tau)
        return np.asarray(moved).astype(state.dtype)

    @abstractmethod
    def _second(self, v: Vector, delta: Vector) -> Vector:
        """Return the second moment."""

    def _rate(self, round_: int) -> Any:  # noqa: ARG002
        return self._eta


class FedAdagrad(_Adaptive):
    """Adagrad on the mean update."""

    def __init__(self, *, eta: float = 1e-1, **options: float) -> None:
        super().__init__(eta=eta, **{"beta_1": 0.0, "beta_2": 0.0, **options})

    def _second(self, v: Vector, delta: Vector) -> Vector:
        return v + delta**2


class FedAdam(_Adaptive):
    """Adam on the mean update."""

    def __init__(self, *, eta: float = 1e-1, **options: float) -> None:
        super().__init__(eta=eta, **options)

    def _second(self, v: Vector, delta: Vector) -> Vector:
        return self._beta_2 * v + (1 - self._beta_2) * (delta**2)

    def _rate(self, round_: int) -> Any:
        second, first = np.power(self._beta_2, round_ + 1.0), np.power(self._beta_1, round_ + 1.0)
        return self._eta * np.sqrt(1 - second) / (1 - first)


class FedYogi(_Adaptive):
    """Yogi on the mean update."""

    def __init__(self, *, eta: float = 1e-2, **options: float) -> None:
        super().__init__(eta=eta, **options)

    def _second(self, v: Vector, delta: Vector) -> Vector:
        return v - (1.0 - self._beta_2) * (delta**2) * np.sign(v - delta**2)


_RULES: dict[str, Any] = {rule.__name__: rule for rule in (FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi)}


def server_step(strategy: str, options: Mapping[str, Any]) -> ServerStep | None:
    """Return the rule of *strategy* with *options*; None where there is none, or not with these options."""
    try:
        found: ServerStep = _RULES[strategy](**options)
    except (KeyError, TypeError):
        return None
    return found


def rule_of(document: Any, schema: AdapterSchema) -> tuple[ByPart, bool] | None:
    """Return the rule of a recipe's server over states of *schema*, and whether it remembers earlier rounds.

    None where there is no rule here.
    """
    asked = document.federation.server
    one = server_step(asked.strategy, asked.options)
    if one is None:
        return None
    return ByPart(document, schema, lambda _: _RULES[asked.strategy](**asked.options)), one.remembers
