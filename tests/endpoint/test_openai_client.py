"""The real ``openai`` package against the endpoint on a socket: answers, and the exceptions it raises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from plasmid.bases.store import BaseModel
from plasmid.endpoint.access import TokenFile, new_token
from plasmid.endpoint.local import LocalServer
from plasmid.endpoint.service import Service, Settings
from support.tiny.served import write


@pytest.fixture(scope="module")
def client(
    tiny: dict[str, BaseModel], model_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[openai.OpenAI]:
    home = tmp_path_factory.mktemp("openai")
    folder = write(home / "small", tiny["bert"], "small")
    token = new_token(home / "tokens", "ana")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASMID_HOME", str(model_home))
        service = Service.open(Settings(base="tiny-bert", adapters={"small": str(folder)}, device="cpu"))
    server = LocalServer(service, TokenFile(home / "tokens"))
    server.start()
    with httpx.Client(trust_env=False, timeout=60) as web:
        yield openai.OpenAI(base_url=f"{server.url}/v1", api_key=token, max_retries=0, http_client=web)
    server.close()


def test_models_are_listed_and_one_is_retrieved(client: openai.OpenAI) -> None:
    found = {one.id: one for one in client.models.list()}
    assert list(found) == ["tiny-bert", "small"]
    assert found["small"].owned_by == "plasmid"
    one = client.models.retrieve("small")
    assert (one.id, one.object) == ("small", "model")
    assert one.model_extra is not None
    assert one.model_extra["parent"] == "tiny-bert"
    assert one.model_extra["labels"] == ["no", "yes"]


def test_embeddings_come_as_the_client_asks_for_them(client: openai.OpenAI) -> None:
    # Unless it is told otherwise this client asks for base64 and unpacks it.
    packed = client.embeddings.create(model="small", input=["CASSF", "CAW"])
    plain = client.embeddings.create(model="small", input=["CASSF", "CAW"], encoding_format="float")
    assert [one.index for one in packed.data] == [0, 1]
    assert packed.usage.prompt_tokens == 7 + 5
    for one, other in zip(packed.data, plain.data, strict=True):
        assert len(one.embedding) == 32
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-6)
    base = client.embeddings.create(model="tiny-bert", input="CASSF").data[0].embedding
    assert np.abs(np.subtract(base, packed.data[0].embedding)).max() > 0.01
    raw = client.embeddings.with_raw_response.create(model="small", input="CASSF")
    assert raw.headers["x-plasmid-inputs"] == "not stored, not logged; computed on this machine"


def test_an_unknown_adapter_is_not_found(client: openai.OpenAI) -> None:
    for ask in (
        lambda: client.embeddings.create(model="nobody/has-it", input="CASSF"),
        lambda: client.models.retrieve("nobody/has-it"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            ask()
        assert (caught.value.code, caught.value.param) == ("adapter_not_found", "model")
        assert "'nobody/has-it' is not served here" in caught.value.message


def test_a_wrong_token_is_an_authentication_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        client.with_options(api_key="pt_nobodys").models.list()
    assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")


def test_too_long_an_input_is_a_bad_request_with_both_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="tiny-bert", input="C" * 100)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
    assert caught.value.type == "invalid_request_error"
    assert "Input 1 has 102 tokens, special ones included; the model reads at most 64" in caught.value.message
    cut = client.embeddings.create(model="tiny-bert", input="C" * 100, extra_body={"truncate": True})
    assert cut.usage.prompt_tokens == 64


def test_what_this_server_cannot_do_is_told_with_a_code(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="tiny-bert", input="CASSF", dimensions=8)
    assert caught.value.code == "dimensions_unsupported"
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(model="tiny-bert", prompt="CASSF")
    assert missing.value.code == "not_found"
