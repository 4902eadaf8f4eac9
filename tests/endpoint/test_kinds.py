"""``/v1/predict`` for adapters of every kind at once, in batches that they share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from plasmid.adapters.predict import Predictor
from plasmid.bases.store import BaseModel
from plasmid.endpoint.access import Anybody
from plasmid.endpoint.app import make_app
from plasmid.endpoint.service import Service, Settings
from support.servers.asgi import AsgiClient
from support.tiny.served import ROWS, write

SHAPES = ("large", "number", "residues")


@pytest.fixture(scope="module")
def folders(tiny: dict[str, BaseModel], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("adapters")
    return {shape: write(home / shape, tiny["bert"], shape) for shape in SHAPES}


@pytest.fixture(scope="module")
def client(tiny: dict[str, BaseModel], model_home: Path, folders: dict[str, Path]) -> Iterator[AsgiClient]:
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setenv("PLASMID_HOME", str(model_home))
        adapters = {name: str(folder) for name, folder in folders.items()}
        service = Service.open(Settings(base="tiny-bert", adapters=adapters, device="cpu"))
        yield AsgiClient(make_app(service, Anybody(), local=True), runner)
        runner.run(service.batcher.close())


def test_a_number_comes_in_its_unit(client: AsgiClient, folders: dict[str, Path], at_home: None) -> None:
    wanted = Predictor.load(folders["number"], device="cpu").predict(ROWS).answers.values[:, 0]
    rows = [
        dict(zip(("sequence", "age"), cells, strict=True))
        for cells in zip(ROWS["sequence"], ROWS["age"], strict=True)
    ]
    body = client.post("/v1/predict", json={"model": "number", "rows": rows}).json()
    assert (body["task"], body["unit"], body["bounds"]) == ("regression", "kg", [-5.0, 15.0])
    assert "labels" not in body
    assert "calibrated" not in body
    np.testing.assert_allclose([one["value"] for one in body["data"]], wanted, atol=1e-4)
    assert body["data"][3].keys() == {"object", "index", "value"}


def test_each_residue_gets_a_label(client: AsgiClient, folders: dict[str, Path], at_home: None) -> None:
    wanted = list(Predictor.load(folders["residues"], device="cpu").predict(ROWS).answers)
    body = client.post("/v1/predict", json={"model": "residues", "input": ROWS["sequence"]}).json()
    assert (body["task"], body["labels"], body["calibrated"]) == (
        "token-classification",
        ["h", "e", "c"],
        False,
    )
    for one, sequence, alone in zip(body["data"], ROWS["sequence"], wanted, strict=True):
        np.testing.assert_allclose(one["probabilities"], alone, atol=1e-5)
        assert len(one["label"]) == len(sequence)
        assert one["label"] == "".join("hec"[best] for best in alone.argmax(1))
    cut = client.post("/v1/predict", json={"model": "residues", "input": "A" * 40, "truncate": True}).json()
    assert len(cut["data"][0]["label"]) == 30


def test_models_tell_their_kind(client: AsgiClient) -> None:
    told = {shape: client.get(f"/v1/models/{shape}").json() for shape in SHAPES}
    assert [told[shape]["task"] for shape in SHAPES] == [
        "classification",
        "regression",
        "token-classification",
    ]
    assert (told["number"]["unit"], told["number"]["columns"]) == ("kg", ["sequence", "age"])
    assert told["residues"]["labels"] == ["h", "e", "c"]


def test_what_is_not_a_number_is_told_by_its_place(client: AsgiClient) -> None:
    rows = [{"sequence": "CAS", "age": 3.0}, {"sequence": "CAS", "age": 300.0}]
    answer = client.post("/v1/predict", json={"model": "number", "rows": rows})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "data.number_out_of_bounds"
    assert "first at row 2" in error["message"]
    assert "300" not in error["message"]
