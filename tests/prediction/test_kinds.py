"""Tables scored by adapters of further kinds: what the files hold, and what the verbs say."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from plasmid.adapters.adapter import adapter_schema
from plasmid.adapters.artifact import read_head
from plasmid.adapters.predict import Predictor
from plasmid.bases.store import BaseModel
from plasmid.cli.verbs.evaluate import app as evaluate_app
from plasmid.cli.verbs.predict import app as predict_app
from plasmid.core.errors import UsageError
from plasmid.prediction.evaluation import evaluate_file, predict_file, write_release
from plasmid.prediction.inputs import file_input
from plasmid.prediction.job import predict_to
from support.tiny.tiny_kinds import KINDS, kind_recipe, kind_table

pytestmark = pytest.mark.usefixtures("at_home")
ROWS = 30


@pytest.fixture(params=KINDS[1:])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def adapter(kind: str, tiny: dict[str, BaseModel], tmp_path: Path) -> Path:
    recipe = kind_recipe(tiny["esm"], kind)
    size = adapter_schema(tiny["esm"], recipe.adapter.lora, recipe.head()).size
    state = np.random.default_rng(0).normal(0, 0.3, size).astype(np.float32)
    write_release(tmp_path / "adapter", recipe, tiny["esm"], state, provenance={"rounds": 0})
    return tmp_path / "adapter"


@pytest.fixture
def data(kind: str, tmp_path: Path) -> Path:
    table = kind_table(kind, ROWS, seed=4)
    columns = {"id": [f"r{row}" for row in range(ROWS)], **table.columns}
    pa.parquet.write_table(pa.table(columns), tmp_path / "rows.parquet")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[*columns], *zip(*columns.values(), strict=True)])
    return tmp_path / "rows.parquet"


def test_parquet_and_csv_say_what_the_predictor_says(
    kind: str, adapter: Path, data: Path, tmp_path: Path
) -> None:
    about = read_head(adapter)
    answers = Predictor.load(adapter, device="cpu").predict(kind_table(kind, ROWS, seed=4).columns).answers
    for ending in ("parquet", "csv"):
        done = predict_to(
            tmp_path / f"out.{ending}", adapter, file_input(data, about, keep=["id"]), block_rows=7
        )
        assert done.columns == tuple(about.head.columns())
    found = pa.parquet.read_table(tmp_path / "out.parquet")
    assert found.column_names == ["id", *about.head.columns()]
    metadata = json.loads(found.schema.metadata[b"plasmid"])
    assert about.head.facts().items() <= metadata.items()
    wanted = about.head.table(answers)
    with (tmp_path / "out.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["id"] for row in written] == [f"r{row}" for row in range(ROWS)]
    for name, shape in about.head.columns().items():
        cells = found.column(name).to_pylist()
        if shape == "text":
            assert cells == wanted[name] == [row[name] for row in written]
        elif shape == "numbers":
            flat = np.concatenate([np.array(cell) for cell in cells])
            np.testing.assert_allclose(flat, np.concatenate(list(wanted[name])), atol=1e-5)
            texts = [np.array(row[name].split(" "), np.float32).tolist() for row in written]
            assert texts == cells, "CSV reads back as the same float32"
        else:
            np.testing.assert_allclose(cells, wanted[name], atol=1e-4)
            assert [np.float32(row[name]) for row in written] == cells


def test_a_column_called_like_the_answer_s_cannot_be_kept(adapter: Path, data: Path) -> None:
    with pytest.raises(UsageError) as caught:
        file_input(data, read_head(adapter), keep=["prediction"])
    assert caught.value.code == "usage.predict_column"


def test_the_verbs_answer_for_the_kind(kind: str, adapter: Path, data: Path) -> None:
    run = CliRunner().invoke(predict_app, [str(adapter), "--data", str(data), "--format", "json"])
    answer = json.loads(run.stdout)["data"]
    scores = predict_file(adapter, data)
    assert len(answer["scores"]) == ROWS
    if kind == "regression":
        assert (answer["unit"], answer["bounds"]) == ("%", [0.0, 60.0])
        np.testing.assert_allclose(answer["scores"], scores.answers.values[:, 0], atol=1e-4)
    else:
        assert answer["labels"] == ["n", "w"]
        lengths = [len(str(one)) for one in kind_table(kind, ROWS, seed=4).columns["sequence"]]
        assert [len(one["label"]) for one in answer["scores"]] == lengths
    lines = CliRunner().invoke(predict_app, [str(adapter), "--data", str(data)]).stdout.splitlines()
    assert lines[0] == ",".join(read_head(adapter).head.columns())
    assert len(lines) == ROWS + 1

    run = CliRunner().invoke(evaluate_app, [str(adapter), "--data", str(data), "--format", "json"])
    told = json.loads(run.stdout)["data"]
    found = evaluate_file(adapter, data.with_suffix(".csv"))
    metric = "spearman" if kind == "regression" else "macro-f1"
    assert told["metrics"] == {"metric": metric, "value": pytest.approx(found.value, abs=1e-6)}
    assert told["rows"] == found.rows == ROWS
