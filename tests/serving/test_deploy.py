"""The endpoint on a real Ray Serve: the same application, behind Ray's proxy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from plasmid.endpoint.access import new_token
from plasmid.endpoint.service import Settings
from plasmid.models.predict import predict
from plasmid.models.store import BaseModel
from plasmid.serving.deploy import running
from served import ROWS, write


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Serve's own fields are declared the old way
def test_two_replicas_answer_as_one_adapter_alone_does(
    tiny: dict[str, BaseModel], at_home: None, tmp_path: Path
) -> None:
    folder = write(tmp_path / "a", tiny["bert"], "small")
    alone = predict(folder, ROWS, device="cpu")
    tokens = tmp_path / "tokens"
    headers = {"Authorization": f"Bearer {new_token(tokens, 'ana')}"}
    settings = Settings(base="tiny-bert", adapters={"a": str(folder)}, pinned=("a",), device="cpu")
    with (
        running(settings, tokens=tokens, replicas=2) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        assert client.get("/ready").status_code == 200
        assert client.get("/v1/models").status_code == 401

        def ask(sequence: str) -> list[float]:
            answer = client.post("/v1/predict", json={"model": "a", "input": sequence}, headers=headers)
            assert "leave the caller" in answer.headers["x-plasmid-inputs"]
            return list(answer.json()["data"][0]["probabilities"].values())

        with ThreadPoolExecutor(12) as threads:
            found = list(threads.map(ask, ROWS["sequence"] * 4))
        missing = client.post("/v1/predict", json={"model": "no/such", "input": "CAS"}, headers=headers)
    np.testing.assert_allclose(found, np.tile(alone, (4, 1)), atol=1e-5)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "adapter_not_found")
