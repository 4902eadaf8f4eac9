"""The no-op app that Flower runs: three sites receive arrays and send the same arrays back.

Rules
-----
1. Nothing but flwr and numpy is imported, so that a new ClientApp process starts as fast as it can.
2. The strategy is upstream FedAvg, unmodified. Its own ``evaluate_fn`` hook, which runs on the server
   before the first round and after each one, is the clock.
3. The clock is ``time.monotonic()``, which every process of one Linux host shares.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, _context: Context) -> Message:
    """Return the arrays as they came, with the weight of one example."""
    content = RecordDict({"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds, and append ``<round> <monotonic seconds>`` to the times file after each."""
    config = context.run_config
    sites = int(config["sites"])
    times_file = Path(str(config["times-file"]))

    def note_time(server_round: int, _arrays: ArrayRecord) -> None:
        with times_file.open("a", encoding="utf-8") as file:
            file.write(f"{server_round} {time.monotonic()!r}\n")

    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
    arrays = ArrayRecord([np.zeros(int(config["parameters"]), dtype=np.float32)])
    strategy.start(grid, arrays, num_rounds=int(config["rounds"]), evaluate_fn=note_time)
