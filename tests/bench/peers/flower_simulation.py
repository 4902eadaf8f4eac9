"""The peer of the benchmark ``simulation``: Flower's own simulation of the same sites.

Rules
-----
1. Flower as it ships: ``run_simulation`` with as many SuperNodes as sites, upstream FedAvg that draws as many
   of them a round, its Ray backend with one CPU a client, no evaluation.
2. There are two clients. ``ordinary`` is what Flower's users write (:mod:`bench.peers.flower_client`).
   ``engine`` does what our site does, by the same functions (:func:`bench.ours.simulation.trained`), and
   keeps the base model for as long as its process lives: it shows what the simulations themselves cost.
3. What leaves a client is not rounded into a ring, which favours Flower.
4. It runs in an environment of its own, which :func:`environment` makes: Flower's extra ``simulation`` pins
   another Ray than ours (docs/decisions/0028). Everything else there is this interpreter's own.

Run as ``python -m bench.peers.flower_simulation FOLDER ROUNDS CLIENT``; the last line of stdout is every
round's seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from importlib.metadata import requires
from itertools import pairwise
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from bench.ours.simulation import SITES, SITES_A_ROUND


def environment(folder: Path) -> Path:
    """Return the interpreter of an environment in *folder* that has the Ray which Flower asks for."""
    pins = [Requirement(text) for text in requires("flwr") or ()]
    (ray,) = {
        f"ray{pin.specifier}"
        for pin in pins
        if pin.name == "ray" and (pin.marker is None or pin.marker.evaluate({"extra": "simulation"}))
    }
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--disable-pip-version-check",
        ray,
    ]
    subprocess.run(install, check=True, stdout=sys.stderr)
    own = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    ours = [path for path in sys.path if path and Path(path).is_dir()]
    (Path(own) / "of_the_benchmark.pth").write_text("\n".join([*ours, ""]), encoding="utf-8")
    return python


def main() -> None:
    """Simulate with Flower, and print the seconds of every round."""
    os.environ |= {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    folder, rounds, ordinary = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "ordinary"
    ends: list[float] = []
    client, server = ClientApp(), ServerApp()

    class Timed(FedAvg):
        def configure_train(self, *arguments: Any, **named: Any) -> Any:
            if not ends:
                ends.append(time.monotonic())
            return super().configure_train(*arguments, **named)

        def aggregate_train(self, *arguments: Any, **named: Any) -> Any:
            found = super().aggregate_train(*arguments, **named)
            ends.append(time.monotonic())
            return found

    @client.train()
    def train(message: Message, context: Context) -> Message:
        from bench.ours.simulation import base_of, recipe_of, table_of, trained
        from bench.peers import flower_client

        content: Any = message.content
        state, round_ = content["arrays"]["state"].numpy(), int(content["config"]["server-round"])
        site = int(str(context.node_config["partition-id"]))
        if ordinary:
            recipe = recipe_of(folder, 1).recipe
            after = flower_client.trained(base_of(recipe).path, recipe, table_of(folder, site), state)
        else:
            after = trained(folder, site, state, round_)
        arrays = ArrayRecord({"state": Array(after)})
        answer = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
        return Message(answer, reply_to=message)

    @server.main()
    def run(grid: Grid, context: Context) -> None:
        from bench.ours.simulation import base_of, first_state, recipe_of
        from bench.peers import flower_client

        recipe = recipe_of(folder, 1).recipe
        first = flower_client.first_state(base_of(recipe).path, recipe) if ordinary else first_state(folder)
        strategy = Timed(
            fraction_train=SITES_A_ROUND / SITES,
            fraction_evaluate=0.0,
            min_train_nodes=SITES_A_ROUND,
            min_available_nodes=SITES,
        )
        arrays = ArrayRecord({"state": Array(first)})
        strategy.start(grid, arrays, num_rounds=rounds, train_config=ConfigRecord())

    backend: Any = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, client, num_supernodes=SITES, backend_config=backend)
    print(json.dumps([after - before for before, after in pairwise(ends)]))


if __name__ == "__main__":
    main()
