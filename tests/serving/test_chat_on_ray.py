"""A causal base on a real Ray Serve: the same events, through Ray's proxy."""

from __future__ import annotations

from pathlib import Path

import pytest
from openai import OpenAI

from plasmid.bases.importer import import_folder
from plasmid.endpoint.access import new_token
from plasmid.endpoint.service import Settings
from plasmid.serving.deploy import running
from support.tiny.tiny_causal import stock_adapter, tiny_causal

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Serve's own fields are declared the old way
def test_a_chat_and_its_stream_come_through_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    base = import_folder(
        tiny_causal(tmp_path / "base"), model_id="tiny-chat", head="causal", template="chatml"
    )
    folder = stock_adapter(tmp_path / "a", base)
    tokens = tmp_path / "tokens"
    key = new_token(tokens, "ana")
    settings = Settings(base="tiny-chat", adapters={"a": str(folder)}, device="cpu")
    asked = {"model": "a", "messages": MESSAGES, "seed": 3, "max_tokens": 20}
    with (
        running(settings, tokens=tokens) as url,
        OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60) as client,
    ):
        whole = client.chat.completions.create(**asked)  # type: ignore[call-overload]
        chunks = list(client.chat.completions.create(**asked, stream=True))  # type: ignore[call-overload]
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert said == whole.choices[0].message.content
        assert len(chunks) > 3
