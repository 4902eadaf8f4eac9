"""What a commit may hold: names, first bytes, settings and headers that are refused or taken."""

from __future__ import annotations

import json
import pickle
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest

from plasmid.bases.tensors import write_floats
from plasmid.core.errors import HubError
from plasmid.hub.safety import Content, content_problem, name_problem, refuse, sample_problem


def tensors(header: Any, body: int = 8) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(body)


def one(**other: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | other}


def problem(path: str, data: bytes) -> str | None:
    return name_problem(path) or content_problem(path, Content.of(data))


@pytest.mark.promise("hub-takes-no-code")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("pytorch_model.bin", "a pickle can run code"),
        ("sub/optimizer.PT", "a pickle can run code"),
        ("modeling_evil.py", "code is not hosted here"),
        ("custom_generate/generate.py", "code is not hosted here"),
        ("weights.tar.gz", "archives are not unpacked here"),
        ("model.onnx", "weights are safetensors here"),
        ("page.html", "code is not hosted here"),
        ("chat_template.jinja", "a chat template is a program"),
        ("chat_template.json", "a chat template is a program"),
        ("run", "an ending that is not on the list"),
        ("model.safetensors.exe", "code is not hosted here"),
    ],
)
def test_a_file_is_refused_by_its_name(name: str, why: str) -> None:
    assert why in str(name_problem(name))


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "a/b/config.json",
        "README.md",
        "LICENSE",
        ".gitattributes",
        "spiece.model",
        "vocab.txt",
    ],
)
def test_what_models_need_is_taken(name: str) -> None:
    assert name_problem(name) is None


def zipped() -> bytes:
    held = BytesIO()
    with ZipFile(held, "w") as archive:
        archive.writestr("a", "b")
    return held.getvalue()


def numpy_file() -> bytes:
    held = BytesIO()
    np.save(held, np.zeros(2))
    return held.getvalue()


@pytest.mark.promise("hub-takes-no-code")
@pytest.mark.parametrize(
    ("data", "what"),
    [
        *((pickle.dumps({"a": 1}, protocol=protocol), "a pickle") for protocol in (0, 2, 4, 5)),
        (b"cos\nsystem\n(S'id'\ntR.", "a pickle"),
        (zipped(), "a zip archive"),
        (b"\x1f\x8b\x08" + bytes(20), "an archive"),
        (bytes(257) + b"ustar\x0000" + bytes(200), "a tar archive"),
        (numpy_file(), "a NumPy file"),
        (b"GGUF\x03\x00\x00\x00", "a GGUF file"),
        (b"\x7fELF\x02\x01", "a program"),
        (b"#!/bin/sh\n", "a program"),
    ],
)
def test_a_file_is_refused_by_its_first_bytes_under_any_name(data: bytes, what: str) -> None:
    assert what in str(sample_problem("notes.txt", data[:512]))
    assert what in str(problem("vocab.txt", data))
    assert problem("model.safetensors", data) is not None


@pytest.mark.promise("hub-takes-no-code")
@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("config.json", {"auto_map": {"AutoModel": "m.Evil"}}, "auto_map"),
        ("config.json", {"text_config": {"deep": [{"auto_map": {"AutoConfig": "x"}}]}}, "auto_map"),
        ("config.json", {"trust_remote_code": True}, "trust_remote_code"),
        ("config.json", {"_attn_implementation": "evil/kernel"}, "_attn_implementation"),
        ("config.json", {"attn_implementation": {"": "evil/kernel:main"}}, "attn_implementation"),
        ("tokenizer_config.json", {"chat_template": "{{ 1 }}"}, "chat_template"),
        ("adapter_config.json", {"auto_mapping": {"parent_library": "evil"}}, "parent_library"),
        ("adapter_config.json", {"auto_mapping": {"parent_library": "transformersx.y"}}, "parent_library"),
        ("adapter_config.json", {"megatron_core": "evil"}, "megatron_core"),
        ("adapter_config.json", {"megatron_config": {"a": 1}}, "megatron_config"),
    ],
)
def test_settings_that_run_or_import_something_are_refused(name: str, value: Any, key: str) -> None:
    assert f"the key {key}:" in str(problem(name, json.dumps(value).encode()))


def test_settings_that_only_name_those_keys_are_taken() -> None:
    ours = {
        "auto_map": None,
        "trust_remote_code": False,
        "megatron_core": "megatron.core",
        "_attn_implementation": "sdpa",
        "auto_mapping": {
            "base_model_class": "BertModel",
            "parent_library": "transformers.models.bert.modeling_bert",
        },
    }
    assert problem("adapter_config.json", json.dumps(ours).encode()) is None
    assert problem("vocab.json", b'{"auto_map": 5}') is None  # a token


@pytest.mark.parametrize("data", [b"{", b"[" * 100_000, b"[" + b"0," * 400_000 + b"0]", b"\xff\xfe"])
def test_json_that_is_broken_or_a_bomb_is_refused(data: bytes) -> None:
    assert "it is not JSON, or too much of it" in str(problem("config.json", data))


@pytest.mark.parametrize("shard", ["../../etc/passwd", "a/b.safetensors", "pytorch_model.bin", 5])
def test_an_index_names_files_beside_it_only(shard: Any) -> None:
    index = json.dumps({"weight_map": {"a": shard}}).encode()
    assert "weight_map" in str(problem("model.safetensors.index.json", index))


def test_an_index_of_shards_is_taken() -> None:
    index = json.dumps({"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}).encode()
    assert problem("model.safetensors.index.json", index) is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "a header of 0 bytes in a file of 0"),
        ((2**40).to_bytes(8, "little") + b"{}", "a header of 1099511627776 bytes"),
        (tensors(b"{{"), "its header is not JSON"),
        (tensors(b'{"a": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}, "a": {"dtype":"F32","shape":[2],'
                 b'"data_offsets":[0,8]}}'), "names a tensor twice"),
        (tensors(one(shape=[3])), "does not fill its bytes"),
        (tensors(one(), body=4), "end at byte"),
        (tensors(one(), body=12), "end at byte"),
        (tensors(one(dtype="V8")), "of an unknown type"),
        (tensors(one(shape=[1] * 9 + [2])), "no sound shape"),
        (tensors(one(shape=[2**40, 0], data_offsets=[0, 0]), body=0), "no sound shape"),
        (tensors({"../x": one()["a"]}), "not dotted words"),
        (tensors(one() | {"__metadata__": {"a": 1}}), "something else than strings"),
        (tensors(one() | {"b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, body=12), "overlap"),
        (tensors({f"t{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(20_001)}, 0),
         "at most 20000 tensors"),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused(data: bytes, why: str) -> None:
    assert why in str(problem("adapter_model.safetensors", data))


def test_sound_weights_are_taken(tmp_path: Path) -> None:
    write_floats(tmp_path / "w", {"a.b": np.ones((3, 4), np.float32)})
    assert problem("model.safetensors", (tmp_path / "w").read_bytes()) is None


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(HubError) as caught:
        refuse(f"f{number}.py (code)" for number in range(12))
    assert caught.value.code == "hub.unsafe_file"
    assert caught.value.message.startswith("12 files are refused: f0.py (code); f1.py")
    assert caught.value.message.endswith("; and 2 more.")
    refuse([])
