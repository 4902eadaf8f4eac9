"""Batch prediction over Ray Data: its tasks and actors as plain objects, and all of it once under Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from plasmid.adapters.artifact import read_head
from plasmid.bases.store import BaseModel
from plasmid.core.errors import DataError
from plasmid.prediction.inputs import Input, file_input
from plasmid.prediction.job import local, predict_to
from plasmid.prediction.journal import Part
from plasmid.serving.batch import _blocks, _failed, _packed, _read, _row, _unpacked, _Worker
from support.tiny.tiny_adapter import tiny_adapter, tiny_rows

pytestmark = pytest.mark.usefixtures("at_home")
BLOCK = 16


@pytest.fixture(scope="module")
def adapter(tiny: dict[str, BaseModel], model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_adapter(tmp_path_factory.mktemp("made") / "adapter", tiny["esm"])


def test_a_worker_gives_the_parts_of_the_local_engine(adapter: Path, tmp_path: Path) -> None:
    source = file_input(tiny_rows(tmp_path / "rows.csv", 40), read_head(adapter), keep=["id"])
    (task,) = _blocks(source, BLOCK, frozenset({1})).get_read_tasks(7)
    worker = _Worker(str(adapter), source.keep)
    rows = [worker(batch).to_pylist()[0] for batch in task()]
    expected = list(local(adapter, source, BLOCK, {1}))
    assert [row["number"] for row in rows] == [0, 2]
    assert [_unpacked(row["content"]) for row in rows] == [part.table for part in expected]
    assert {row["error"] for row in rows} == {None}


def test_what_is_wrong_in_a_task_or_an_actor_comes_back_as_data(adapter: Path, tmp_path: Path) -> None:
    data = tiny_rows(tmp_path / "rows.csv", 40)
    source = file_input(data, read_head(adapter))
    data.unlink()
    (batch,) = _read(source, BLOCK, frozenset())
    worker = _Worker(str(adapter), ())
    assert json.loads(worker(batch).to_pylist()[0]["error"])["code"] == "data.unreadable"
    absent = _Worker(str(tmp_path / "no-adapter"), ())
    row = _row(0, _packed(pa.table({"sequence": ["ACD"], "gene": ["a"]})))
    assert json.loads(absent(row).to_pylist()[0]["error"])["code"] == "model.adapter_missing"
    defect = worker(_row(0, _packed(pa.table({"other": ["CANARY"]})))).to_pylist()[0]["error"]
    assert json.loads(defect)["code"] == "run.predict_failed"
    assert "KeyError at " in defect
    assert "CANARY" not in defect
    assert _failed(DataError("data.changed", "x")).schema == row.schema


RUN = """
import sys
from pathlib import Path
from plasmid.core.errors import PlasmidError
from plasmid.adapters.artifact import read_head
from plasmid.prediction.inputs import file_input
from plasmid.prediction.job import predict_to
from plasmid.serving.batch import _local_ray, engine

folder, data, out = map(Path, sys.argv[1:])
source = file_input(data, read_head(folder), keep=["id"])
with _local_ray(2):
    done = predict_to(out, folder, source, block_rows=16, engine=engine(2))
    try:
        list(engine(1)(Path("no-adapter"), source, 16, set()))
    except PlasmidError as error:
        code = error.code
print(done.rows, done.resumed, code)
"""


@pytest.mark.slow
def test_ray_goes_on_where_the_local_engine_stopped_with_the_same_scores(
    adapter: Path, model_home: Path, tmp_path: Path
) -> None:
    data = tiny_rows(tmp_path / "rows.parquet", 200)
    source = file_input(data, read_head(adapter), keep=["id"])

    def interrupted(folder: Path, source: Input, size: int, done: Collection[int]) -> Iterator[Part]:
        yield next(local(folder, source, size, done))
        raise KeyboardInterrupt

    out = tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        predict_to(out, adapter, source, block_rows=BLOCK, engine=interrupted)
    found = subprocess.run(
        [sys.executable, "-c", RUN, str(adapter), str(data), str(out)],
        env={**os.environ, "PLASMID_HOME": str(model_home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert found.stdout.split() == ["200", "16", "model.adapter_missing"], found.stderr
    assert "core_worker" not in found.stderr, "Ray's own lines are not for a user's screen"
    whole = predict_to(tmp_path / "whole.parquet", adapter, source, block_rows=BLOCK).out
    here, there = pa.parquet.read_table(whole), pa.parquet.read_table(out)
    assert here.column("id").equals(there.column("id"))
    for label in ("no", "yes"):
        gap = pa.compute.max(pa.compute.abs(pa.compute.subtract(here.column(label), there.column(label))))
        assert gap.as_py() < 1e-6
