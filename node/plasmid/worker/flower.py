"""A stock Flower ``ClientApp`` as the half of a recipe. The worker alone imports this, and with it flwr.

Rules
-----
1. One round is one message ``train`` as upstream FedAvg sends it: the state as ``arrays``, the recipe's
   settings and ``server-round`` as ``config``. An app around a ``client_fn`` gets both under older names,
   and its arrays are a list in the recipe's order.
2. Its vector is the arrays that it returns minus the state: what it changed. Names and shapes are the
   recipe's. Whatever else it returns, metrics and ``num-examples`` included, goes nowhere: those are numbers
   of one site alone, without bound or noise. So every site has the same weight.
3. Its rows are a CSV file, ``data-path`` of ``node_config``: the view's columns by name, a cell empty where
   it is missing. The file is without a name from its first byte on; the path is a link to what this process
   has open, for as long as the call.
4. A site is the only partition of itself. ``Context.state`` is new in every round: an attempt that is
   repeated would otherwise see what the failed one left, and a worker may be another one in each round.
"""

from __future__ import annotations

import csv
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from plasmid.data.snapshot import Snapshot, unnamed
from plasmid.data.table import Table
from plasmid.recipes.bundle import Bundle
from plasmid.worker.bundle import as_vector, called

SERVER_NODE, SITE_NODE = 1, 2
_NAMES, _OLDER_NAMES = ("arrays", "config"), ("fitins.parameters", "fitins.config")


def assume_identity() -> None:
    """Make this process able to build messages; one that flwr's own runtime has started is so already."""
    try:
        TaskIdentity.run_id  # noqa: B018 - it raises while it is not set
    except RuntimeError:
        TaskIdentity.task_id = 1
        TaskIdentity.run_id = 1
        TaskIdentity.node_id = SERVER_NODE


class FlowerHalf:
    """The ``ClientApp`` *app* of a recipe's *bundle*. Raises RunFailed (``run.bundle``) where it is none."""

    def __init__(self, bundle: Bundle, app: Any) -> None:
        called("the kind of its app", _check_kind, app)
        assume_identity()
        self._app, self._bundle = app, bundle
        self._older = app._call is not None  # noqa: SLF001 - with a client_fn; nothing public says so
        self._settings = {
            name: value for name, value in bundle.settings.items() if not isinstance(value, tuple)
        }
        self._rows: int | None = None
        self._told = False

    def vector(self, state: NDArray[np.float64], table: Table | Snapshot, round_: int) -> NDArray[np.float64]:
        """Return what the app changes of *state* in a round, float64 [size].

        Raises
        ------
        RunFailed
            ``run.bundle``: the app raises something, or returns other arrays than the recipe declares.
        """
        with tempfile.TemporaryDirectory() as folder:
            if self._rows is None:
                self._rows = written(table, Path(folder))
            rows = Path(folder) / "rows.csv"
            rows.symlink_to(f"/proc/self/fd/{self._rows}")
            context = Context(
                run_id=TaskIdentity.run_id,
                node_id=SITE_NODE,
                node_config={"data-path": str(rows), "partition-id": 0, "num-partitions": 1},
                state=RecordDict(),
                run_config=dict(self._settings),
            )
            reply = called("its app", self._app, self._message(state, round_), context)
        after = called("its app's arrays, against bundle.tensors", self._arrays, reply)
        if context.state and not self._told:
            self._told = True
            what = "what its app puts into Context.state is new in every round, and not kept"
            print(f"bundle: {what}", file=sys.stderr, flush=True)  # noqa: T201 - worker.log, at home
        return as_vector(after - state, self._bundle.size)

    def _message(self, state: NDArray[np.float64], round_: int) -> Message:
        arrays, config = _OLDER_NAMES if self._older else _NAMES
        given: dict[str, Array] = {}
        start = 0
        for name, shape in self._bundle.ordered:
            size = int(np.prod(shape))
            value = state[start : start + size].reshape(shape).astype(self._bundle.dtype)
            given[name] = Array(value)
            start += size
        content: dict[str, Any] = {
            arrays: ArrayRecord(given),
            config: ConfigRecord({**self._settings, "server-round": round_}),
        }
        return Message(RecordDict(content), dst_node_id=SITE_NODE, message_type="train", group_id=str(round_))

    def _arrays(self, reply: Message) -> NDArray[np.float64]:
        """Return the arrays of *reply* in the recipe's order, float64 [size]. Raises what does not fit."""
        (record,) = reply.content.array_records.values()
        ordered = self._bundle.ordered
        names = [name for name, _ in ordered] if self._older else list(record)
        values = {name: array.numpy() for name, array in zip(names, record.values(), strict=True)}
        if {name: value.shape for name, value in values.items()} != dict(ordered):
            raise ValueError
        return np.concatenate(
            [values[name].astype(np.float64, casting="safe").ravel() for name, _ in ordered]
        )


def _check_kind(app: Any) -> None:
    if not isinstance(app, ClientApp):
        raise TypeError


def written(table: Table | Snapshot, folder: Path) -> int:
    """Return a descriptor, for reading, of *table* as CSV in a file without a name in *folder*.

    Raises
    ------
    StorageError
        The disk is full.
    """
    writing, reading = unnamed(folder)
    with io.TextIOWrapper(writing, encoding="utf-8", newline="") as text:
        out = csv.writer(text, lineterminator="\n")
        out.writerow(table.names)
        out.writerows(row.values() for row in table.records())
    return reading
