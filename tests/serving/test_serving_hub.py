"""The endpoint and a real hub: adapters by id at first use, with the caller's own rights."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import HfApi

from plasmid.adapters.predict import predict
from plasmid.bases.store import BaseModel
from plasmid.endpoint.access import HubAccess
from plasmid.endpoint.app import make_app
from plasmid.endpoint.service import Service, Settings
from plasmid.hubclient.client import find_hub
from plasmid.protocol.identity import fingerprint
from plasmid.release.folder import Trust
from support.federation.release_world import World
from support.hub.hub_server import served
from support.servers.asgi import AsgiClient
from support.tiny.served import ROWS, write


def _auth(token: str) -> dict[str, dict[str, str]]:
    return {"headers": {"Authorization": f"Bearer {token}"}}


def test_an_adapter_of_the_hub_answers_those_who_may_read_it(
    tiny: dict[str, BaseModel], at_home: None, tmp_path: Path
) -> None:
    folder = write(tmp_path / "adapter", tiny["bert"], "small")
    (tmp_path / "hub").mkdir()
    with served(tmp_path / "hub") as hub, asyncio.Runner() as runner:
        ana, bob = hub.user("ana"), hub.user("bob", scope="read")
        api = HfApi(endpoint=hub.url, token=ana)
        api.create_repo("ana/small", private=True)
        commit = api.upload_folder(repo_id="ana/small", folder_path=folder).oid
        service = Service.open(
            Settings(base="tiny-bert", adapters={}, hub=hub.url, device="cpu", unsigned=True)
        )
        access = HubAccess(hub.url)
        client = AsgiClient(make_app(service, access, local=False), runner)
        asked: dict[str, Any] = {"model": "ana/small", "input": ROWS["sequence"]}

        answer = client.post("/v1/predict", json=asked, **_auth(ana))
        assert answer.status_code == 200, answer.text
        found = [list(one["probabilities"].values()) for one in answer.json()["data"]]
        np.testing.assert_allclose(found, predict(folder, ROWS, device="cpu"), atol=1e-5)
        assert answer.json()["model"] == f"ana/small@{commit}"

        refused = client.post("/v1/predict", json=asked, **_auth(bob))
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "adapter_not_found")
        seen = {
            name: [one["id"] for one in client.get("/v1/models", **_auth(token)).json()["data"]]
            for name, token in (("ana", ana), ("bob", bob))
        }
        assert seen == {"ana": ["tiny-bert", f"ana/small@{commit}"], "bob": ["tiny-bert"]}
        for model in ("ana/nothing", "ana/small@v9"):
            missing = client.post("/v1/predict", json=asked | {"model": model}, **_auth(ana))
            assert (missing.status_code, missing.json()["error"]["code"]) == (404, "adapter_not_found")
        assert client.get("/v1/models", **_auth("hf_nobodys_token")).status_code == 401
        assert service.pool.loads == 1

        find_hub(hub.url, token=ana).ours("ana/small", "retire", {"reason": "A site withdrew."})
        assert "retired" not in answer.json()
        warned = client.post("/v1/predict", json=asked | {"model": "ana/small@main"}, **_auth(ana))
        assert (warned.status_code, warned.json()["retired"]) == (200, "A site withdrew.")
        assert client.get("/v1/models", **_auth(ana)).json()["data"][1]["retired"] == "A site withdrew."
        assert not logging.getLogger("huggingface_hub.utils._http").isEnabledFor(logging.CRITICAL)
        runner.run(service.batcher.close())
        runner.run(access.close())


def test_what_the_hub_serves_is_verified_against_the_operator_s_pins(
    tiny: dict[str, BaseModel], at_home: None, tmp_path: Path
) -> None:
    world = World(tiny["bert"])
    world.fetch(tmp_path / "released")
    plain = write(tmp_path / "plain", tiny["bert"], "small")
    (tmp_path / "hub").mkdir()
    with served(tmp_path / "hub") as hub, asyncio.Runner() as runner:
        ana = hub.user("ana")
        api = HfApi(endpoint=hub.url, token=ana)
        for name, folder in (("released", tmp_path / "released"), ("plain", plain)):
            api.create_repo(f"ana/{name}")
            api.upload_folder(repo_id=f"ana/{name}", folder_path=folder)
        pins = Trust(sites={"beta": fingerprint(world.identities["beta"].public)})
        service = Service.open(Settings(base="tiny-bert", adapters={}, hub=hub.url, device="cpu", trust=pins))
        access = HubAccess(hub.url)
        client = AsgiClient(make_app(service, access, local=False), runner)

        found = client.post("/v1/embeddings", json={"model": "ana/released", "input": "CASSF"}, **_auth(ana))
        assert (found.status_code, found.json()["signatures"]) == (200, "pinned")
        listed = client.get("/v1/models", **_auth(ana)).json()["data"]
        assert [one.get("signatures") for one in listed] == [None, "pinned"]

        refused = client.post("/v1/embeddings", json={"model": "ana/plain", "input": "CASSF"}, **_auth(ana))
        assert refused.status_code == 422
        assert refused.json() == {
            "error": {
                "message": "The adapter 'ana/plain' is not served here. Nobody has signed it.",
                "type": "invalid_request_error",
                "param": "model",
                "code": "model.release_unsigned",
            }
        }

        api.upload_file(path_or_fileobj=b"{}", path_in_repo="head.json", repo_id="ana/released")
        changed = client.post(
            "/v1/embeddings", json={"model": "ana/released@main", "input": "CASSF"}, **_auth(ana)
        )
        assert (changed.status_code, changed.json()["error"]["code"]) == (422, "model.release_changed")
        assert service.pool.loads == 1
        runner.run(service.batcher.close())
        runner.run(access.close())


@pytest.fixture(autouse=True)
def _no_progress(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
