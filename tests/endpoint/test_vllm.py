"""The command that vLLM is started with, and what is refused before."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from plasmid.bases.importer import import_folder
from plasmid.bases.store import BaseModel
from plasmid.cli.verbs.serve import app
from plasmid.core.errors import PlasmidError
from plasmid.endpoint.vllm import Listening, command
from plasmid.language.chat_templates import TEMPLATES
from plasmid.release.attestation import BUNDLE
from support.tiny.tiny_causal import stock_adapter, tiny_causal


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture
def at_home(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(files / "home"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


@pytest.fixture(scope="module")
def base(files: Path) -> BaseModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASMID_HOME", str(files / "home"))
        source = tiny_causal(files / "source")
        return import_folder(source, model_id="tiny-chat", head="causal", template="chatml")


@pytest.fixture(scope="module")
def adapters(files: Path, base: BaseModel) -> dict[str, Path]:
    return {name: stock_adapter(files / name, base, r=rank) for name, rank in (("a", 4), ("b", 12))}


def test_the_command_is_this(at_home: None, files: Path, base: BaseModel, adapters: dict[str, Path]) -> None:
    template = files / "home" / "serving" / "chatml.jinja"
    found = command(base, adapters, Listening(port=8123), {})
    assert found == [
        *("serve", str(base.path), "--served-model-name", "tiny-chat"),
        *("--host", "127.0.0.1", "--port", "8123", "--dtype", "bfloat16"),
        *("--load-format", "safetensors", "--generation-config", "vllm"),
        *("--chat-template", str(template)),
        *("--enable-lora", "--max-lora-rank", "16", "--max-loras", "2", "--max-cpu-loras", "2"),
        *("--lora-modules", f"a={files / 'a'}", f"b={files / 'b'}"),
        *("--no-enable-log-requests", "--disable-uvicorn-access-log"),
    ]
    assert template.read_text() == TEMPLATES["chatml"].jinja()
    plain = command(base, {}, Listening(), {}, precision="fp32")
    assert "--enable-lora" not in plain
    assert plain[plain.index("--dtype") + 1] == "float32"


def test_what_is_not_sound_is_refused_before(
    at_home: None, tmp_path: Path, base: BaseModel, tiny: dict[str, BaseModel]
) -> None:
    pickled = stock_adapter(tmp_path / "pickled", base)
    (pickled / "adapter_model.bin").write_bytes(b"\x80\x04")
    signed = stock_adapter(tmp_path / "signed", base)
    (signed / BUNDLE).write_text("{}")
    large = stock_adapter(tmp_path / "large", base, r=520, target_modules=["q_proj"])
    with_key = {"VLLM_API_KEY": "k"}
    for given, listening, environment, code in (
        ({"a": pickled}, Listening(), {}, "model.adapter_invalid"),
        ({"a": signed}, Listening(), {}, "model.release_invalid"),
        ({"a": large}, Listening(), {}, "usage.lora_rank"),
        ({}, Listening(host="0.0.0.0", behind_proxy=True), {}, "usage.plain_http"),
        ({}, Listening(host="0.0.0.0"), with_key, "usage.plain_http"),
    ):
        with pytest.raises(PlasmidError) as caught:
            command(base, given, listening, environment)
        assert caught.value.code == code
    assert command(base, {}, Listening(host="0.0.0.0", behind_proxy=True), with_key)
    with pytest.raises(PlasmidError) as caught:
        command(tiny["bert"], {}, Listening(), {})
    assert caught.value.code == "model.not_causal"


def _run(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(app, [*arguments, "--engine", "vllm", "--format", "json"])
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_without_vllm_the_verb_says_so(at_home: None, adapters: dict[str, Path]) -> None:
    error = _run("--adapter", f"a={adapters['a']}")["error"]
    assert isinstance(error, dict)
    assert error["code"] == "usage.vllm_missing"
    assert "plasmid[vllm]" in error["hint"]
    error = _run("--base", "tiny-chat", "--tokens", "file", "--replicas", "2")["error"]
    assert isinstance(error, dict)
    assert (error["code"], "--tokens, --replicas" in error["message"]) == ("usage.engine", True)


def test_the_verb_starts_what_is_called_vllm_quietly(
    at_home: None, tmp_path: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen.json"
    program = tmp_path / "vllm"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"json.dump([sys.argv[1:], dict(os.environ)], open({str(seen)!r}, 'w'))\nsys.exit(3)\n"
    )
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "True")
    answer = _run("--adapter", f"a={adapters['a']}", "--port", "8001")
    error = answer["error"]
    assert isinstance(error, dict)
    assert (error["code"], "status 3" in error["message"]) == ("usage.vllm_failed", True)
    arguments, environment = json.loads(seen.read_text())
    assert arguments[:4] == ["serve", os.fspath(Path(arguments[1])), "--served-model-name", "tiny-chat"]
    assert f"a={adapters['a']}" in arguments
    assert environment["VLLM_NO_USAGE_STATS"] == environment["HF_HUB_OFFLINE"] == "1"
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in environment
