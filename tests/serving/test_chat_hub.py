"""A causal base and a real hub: an adapter of PEFT's, or of a run, by its id, at first use."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from plasmid.bases.importer import import_folder
from plasmid.endpoint.access import HubAccess
from plasmid.endpoint.app import make_app
from plasmid.endpoint.chat import ChatService
from plasmid.endpoint.factory import open_service
from plasmid.endpoint.service import Settings
from plasmid.language.causal import Sampling
from plasmid.language.chat_templates import Message
from support.federation.release_world import World
from support.hub.hub_server import served
from support.servers.asgi import AsgiClient
from support.tiny.tiny_causal import stock_adapter, tiny_causal
from support.tiny.tiny_language import language_recipe


def test_a_stock_adapter_of_the_hub_answers_where_unsigned_ones_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    base = import_folder(
        tiny_causal(tmp_path / "base"), model_id="tiny-chat", head="causal", template="chatml"
    )
    folder = stock_adapter(tmp_path / "adapter", base)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nMade up.\n")
    (tmp_path / "hub").mkdir()
    with served(tmp_path / "hub") as hub, asyncio.Runner() as runner:
        token = hub.user("ana")
        api = HfApi(endpoint=hub.url, token=token)
        api.create_repo("ana/notes")
        commit = api.upload_folder(repo_id="ana/notes", folder_path=folder).oid
        asked = {"model": "ana/notes", "messages": [{"role": "user", "content": "Hello"}]}
        for unsigned, status in ((False, 422), (True, 200)):
            settings = Settings(base="tiny-chat", adapters={}, hub=hub.url, device="cpu", unsigned=unsigned)
            service = open_service(settings)
            assert isinstance(service, ChatService)
            access = HubAccess(hub.url)
            client = AsgiClient(make_app(service, access, local=False), runner)
            answer = client.post(
                "/v1/chat/completions",
                json=asked | {"temperature": 0, "max_tokens": 8},
                headers={"Authorization": f"Bearer {token}"},
            )
            assert answer.status_code == status, answer.text
            runner.run(access.close())
        assert (answer.json()["model"], answer.json()["signatures"]) == (f"ana/notes@{commit}", "none")
        told: list[str] = []
        prompt = service.model.prompts.chat([Message("user", "Hello")])
        service.model.write(
            prompt, service.model.read(folder), Sampling(most=8, temperature=0.0), tell=told.append
        )
        assert answer.json()["choices"][0]["message"]["content"] == "".join(told)


def test_an_adapter_of_a_run_is_verified_as_others_are_and_needs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    base = import_folder(
        tiny_causal(tmp_path / "base"), model_id="tiny-chat", head="causal", template="chatml"
    )
    folder = tmp_path / "adapter"
    World(base, kind=lambda one: language_recipe(one, "causal")).fetch(folder)
    (tmp_path / "hub").mkdir()
    with served(tmp_path / "hub") as hub, asyncio.Runner() as runner:
        token = hub.user("ana")
        api = HfApi(endpoint=hub.url, token=token)
        api.create_repo("ana/organs")
        asked = {"messages": [{"role": "user", "content": "abba"}], "temperature": 0, "max_tokens": 4}
        commits = [api.upload_folder(repo_id="ana/organs", folder_path=folder).oid]
        weights = folder / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
        commits.append(api.upload_folder(repo_id="ana/organs", folder_path=folder).oid)
        service = open_service(Settings(base="tiny-chat", adapters={}, hub=hub.url, device="cpu"))
        access = HubAccess(hub.url)
        client = AsgiClient(make_app(service, access, local=False), runner)
        answers = [
            client.post(
                "/v1/chat/completions",
                json=asked | {"model": f"ana/organs@{commit}"},
                headers={"Authorization": f"Bearer {token}"},
            )
            for commit in commits
        ]
        runner.run(access.close())
    assert [answer.status_code for answer in answers] == [200, 422], answers[0].text
    assert answers[0].json()["signatures"] == "unpinned"
    assert answers[1].json()["error"]["code"] == "model.release_changed"
