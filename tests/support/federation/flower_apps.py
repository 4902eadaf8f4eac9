"""Stock Flower apps for tests: what anybody may have in a ``client_app.py``, and their recipes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp import strategy as strategies

from plasmid.computations import api
from plasmid.recipes.bundle import BundleRecipe
from plasmid.worker.flower import assume_identity
from support.federation.bundle_recipes import bundle_recipe

COLUMNS: dict[str, Any] = {
    "height": {"type": "number", "bounds": [0, 300], "missing": "allowed"},
    "group": {"type": "text", "max_length": 20, "missing": "allowed"},
}
READS = """
    import csv

    import numpy as np
    from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    def heights(context):
        with open(context.node_config["data-path"], newline="") as file:
            return np.array([float(row["height"]) for row in csv.DictReader(file) if row["height"]])
"""
MODERN = (
    READS
    + """
    app = ClientApp()

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        config, cells = msg.content["config"], heights(context)
        level, slope = msg.content["arrays"].to_numpy_ndarrays()
        for _ in range(config["local-steps"]):
            level = level + context.run_config["rate"] * (cells.mean() / 100 - level)
            slope = slope - context.run_config["rate"] * config["server-round"] * slope
        arrays = ArrayRecord({"level": Array(level), "slope": Array(slope)})
        metrics = MetricRecord({"num-examples": len(cells), "highest": float(cells.max())})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)
"""
)
OLDER = (
    READS
    + """
    from flwr.client import NumPyClient

    class Client(NumPyClient):
        def __init__(self, context):
            self._context = context

        def fit(self, parameters, config):
            cells = heights(self._context)
            moved = [value + config["server-round"] * cells.mean() / 1000 for value in parameters]
            return moved, len(cells), {"highest": float(cells.max())}

    app = ClientApp(lambda context: Client(context).to_client())
"""
)


def flower_recipe(code: str, **changes: Any) -> BundleRecipe:
    """Return a recipe whose ``app`` is in *code*; two tensors, unless *changes* say otherwise."""
    given: Mapping[str, Any] = {
        "half": "flower",
        "columns": COLUMNS,
        "max_rows": 100,
        "advance": "update",
        "tensors": {"level": [1], "slope": [2]},
        "initial": {"slope": [0.5, -0.25]},
        "dtype": "float64",
        "settings": {"rate": 0.25, "local-steps": 2},
        **changes,
    }
    return bundle_recipe(code, **given)


class Nodes(Grid):
    """Upstream's interface over ClientApps in this process, by node: each with its context."""

    def __init__(self, apps: dict[int, tuple[ClientApp, Context]]) -> None:
        self._apps = apps

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any:
        return None

    def create_message(self, *given: Any, **named: Any) -> Message:
        return Message(*given, **named)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._apps)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        replies = []
        for message in messages:
            app, context = self._apps[message.metadata.dst_node_id]
            replies.append(app(message, context))
        return replies


def first_arrays(document: BundleRecipe) -> dict[str, np.ndarray]:
    """Return the first state as a server's first arrays, in the vector's order."""
    computation: Any = api.load("bundle")
    shape = computation.shape(document, None)
    first, start, arrays = computation.initial(document, shape), 0, {}
    for tensor in shape.schema.tensors:
        values = first[start : start + tensor.size].reshape(tensor.shape)
        arrays[tensor.name] = values.astype(document.bundle.dtype)
        start += tensor.size
    return arrays


def by_flower(
    document: BundleRecipe, file: Path, tables: Iterable[Path], strategy: str = "FedAvg", **options: Any
) -> np.ndarray:
    """Return the last arrays of upstream's strategy over the app in *file*, one node for each of *tables*."""
    apps = {}
    for node, rows in enumerate(tables, 10):
        spec = importlib.util.spec_from_file_location(f"client_app_{node}", file)
        assert spec is not None
        assert spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        settings = {"data-path": str(rows)}
        context = Context(1, node, settings, RecordDict(), dict(document.bundle.settings))
        apps[node] = (module.app, context)
    assume_identity()
    arrays = {name: Array(values) for name, values in first_arrays(document).items()}
    upstream: Any = getattr(strategies, strategy)(
        fraction_evaluate=0.0, min_train_nodes=len(apps), min_available_nodes=len(apps), **options
    )
    config = ConfigRecord(dict(document.bundle.settings))
    result = upstream.start(Nodes(apps), ArrayRecord(arrays), num_rounds=document.rounds, train_config=config)
    return np.concatenate([result.arrays[name].numpy().ravel() for name in arrays])
