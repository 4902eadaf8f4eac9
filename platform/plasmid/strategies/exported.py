"""A recipe as an ordinary Flower app: what its ServerApp and its ClientApps do.

Rules
-----
1. A client trains as a node's worker does, from the adapter that the state stands for, with the same seed for
   the same site and round, and sends the method's vector, bounded as a gateway would. It has nothing else
   of a gateway: whoever runs the SuperLink sees each vector.
2. The server sums the vectors, lets the method take its step, and gives the result to the recipe's upstream
   strategy, part by part, as the controller does with a secure sum (:mod:`plasmid.strategies.server`).
   Messages and nodes are upstream FedAvg's.
3. A round that fewer than ``federation.min_sites`` have answered ends the run.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from plasmid.adapters.adapter import AdapterSchema
from plasmid.bases.store import BaseModel, ensure_model
from plasmid.computations import api
from plasmid.computations._personal import keeps
from plasmid.core.errors import DataError, RecipeError, RunFailed
from plasmid.data.views.reading import read_table
from plasmid.gateway.output import bounded
from plasmid.gateway.run import local_seed
from plasmid.recipes.schema import Recipe
from plasmid.strategies.server import build_strategy, optimiser_of

IN_THE_CLEAR = (
    "Trained as an app of Flower: whoever ran its SuperLink saw each site's update. No secure aggregation, "
    "no differential privacy, and nobody's signature."
)


def exportable(recipe: Recipe) -> None:
    """Raise RecipeError (``recipe.export``) for what a Flower app would silently leave out; all at once."""
    lacking = [
        what
        for lacks, what in (
            (
                recipe.privacy.unit != "none",
                f"privacy.unit: {recipe.privacy.unit} (there is no ledger and no gateway)",
            ),
            (recipe.privacy.audit is not None, "privacy.audit"),
            (recipe.bundle is not None, "bundle (there is no sandbox for the recipe's own Python)"),
            (recipe.data.holdout is not None, "data.holdout (keep those rows out of the tables)"),
            (recipe.data.cohort is not None, "data.cohort (there is no view to select from)"),
            (recipe.federation.stop is not None, "federation.stop (it would need sums of losses)"),
            (recipe.federation.weights is not None, "federation.weights (it would need sums of them)"),
            (bool(recipe.adapter.ranks), "adapter.ranks"),
            (keeps(recipe), "what a site keeps for itself (nothing stays at a node between messages)"),
        )
        if lacks
    ]
    if lacking:
        raise RecipeError(
            "recipe.export",
            f"a Flower app of {recipe.name} would be without {'; '.join(lacking)}.",
            "Run the recipe with 'plasmid run', or export one that does not ask for it.",
        )


def client_app(recipe: Path) -> ClientApp:
    """Return the app of a site: its ``node_config`` has ``site``, its name, and ``table``, its rows."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        given = {name: str(context.node_config.get(name, "")) for name in ("site", "table")}
        if not all(given.values()):
            raise DataError(
                "data.node_config",
                "this node has no site or no table in its configuration.",
                """Start it with --node-config 'site="alpha" table="/path/of/rows.csv"'.""",
            )
        site = _Site.open(recipe, given["site"], Path(given["table"]))
        (arrays,) = message.content.array_records.values()
        (config,) = message.content.config_records.values()
        vector = site.answer(arrays, int(str(config["server-round"])))
        content = RecordDict({"arrays": vector, "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    return app


def server_app(recipe: Path) -> ServerApp:
    """Return the app of the server, which writes the adapter to ``adapter`` of its ``run_config``."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        document, base = _read(recipe)
        strategy = OverSum(document, base)
        shape = strategy.shape
        first = api.method(document).initial(document, shape)
        result = strategy.start(grid, packed(shape.state, first), num_rounds=document.rounds)
        state = unpacked(shape.state, result.arrays)
        release(Path(str(context.run_config["adapter"])), document, base, state)

    return app


def release(folder: Path, document: Recipe, base: BaseModel, state: NDArray[Any]) -> None:
    """Write what *state* stands for to *folder*, unsigned, with a card that says how it came about."""
    from plasmid.prediction.evaluation import write_release

    write_release(
        folder,
        document,
        base,
        state,
        provenance={
            "recipe": document.name,
            "base": base.digest,
            "rounds": document.rounds,
            "aggregation": "flower, in the clear",
        },
        privacy=IN_THE_CLEAR,
    )


class OverSum(Strategy):
    """Sums what the nodes send, and steps as the controller does: the method, then the recipe's strategy."""

    def __init__(self, document: Recipe, base: BaseModel) -> None:
        self._document, self._method = document, api.method(document)
        self.shape = self._method.shape(document, base)
        self._least = document.federation.min_sites
        self._nodes = build_strategy("FedAvg", {}, nodes=self._least)
        self._optimiser = optimiser_of(document, self.shape.state)
        self._state = np.zeros(0, np.float32)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the state to every node."""
        self._state = unpacked(self.shape.state, arrays)
        return self._nodes.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next state. Raises RunFailed (``run.nodes_lost``): too few have answered."""
        given = list(replies)
        answers = [reply for reply in given if not reply.has_error()]
        if len(answers) < self._least:
            raise RunFailed(
                "run.nodes_lost",
                f"{len(answers)} of {len(given)} nodes have answered in round {server_round}; "
                f"federation.min_sites is {self._least}.",
                "The SuperNodes' own logs say why the others have not.",
            )
        vectors = [
            unpacked(self.shape.schema, record)
            for answer in answers
            for record in answer.content.array_records.values()
        ]
        summed = api.Sum(np.sum(vectors, axis=0, dtype=np.float64), len(vectors), server_round)
        averaged = self._method.advance(self._document, self.shape, self._state, summed)
        state = self._optimiser.step(server_round, self._state, averaged)
        return packed(self.shape.state, state), MetricRecord({"nodes": len(answers)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask as the strategy does, which is told to evaluate nowhere."""
        return self._nodes.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return what the strategy does."""
        return self._nodes.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Let the strategy say what it is."""
        self._nodes.summary()


def packed(schema: AdapterSchema, state: NDArray[Any]) -> ArrayRecord:
    """Return *state* [schema.size] as tensors by name, float32."""
    tensors = schema.unflatten(np.asarray(state, np.float32))
    return ArrayRecord({name: Array(value) for name, value in tensors.items()})


def unpacked(schema: AdapterSchema, record: ArrayRecord | None) -> NDArray[Any]:
    """Return the tensors of *record* as one vector, float32 [schema.size]."""
    assert record is not None, "a run that has not failed has its arrays"
    return schema.flatten({name: np.asarray(array.numpy(), np.float32) for name, array in record.items()})


class _Site:
    """One site's engine, kept for as long as the process."""

    def __init__(self, recipe: Path, name: str, table: Path) -> None:
        from plasmid.worker.engine import Engine

        self._document, self._base = _read(recipe)
        method = api.method(self._document)
        self._name, self._shape = name, method.shape(self._document, self._base)
        frames = method.frames(self._document, self._base)
        rows = read_table(table, self._document.contract)
        self._engine = Engine(self._document, self._base, rows, frames=frames)

    @classmethod
    @functools.lru_cache(maxsize=1)
    def open(cls, recipe: Path, name: str, table: Path) -> _Site:
        """Return the site, with the base loaded and the rows encoded at the first call."""
        return cls(recipe, name, table)

    def answer(self, arrays: ArrayRecord, round_: int) -> ArrayRecord:
        """Return this site's vector for the state in *arrays*."""
        from plasmid.worker.rounds import site_vector

        document = self._document
        sent = site_vector(
            self._engine,
            document,
            self._base,
            unpacked(self._shape.state, arrays),
            site=self._name,
            round_=round_,
            seed=local_seed(document.seed, self._name, round_),
            sampling=None,
        )
        vector, _ = bounded(sent, self._shape, noised=False)
        return packed(self._shape.schema, vector)


def _read(recipe: Path) -> tuple[Recipe, BaseModel]:
    document = Recipe.model_validate(json.loads(recipe.read_text(encoding="utf-8")))
    exportable(document)
    model = document.model
    return document, ensure_model(model.base, revision=model.revision, digest=model.digest)
