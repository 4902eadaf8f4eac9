"""A causal base behind the endpoint, asked by OpenAI's own client: chats, streams, refusals, and silence."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from plasmid.bases.importer import import_folder
from plasmid.bases.store import BaseModel
from plasmid.endpoint.access import Anybody
from plasmid.endpoint.app import make_app
from plasmid.endpoint.chat import MOST_WAITING, ChatService
from plasmid.endpoint.factory import open_service
from plasmid.endpoint.local import LocalServer
from plasmid.endpoint.service import Service, Settings
from plasmid.language.causal import CausalModel, Sampling
from plasmid.language.chat_templates import Message
from support.servers.asgi import AsgiClient
from support.tiny.tiny_causal import CONTEXT, stock_adapter, tiny_causal

CANARY = "CANARYCANARY"
HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASMID_HOME", str(tmp_path_factory.mktemp("home")))
        yield tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def base(home: Path) -> BaseModel:
    folder = tiny_causal(home / "base")
    return import_folder(folder, model_id="tiny-chat", head="causal", template="chatml")


@pytest.fixture(scope="module")
def service(home: Path, base: BaseModel) -> ChatService:
    adapters = {name: str(stock_adapter(home / name, base, seed=seed)) for seed, name in enumerate("ab")}
    other = import_folder(tiny_causal(home / "other", seed=9), model_id="other", head="causal")
    adapters["foreign"] = str(stock_adapter(home / "foreign", other))
    made = open_service(Settings(base=base.id, adapters=adapters, pinned=("a",), device="cpu"))
    assert isinstance(made, ChatService)
    return made


@pytest.fixture(scope="module")
def server(service: ChatService) -> Iterator[LocalServer]:
    server = LocalServer(service, Anybody())
    server.start()
    yield server
    server.close()


@pytest.fixture
def client(server: LocalServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def _alone(service: ChatService, folder: Path | None, prompt: list[int], most: int) -> str:
    model: CausalModel = service.model
    told: list[str] = []
    adapter = None if folder is None else model.read(folder)
    model.write(prompt, adapter, Sampling(most=most, temperature=0.0), tell=told.append)
    return "".join(told)


def test_a_chat_is_answered_by_the_base_and_by_each_adapter(
    client: OpenAI, service: ChatService, home: Path
) -> None:
    prompt = service.model.prompts.chat([Message("user", "Hello")])
    texts = {}
    for name in ("tiny-chat", "a", "b"):
        answer = client.chat.completions.create(model=name, messages=HELLO, temperature=0, max_tokens=10)
        choice = answer.choices[0]
        texts[name] = choice.message.content
        assert texts[name] == _alone(service, None if name == "tiny-chat" else home / name, prompt, 10)
        assert answer.usage is not None
        assert (answer.object, answer.model, choice.message.role) == ("chat.completion", name, "assistant")
        assert answer.usage.prompt_tokens == len(prompt)
        assert answer.usage.total_tokens == len(prompt) + answer.usage.completion_tokens
        assert (choice.finish_reason, answer.usage.completion_tokens) == ("length", 10)
    assert len(set(texts.values())) == 3


def test_a_stream_says_the_same_piece_by_piece(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "a", "messages": HELLO, "temperature": 1.2, "seed": 5, "max_tokens": 20}
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    said = [chunk.choices[0] for chunk in chunks[:-1]]
    assert "".join(one.delta.content or "" for one in said) == whole.choices[0].message.content
    assert [one.finish_reason for one in said] == [None] * (len(said) - 1) + [whole.choices[0].finish_reason]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_events_are_as_the_protocol_has_them(server: LocalServer) -> None:
    body = {"model": "a", "messages": HELLO, "max_tokens": 2, "stream": True, "temperature": 0}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-plasmid-inputs"] == "not stored, not logged; computed on this machine"
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert chunks[0]["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert chunks[-1]["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert not any("usage" in chunk for chunk in chunks)


def test_what_goes_wrong_in_a_stream_is_told_in_it(
    client: OpenAI, service: ChatService, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = service.model.model.forward
    calls = iter(range(100))

    def forward(*given: Any, **named: Any) -> Any:
        if next(calls) == 4:
            raise ValueError(CANARY)
        return original(*given, **named)

    monkeypatch.setattr(service.model.model, "forward", forward)
    stream = client.chat.completions.create(
        model="a", messages=HELLO, temperature=0, max_tokens=9, stream=True
    )
    said: list[str] = []
    with pytest.raises(openai.APIError, match="The server failed") as caught:
        said.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(said)
    assert CANARY not in str(caught.value)
    monkeypatch.undo()
    _until(lambda: service._here == 0 and service._under_way == {})
    assert client.chat.completions.create(model="a", messages=HELLO, max_tokens=2).choices


def test_a_text_goes_on_and_stops_where_it_is_told_to(
    client: OpenAI, service: ChatService, home: Path
) -> None:
    asked: dict[str, Any] = {"model": "b", "prompt": "Once", "temperature": 0}
    whole = client.completions.create(**asked, max_tokens=12)
    text = whole.choices[0].text
    assert text == _alone(service, home / "b", service.model.prompts.text("Once"), 12)
    assert (whole.object, whole.choices[0].finish_reason) == ("text_completion", "length")
    stop = text[4:6]
    ended = client.completions.create(**asked, max_tokens=12, stop=[stop, "never to come"])
    assert ended.choices[0].text == text[: text.index(stop)]
    assert ended.choices[0].finish_reason == "stop"
    pieces = [
        chunk.choices[0].text for chunk in client.completions.create(**asked, max_tokens=12, stream=True)
    ]
    assert "".join(pieces) == text
    assert len(pieces) > 3
    default = client.completions.create(**asked).usage
    assert default is not None
    assert default.completion_tokens <= 16


def _refused(call: Any, status: int, code: str, **asked: Any) -> str:
    with pytest.raises(openai.APIStatusError) as caught:
        call(**asked)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    return str(caught.value)


def test_what_is_refused_and_why(client: OpenAI) -> None:
    chat, complete = client.chat.completions.create, client.completions.create
    _refused(chat, 404, "adapter_not_found", model="nobody", messages=HELLO)
    told = _refused(chat, 422, "model.base_differs", model="foreign", messages=HELLO)
    assert "made for other" in told
    long = [{"role": "user", "content": CANARY * 20}]
    told = _refused(chat, 400, "context_length_exceeded", model="a", messages=long)
    assert f"{CONTEXT} tokens" in told
    assert CANARY not in told
    told = _refused(complete, 400, "context_length_exceeded", model="a", prompt="abc", max_tokens=CONTEXT)
    assert f"3 and {CONTEXT} tokens" in told
    for extra in (
        {"n": 2},
        {"temperature": 2.5},
        {"top_p": 0},
        {"presence_penalty": 1},
        {"logprobs": True},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"max_tokens": 0},
        {"stream_options": {"include_usage": True}},
        {"stop": ["a"] * 5},
    ):
        _refused(chat, 400, "invalid_request", model="a", messages=HELLO, **extra)
    _refused(chat, 400, "invalid_request", model="a", messages=[{"role": "tool", "content": "x"}])
    _refused(client.embeddings.create, 400, "model_not_an_encoder", model="tiny-chat", input="x")


def test_a_base_without_a_template_has_no_chat_and_an_encoder_no_text(
    home: Path, model_home: Path, tiny: dict[str, BaseModel]
) -> None:
    with asyncio.Runner() as runner:
        made = open_service(Settings(base="other", adapters={}, device="cpu"))
        asking = AsgiClient(make_app(made, Anybody(), local=True), runner)
        answer = asking.post("/v1/chat/completions", json={"model": "other", "messages": HELLO})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_without_chat")
        body = {"model": "other", "prompt": "Once", "max_tokens": 3}
        assert asking.post("/v1/completions", json=body).status_code == 200
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PLASMID_HOME", str(model_home))
            encoder = open_service(Settings(base="tiny-bert", adapters={}, device="cpu"))
        assert isinstance(encoder, Service)
        asking = AsgiClient(make_app(encoder, Anybody(), local=True), runner)
        for path, rest in (("chat/completions", {"messages": HELLO}), ("completions", {"prompt": "x"})):
            answer = asking.post(f"/v1/{path}", json={"model": "tiny-bert", **rest})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_without_text")
        runner.run(encoder.close())


def test_models_say_what_they_are_for(client: OpenAI) -> None:
    found = {one.id: one.model_dump() for one in client.models.list()}
    assert set(found) == {"tiny-chat", "a", "b", "foreign"}
    assert (found["tiny-chat"]["task"], found["tiny-chat"]["chat"]) == ("text-generation", True)
    assert (found["a"]["parent"], found["a"]["rank"], found["a"]["max_model_len"]) == (
        "tiny-chat",
        4,
        CONTEXT,
    )


class _Slow:
    """Makes each token of *model* take so long, or until it may go on, and counts them."""

    def __init__(self, model: CausalModel, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.tokens = 0
        self.go = threading.Event()
        original = model.model.forward

        def forward(*given: Any, **named: Any) -> Any:
            self.tokens += 1
            self.go.wait(seconds)
            return original(*given, **named)

        monkeypatch.setattr(model.model, "forward", forward)


@pytest.mark.parametrize("stream", [True, False])
def test_who_goes_away_ends_the_text(
    stream: bool, server: LocalServer, service: ChatService, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = _Slow(service.model, monkeypatch, 0.05)
    body = {"model": "a", "messages": HELLO, "max_tokens": 60, "stream": stream, "seed": 1}
    url = f"{server.url}/v1/chat/completions"
    if stream:
        with httpx.stream("POST", url, json=body) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=body, timeout=0.4)
    _until(lambda: service.model.silent_s is None and service._here == 0)
    assert 0 < slow.tokens < 50
    assert service._under_way == {}


def _until(met: Any) -> None:
    until = time.monotonic() + 10
    while not met():
        assert time.monotonic() < until, "it goes on"
        time.sleep(0.02)


def test_one_text_at_a_time_and_a_queue_with_an_end(
    server: LocalServer, service: ChatService, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = _Slow(service.model, monkeypatch, 60)
    body = {"model": "a", "prompt": "x", "max_tokens": 2, "temperature": 0}
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.post(f"{server.url}/v1/completions", json=body, timeout=60))

    asking = [threading.Thread(target=ask) for _ in range(MOST_WAITING + 1)]
    for thread in asking:
        thread.start()
    _until(lambda: service.waiting == MOST_WAITING)
    late = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
    assert (late.status_code, late.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert late.headers["retry-after"] == "5"
    slow.go.set()
    for thread in asking:
        thread.join()
    assert [one.status_code for one in answers] == [200] * (MOST_WAITING + 1)
    assert len({one.json()["choices"][0]["text"] for one in answers}) == 1
    assert service.waiting == 0


@pytest.mark.promise("inputs-not-kept")
def test_nothing_of_a_prompt_or_an_answer_is_logged(
    server: LocalServer,
    client: OpenAI,
    service: ChatService,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    messages: Any = [{"role": "user", "content": CANARY}]
    said = client.chat.completions.create(model="a", messages=messages, temperature=0, max_tokens=8)
    broken = httpx.post(f"{server.url}/v1/chat/completions", json={"model": "a", CANARY: 1})
    assert broken.status_code == 400

    def fails(*_: Any, **__: Any) -> None:
        raise ValueError(CANARY)

    monkeypatch.setattr(service.model.model, "generate", fails)
    _refused(client.chat.completions.create, 500, "internal_error", model="a", messages=messages)
    figures = httpx.get(f"{server.url}/metrics").text
    captured = capfd.readouterr()
    kept = "".join([caplog.text, captured.out, captured.err, figures, broken.text])
    assert CANARY not in kept
    assert "a request failed" in caplog.text
    text = said.choices[0].message.content
    assert text
    assert text not in kept
    assert "plasmid_written_tokens_total 0" not in figures
