"""The application as callers see it: answers, refusals, and what stays unsaid."""

from __future__ import annotations

import asyncio
import base64
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.adapters.predict import predict
from plasmid.bases.store import BaseModel
from plasmid.core.errors import UsageError
from plasmid.endpoint.access import Anybody, TokenFile, new_token
from plasmid.endpoint.app import make_app
from plasmid.endpoint.service import Service, Settings
from support.servers.asgi import AsgiClient
from support.tiny.served import ROWS, write

CANARY = "CANARYCANARY"


@pytest.fixture(scope="module")
def folders(tiny: dict[str, BaseModel], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("adapters")
    return {shape: write(home / shape, tiny["bert"], shape) for shape in ("small", "large")} | {
        "esm": write(home / "esm", tiny["esm"], "small")
    }


@pytest.fixture(scope="module")
def service(tiny: dict[str, BaseModel], model_home: Path, folders: dict[str, Path]) -> Service:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASMID_HOME", str(model_home))
        adapters = {name: str(folder) for name, folder in folders.items()}
        return Service.open(Settings(base="tiny-bert", adapters=adapters, pinned=("small",), device="cpu"))


@pytest.fixture(scope="module")
def runner(service: Service) -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner
        runner.run(service.batcher.close())


@pytest.fixture
def client(service: Service, runner: asyncio.Runner) -> AsgiClient:
    return AsgiClient(make_app(service, Anybody(), local=True), runner)


def _error(answer: Any, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    return error


def test_predictions_are_those_of_predict(
    client: AsgiClient, folders: dict[str, Path], at_home: None
) -> None:
    alone = predict(folders["large"], ROWS)
    rows = [dict(zip(ROWS, cells, strict=True)) for cells in zip(*ROWS.values(), strict=True)]
    rows[0]["sequence"] = f"  {ROWS['sequence'][0].lower()} "  # read as a file's cell is
    answer = client.post("/v1/predict", json={"model": "large", "rows": rows})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    found = [[one["probabilities"][label] for label in ("x", "y", "z")] for one in body["data"]]
    np.testing.assert_allclose(found, alone, atol=1e-5)
    assert [one["label"] for one in body["data"]] == ["xyz"[best] for best in alone.argmax(1)]
    assert (body["calibrated"], body["model"], body["labels"]) == (False, "large", ["x", "y", "z"])
    tokens = sum(len(sequence) + 2 for sequence in ROWS["sequence"])
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert answer.headers["x-plasmid-inputs"] == "not stored, not logged; computed on this machine"


def test_embeddings_are_as_openai_clients_read_them(client: AsgiClient) -> None:
    asked = {"model": "tiny-bert", "input": ["CASSF", "CAW"]}
    plain = client.post("/v1/embeddings", json=asked).json()
    packed = client.post("/v1/embeddings", json=asked | {"encoding_format": "base64"}).json()
    assert [one["index"] for one in plain["data"]] == [0, 1]
    assert plain["object"] == "list"
    assert plain["data"][0]["object"] == "embedding"
    for one, other in zip(plain["data"], packed["data"], strict=True):
        floats = struct.unpack("<32f", base64.b64decode(other["embedding"]))
        np.testing.assert_allclose(floats, one["embedding"], atol=1e-6)
    adapted = client.post("/v1/embeddings", json={"model": "small", "input": "CASSF"}).json()
    apart = np.abs(np.array(adapted["data"][0]["embedding"]) - plain["data"][0]["embedding"]).max()
    assert apart > 0.01
    assert adapted["usage"]["prompt_tokens"] == 7


def test_models_name_their_parent(client: AsgiClient) -> None:
    client.post("/v1/predict", json={"model": "small", "input": "CASSF"})
    body = client.get("/v1/models").json()
    by_name = {one["id"]: one for one in body["data"]}
    assert by_name["tiny-bert"]["parent"] is None
    assert by_name["tiny-bert"]["max_model_len"] == 64
    assert by_name["small"] | {"created": 0} == {
        "id": "small",
        "object": "model",
        "created": 0,
        "owned_by": "plasmid",
        "root": "tiny-bert",
        "parent": "tiny-bert",
        "max_model_len": 32,
        "task": "classification",
        "labels": ["no", "yes"],
        "columns": ["sequence"],
        "calibrated": False,
    }
    assert "not stored" in body["inputs"]
    assert client.get("/v1/models/large").json()["columns"] == ["sequence", "gene"]
    _error(client.get("/v1/models/nobody/nothing"), 404, "adapter_not_found")


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "words"),
    [
        ("predict", {"model": "unknown", "input": "CAS"}, 404, "adapter_not_found", "'unknown'"),
        ("predict", {"model": "../small", "input": "CAS"}, 404, "adapter_not_found", "is not served"),
        ("predict", {"model": "team/x", "input": "CAS"}, 404, "adapter_not_found", "no hub"),
        ("predict", {"model": "tiny-bert", "input": "CAS"}, 400, "model_without_labels", "no labels"),
        ("predict", {"model": "small"}, 400, "invalid_request", "either input or rows"),
        (
            "predict",
            {"model": "large", "input": "CAS"},
            400,
            "data.column_missing",
            "data contract (1 problem):\n  column 'gene' is missing. ",
        ),
        ("predict", {"model": "small", "input": "A" * 31}, 400, "context_length_exceeded", "33 tokens"),
        ("predict", {"model": "small", "input": "A" * 31}, 400, "context_length_exceeded", "at most 32"),
        (
            "embeddings",
            {"model": "tiny-bert", "input": "A" * 63},
            400,
            "context_length_exceeded",
            "65 tokens",
        ),
        ("embeddings", {"model": "small", "input": ["CAS", "C4S"]}, 400, "data.residue_invalid", "row 2"),
        ("embeddings", {"model": "small", "input": [[1, 2]]}, 400, "invalid_request", "input"),
        ("embeddings", {"model": "small", "input": []}, 400, "invalid_request", "input"),
        ("embeddings", {"model": "small", "input": " "}, 400, "data.missing_value", "missing"),
        (
            "embeddings",
            {"model": "small", "input": "CAS", "dimensions": 8},
            400,
            "dimensions_unsupported",
            "32",
        ),
        (
            "embeddings",
            {"model": "small", "input": "CAS", "temprature": 1},
            400,
            "invalid_request",
            "unknown key",
        ),
        ("predict", {"model": "esm", "input": "CAS"}, 422, "model.base_differs", "tiny-esm with digest"),
    ],
)
def test_refusals_say_what_is_wrong(
    client: AsgiClient, path: str, body: dict[str, Any], status: int, code: str, words: str
) -> None:
    assert words in _error(client.post(f"/v1/{path}", json=body), status, code)["message"]


def test_a_long_input_is_cut_where_that_is_asked_for(client: AsgiClient) -> None:
    asked = {"model": "small", "input": "A" * 40, "truncate": True}
    cut = client.post("/v1/predict", json=asked).json()
    whole = client.post("/v1/predict", json={"model": "small", "input": "A" * 30}).json()
    assert cut["data"] == whole["data"]


def test_bodies_that_are_no_requests(client: AsgiClient) -> None:
    for body, status, code in (
        (b"{" + CANARY.encode(), 400, "invalid_request"),
        (b"[" * 400_000, 400, "invalid_request"),
        (b"[" * 100_000, 400, "invalid_request"),
        (b'{"model": "small", "input": "CAS", "input": "CAW"}', 400, "invalid_request"),
        (b" " * (8 * 2**20 + 1), 413, "request_too_large"),
    ):
        _error(
            client.post("/v1/predict", content=body, headers={"Content-Type": "application/json"}),
            status,
            code,
        )
    _error(client.get("/v1/predict"), 405, "method_not_allowed")
    _error(client.get("/v2"), 404, "not_found")


@pytest.mark.promise("inputs-not-kept")
def test_no_input_is_said_again_or_logged(
    client: AsgiClient, service: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    rows = [{"sequence": CANARY, "gene": CANARY, CANARY: CANARY}]
    bodies: list[dict[str, Any]] = [
        {"model": "small", "input": CANARY + "4"},
        {"model": "small", "input": CANARY, CANARY: CANARY},
        {"model": "small", "rows": [{"sequence": {CANARY: 1}}]},
        {"model": "large", "rows": rows},
    ]
    texts = [client.post("/v1/predict", json=body).text for body in bodies]

    async def broken(_items: Any) -> Any:
        raise ValueError(CANARY)

    monkeypatch.setattr(service.batcher, "submit", broken)
    answer = client.post("/v1/predict", json={"model": "small", "input": CANARY})
    assert _error(answer, 500, "internal_error")["type"] == "server_error"
    assert "a request failed: ValueError at test_app.py" in caplog.text
    assert CANARY not in "".join([*texts, answer.text, caplog.text, client.get("/metrics").text])


def test_loopback_answers_to_loopback_names(client: AsgiClient) -> None:
    for host, status in (
        ("localhost", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:1", 200),
        ("evil.example:80", 421),
    ):
        assert client.get("/v1/models", headers={"Host": host}).status_code == status


def test_health_readiness_and_figures(
    client: AsgiClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.post("/v1/predict", json={"model": "small", "input": ["CAS", "CAW"]})
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").status_code == 200
    page = client.get("/metrics").text
    samples = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert int(samples['plasmid_requests_total{route="predict",status="200"}']) >= 1
    assert samples["plasmid_row_seconds_count"] == samples['plasmid_row_seconds_bucket{le="+Inf"}']
    assert int(samples["plasmid_adapters"]) >= 1
    assert int(samples["plasmid_tokens_total"]) >= 10
    monkeypatch.setattr(service.batcher, "since_s", -1e9)
    assert client.get("/ready").status_code == 503


def test_tokens_of_a_file_are_hashed_and_needed(
    service: Service, runner: asyncio.Runner, tmp_path: Path
) -> None:
    path = tmp_path / "tokens"
    token, other = new_token(path, "ana"), new_token(path, "bob")
    assert token not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    client = AsgiClient(make_app(service, TokenFile(path), local=False), runner)
    assert "leave the caller" in client.get("/v1/models").headers["x-plasmid-inputs"]
    for given in (None, "", "Bearer", "Bearer nobodys", f"Basic {token}"):
        headers = {} if given is None else {"Authorization": given}
        error = _error(client.get("/v1/models", headers=headers), 401, "invalid_api_key")
        assert error["type"] == "invalid_request_error"
    for known in (token, other):
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {known}"}).status_code == 200
    path.write_text(path.read_text().splitlines()[1] + "\n")  # ana is taken out
    assert client.get("/v1/models", headers={"Authorization": f"Bearer {token}"}).status_code == 401
    assert client.get("/health").status_code == 200


def test_a_file_of_tokens_must_be_one(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    for content in (None, "ana secret\n"):
        if content:
            path.write_text(content)
        with pytest.raises(UsageError) as caught:
            TokenFile(path)
        assert caught.value.code == "usage.tokens"
        assert "secret" not in str(caught.value)
    with pytest.raises(UsageError):
        new_token(path, "two words")


def test_a_caller_has_so_many_requests_under_way(service: Service, client: AsgiClient) -> None:
    service._under_way["anonymous"] = 64
    try:
        answer = client.get("/v1/models")
        assert _error(answer, 429, "rate_limit_exceeded")["type"] == "requests"
        assert answer.headers["retry-after"] == "1"
    finally:
        del service._under_way["anonymous"]
    assert client.get("/v1/models").status_code == 200
