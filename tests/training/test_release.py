"""From a trained state to a folder, and from the folder to scores on a file."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from plasmid.adapters.adapter import initial_state
from plasmid.bases.store import BaseModel
from plasmid.cli.verbs.evaluate import app as evaluate_app
from plasmid.cli.verbs.predict import app as predict_app
from plasmid.core.errors import DataError, ModelError
from plasmid.data.table import Table
from plasmid.prediction.evaluation import evaluate_file, predict_file, write_release
from plasmid.tasks.metrics import label_indices, score
from plasmid.worker.engine import Engine
from support.tiny.tiny_task import tiny_recipe, tiny_table

pytestmark = pytest.mark.usefixtures("at_home")


def _csv(path: Path, table: Table, **extra: str) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*table.columns, *extra])
        for row in range(table.rows):
            cells = [values[row] for values in table.columns.values()]
            writer.writerow(["NA" if cell is None else cell for cell in cells] + list(extra.values()))
    return path


@pytest.fixture
def trained(tiny: dict[str, BaseModel], tmp_path: Path) -> tuple[Path, Engine, np.ndarray]:
    base = tiny["esm"]
    recipe = tiny_recipe(base)
    engine = Engine(recipe, base, tiny_table(), device="cpu")
    state = engine.train(initial_state(engine.schema, 0), steps=30, seed=0)
    write_release(
        tmp_path / "adapter",
        recipe,
        base,
        state,
        provenance={"rounds": 1},
        results={"federated": 0.9},
        project="Project `trial`, for research.",
    )
    return tmp_path / "adapter", engine, state


def test_the_folder_scores_like_the_engine(trained: tuple[Path, Engine, np.ndarray], tmp_path: Path) -> None:
    folder, engine, state = trained
    unseen = tiny_table(60, seed=4)
    expected = engine.predict(state, unseen.columns).values
    data = _csv(tmp_path / "data.csv", unseen, comment="ignored")
    scores = predict_file(folder, data)
    assert scores.head.classes == ("no", "yes")
    np.testing.assert_allclose(scores.answers.values, expected, atol=1e-5)
    found = evaluate_file(folder, data)
    truth = label_indices(["no", "yes"], unseen.columns["label"])
    assert (found.metric, found.rows) == ("auc", 60)
    assert found.value == pytest.approx(score("auc", expected, truth), abs=2e-3)
    assert found.value > 0.7
    assert "## Project\n\nProject `trial`, for research.\n" in (folder / "README.md").read_text()


def test_the_verbs(trained: tuple[Path, Engine, np.ndarray], tmp_path: Path) -> None:
    folder, engine, state = trained
    unseen = tiny_table(12, seed=5)
    data = _csv(tmp_path / "data.csv", unseen)
    arguments = [str(folder), "--data", str(data), "--format", "json"]
    answer = json.loads(CliRunner().invoke(predict_app, arguments).stdout.splitlines()[-1])
    assert answer["status"] == "ok"
    assert answer["data"]["labels"] == ["no", "yes"]
    np.testing.assert_allclose(
        answer["data"]["scores"], engine.predict(state, unseen.columns).values[:, 1], atol=1e-5
    )
    answer = json.loads(CliRunner().invoke(evaluate_app, arguments).stdout.splitlines()[-1])
    assert answer["data"]["rows"] == 12
    assert answer["data"]["metrics"].keys() == {"metric", "value"}
    plain = CliRunner().invoke(predict_app, arguments[:3])
    assert plain.stdout.splitlines()[0] == "no,yes"
    assert len(plain.stdout.splitlines()) == 13
    assert CliRunner().invoke(evaluate_app, arguments[:3]).stdout == "auc 1.000 on 12 rows\n"


def test_bad_files(trained: tuple[Path, Engine, np.ndarray], tmp_path: Path) -> None:
    folder = trained[0]
    table = tiny_table(8)
    unlabelled = {name: values for name, values in table.columns.items() if name != "label"}
    data = _csv(tmp_path / "data.csv", Table(unlabelled, 8))
    assert len(predict_file(folder, data).as_json()) == 8
    with pytest.raises(DataError) as missing:
        evaluate_file(folder, data)
    assert missing.value.code == "data.column_missing"
    head = json.loads((folder / "head.json").read_text())
    head["columns"]["gene"]["type"] = "mystery"
    (folder / "head.json").write_text(json.dumps(head))
    with pytest.raises(ModelError) as strange:
        predict_file(folder, data)
    assert strange.value.code == "model.adapter_invalid"


def test_more_than_two_labels_give_a_list_per_row() -> None:
    from plasmid.prediction.evaluation import Scores
    from plasmid.tasks import Answers
    from plasmid.tasks.classification import ClassificationHead

    probabilities = np.asarray([[0.5, 0.25, 0.25]], np.float32)
    three, two = (ClassificationHead(labels=list(labels)) for labels in ("abc", "ab"))
    assert Scores(three, Answers(probabilities), ()).as_json() == [[0.5, 0.25, 0.25]]
    assert Scores(two, Answers(probabilities[:, :2]), ()).as_json() == [0.25]
