"""The server's optimiser: any upstream flwr strategy that needs nothing but the mean.

Rules
-----
1. A strategy is named by the recipe and built with the recipe's keyword arguments, which the recipe's own
   checks have seen (:mod:`plasmid.recipes.server`).
2. The strategy's hooks are driven here, since its own ``start()`` cannot resume. What it returns is
   cast to the state's dtype and must be finite: FedAdam returns float64, and NaN passes through all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp import strategy as upstream
from numpy.typing import NDArray

from plasmid.adapters.adapter import AdapterSchema
from plasmid.core.errors import RunFailed
from plasmid.release.server_step import ByPart
from plasmid.strategies.grid import LinkGrid

_OURS = {"fraction_train": 1.0, "fraction_evaluate": 0.0}


def optimiser_of(document: Any, schema: AdapterSchema) -> ByPart:
    """Return the optimiser of a recipe's server over states of *schema*."""
    asked = document.federation.server

    return ByPart(document, schema, lambda _: ServerOptimiser(build_strategy(asked.strategy, asked.options)))


def build_strategy(name: str, options: Mapping[str, Any], *, nodes: int = 1) -> upstream.FedAvg:
    """Return the strategy *name* with *options*, both of a recipe; it waits for *nodes* nodes."""
    kind = getattr(upstream, name)
    return kind(min_train_nodes=nodes, min_available_nodes=nodes, **_OURS, **options)  # type: ignore[no-any-return]


class ServerOptimiser:
    """Drives one strategy, which sees one array, round by round. The secure sum is taken before its step."""

    def __init__(self, strategy: upstream.FedAvg) -> None:
        self._strategy = strategy

    def step(self, round_: int, state: NDArray[Any], averaged: NDArray[Any]) -> NDArray[Any]:
        """Return the next state after *state* [n], same dtype; the secure sum makes *averaged* of it.

        Raises
        ------
        RunFailed
            ``run.not_finite``: the strategy's result holds NaN or infinity.
        """
        grid = LinkGrid(lambda _: {"state": averaged})
        arrays = ArrayRecord({"state": Array(state)})
        messages = self._strategy.configure_train(round_, arrays, ConfigRecord(), grid)
        replies = grid.send_and_receive(messages)
        result, _ = self._strategy.aggregate_train(round_, replies)
        assert result is not None, "one valid reply always gives a result"
        flat = result["state"].numpy().astype(state.dtype)
        if not np.isfinite(flat).all():
            raise RunFailed(
                "run.not_finite",
                f"the server's optimiser returned values that are not finite in round {round_}.",
                "Lower its learning rate (federation.server.options).",
            )
        return flat
