"""Batch prediction over Ray Data: the engine ``ray`` of ``plasmid predict``.

    one reading task -> blocks -> a pool of actors with the model -> parts -> the caller, who keeps a journal

Rules
-----
1. Blocks, scores and parts are those of :mod:`plasmid.prediction.job`: either engine goes on where the
   other stopped.
2. Rows stream: Ray holds as many blocks as its object store takes, and the reading task waits for the
   actors.
3. Ray is started for this prediction alone, on this host, with a token of its own and without a dashboard;
   it ends with it. Where the process has Ray running already, that one is used.
4. What a task or an actor finds wrong comes back as data, since Ray's own errors quote more than a person
   needs.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from plasmid.core.errors import PlasmidError, RunFailed, from_dict, place
from plasmid.core.files import home
from plasmid.prediction.inputs import Block, Input
from plasmid.prediction.job import Engine, Scorer
from plasmid.prediction.journal import Part
from plasmid.serving.ray_output import quiet_start, unheard

OBJECT_STORE_BYTES = 256 * 2**20
_SCHEMA = pa.schema(
    [("number", pa.int64()), ("cut", pa.int64()), ("content", pa.large_binary()), ("error", pa.string())]
)
"""What travels between tasks: a row is a block, or its part, as Arrow IPC, or an error as JSON."""


def engine(workers: int | None = None) -> Engine:
    """Return the engine with *workers* actors; None is one for each GPU, else for each core.

    Raises
    ------
    ModuleNotFoundError
        Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise ModuleNotFoundError("No module named 'ray'", name="ray")
    return partial(_predicted, workers)


def _predicted(
    workers: int | None, folder: Path, source: Input, size: int, done: Collection[int]
) -> Iterator[Part]:
    with _local_ray(workers) as ray:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        needs = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        blocks = ray.data.read_datasource(_blocks(source, size, frozenset(done)), override_num_blocks=1)
        parts = blocks.map_batches(
            _Worker,
            fn_constructor_args=(str(folder), source.keep),
            compute=ray.data.ActorPoolStrategy(size=workers or gpus or cores()),
            batch_size=1,
            batch_format="pyarrow",
            **needs,
        )
        for batch in parts.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in batch.to_pylist():
                if row["error"] is not None:
                    raise from_dict(json.loads(row["error"]))
                yield Part(row["number"], _unpacked(row["content"]), row["cut"])


def _blocks(source: Input, size: int, done: frozenset[int]) -> Any:
    """Return what Ray reads: the blocks that are not done, made by one task, one after the other."""
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    class Blocks(Datasource):
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:  # noqa: ARG002 - Ray's
            unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(partial(_read, source, size, done), unknown)]

    made: Any = Blocks
    return made()


def _read(source: Input, size: int, done: frozenset[int]) -> Iterator[pa.Table]:
    try:
        for block in source.blocks(size, done):
            yield _row(block.number, _packed(block.rows))
    except PlasmidError as error:
        yield _failed(error)


class _Worker:
    """An actor that holds the model."""

    def __init__(self, folder: str, keep: tuple[str, ...]) -> None:
        self._problem: PlasmidError | None = None
        try:
            self._score = Scorer(Path(folder), keep)
        except PlasmidError as error:
            self._problem = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        row = batch.to_pylist()[0]
        if row["error"] is not None:
            return batch
        if self._problem is not None:
            return _failed(self._problem)
        try:
            part = self._score(Block(row["number"], _unpacked(row["content"])))
        except PlasmidError as error:
            return _failed(error)
        except Exception as error:  # noqa: BLE001 - a defect; its text could quote a cell
            return _failed(RunFailed("run.predict_failed", f"a worker failed at {place(error)}.", ""))
        return _row(part.number, _packed(part.table), part.cut)


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _local_ray(workers: int | None) -> Iterator[Any]:
    """Yield Ray, running on this host with a processor more than there are workers: for the reading task."""
    from plasmid.coordinator.coordinator import secure_ray

    folder = home() / "serving"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    secure_ray(folder)  # before Ray is imported, which looks at once
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1  # or blocks of rows would be joined to 128 MB, and go to one worker
    context.enable_progress_bars = False
    own = not ray.is_initialized()
    if own:
        with quiet_start():
            ray.init(
                address="local",
                num_cpus=(workers or cores()) + 1,
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=OBJECT_STORE_BYTES,
                logging_level=logging.ERROR,
            )
    try:
        with redirect_stdout(sys.stderr):  # where Ray prints what becomes of tasks: stdout is the answer's
            yield ray
    finally:
        if own:
            with unheard():
                ray.shutdown()


def _row(number: int, content: bytes, cut: int = 0) -> pa.Table:
    return pa.table({"number": [number], "cut": [cut], "content": [content], "error": [None]}, _SCHEMA)


def _failed(error: PlasmidError) -> pa.Table:
    said = json.dumps(error.as_dict())
    return pa.table({"number": [-1], "cut": [0], "content": [b""], "error": [said]}, _SCHEMA)


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _unpacked(content: bytes) -> pa.Table:
    with closing(pa.ipc.open_stream(content)) as stream:
        return stream.read_all()
