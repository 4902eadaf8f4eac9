"""``plasmid serve --local``: a real socket on loopback, and what the verb refuses."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from plasmid.bases.store import BaseModel
from plasmid.cli.verbs.serve import app
from plasmid.core.errors import UsageError
from plasmid.endpoint.access import Anybody
from plasmid.endpoint.local import LocalServer
from plasmid.endpoint.service import Service, Settings
from support.tiny.served import write


def test_it_listens_on_loopback_until_it_is_closed(
    tiny: dict[str, BaseModel], at_home: None, tmp_path: Path
) -> None:
    folder = write(tmp_path / "a", tiny["bert"], "small")
    service = Service.open(Settings(base="tiny-bert", adapters={"a": str(folder)}, device="cpu"))
    server = LocalServer(service, Anybody())
    server.start()
    try:
        assert server.url.startswith("http://127.0.0.1:")
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            found = client.post("/v1/predict", json={"model": "a", "input": "CASSF"}).json()
        assert sum(found["data"][0]["probabilities"].values()) == pytest.approx(1.0)
        with pytest.raises(UsageError) as caught:
            LocalServer(service, Anybody(), port=int(server.url.rpartition(":")[2]))
        assert caught.value.code == "usage.port"
    finally:
        server.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(server.url.rpartition(":")[2]))) != 0


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], "usage.no_base"),
        (["--adapter", "nofolder"], "usage.adapter_name"),
        (["--adapter", "team/x=/tmp"], "usage.adapter_name"),
        (["--base", "antiberty"], "usage.tokens"),
        (["--base", "antiberty", "--hub", "https://hub.test", "--host", "0.0.0.0"], "usage.plain_http"),
        (["--base", "antiberty", "--precision", "fp8"], "usage.precision"),
        (["--new-token", "ana"], "usage.tokens"),
        (["--local", "--base", "tiny-bert", "--adapter", "tiny-bert=/tmp"], "usage.adapter_name"),
        (["--local", "--base", "tiny-bert", "--pin", "team/x"], "usage.pin"),
        (["--local", "--base", "tiny-bert", "--trust", "/absent/peers.yaml"], "recipe.invalid"),
    ],
)
def test_what_the_verb_refuses(
    options: list[str], code: str, at_home: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    result = CliRunner().invoke(app, [*options, "--format", "json"])
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    assert (result.exit_code, answer["error"]["code"]) == (1, code)


def test_the_verb_makes_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    result = CliRunner().invoke(app, ["--tokens", str(path), "--new-token", "ana", "--format", "json"])
    token = json.loads(result.stdout.splitlines()[-1])["data"]["token"]
    assert result.exit_code == 0
    assert token not in path.read_text()
    assert path.read_text().startswith("ana ")
