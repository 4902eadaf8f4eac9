"""The safetensors reader and writer, against the library and against malformed files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from plasmid.bases.tensors import MAX_HEADER_BYTES, read_floats, read_header, write_floats
from plasmid.core.errors import ModelError


def test_written_files_are_read_by_the_library(tmp_path: Path) -> None:
    tensors = {"b.c": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones((0, 4), np.float32)}
    write_floats(tmp_path / "x", tensors)
    found = load_file(tmp_path / "x")
    assert found.keys() == tensors.keys()
    assert all((found[name] == tensors[name]).all() for name in tensors)
    write_floats(tmp_path / "y", dict(reversed(tensors.items())))
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert {name: info.shape for name, info in read_header(tmp_path / "x").items()} == {
        "a": (0, 4),
        "b.c": (2, 3),
    }


def test_widens_every_float_type_and_skips_integers(tmp_path: Path) -> None:
    values = torch.tensor([1.5, -0.25, 3.0])
    types = {"d": torch.float64, "f": torch.float32, "h": torch.float16, "b": torch.bfloat16}
    tensors = {name: values.to(dtype) for name, dtype in types.items()}
    save_file(tensors | {"i": torch.tensor([1, 2])}, tmp_path / "x")
    found = read_floats(tmp_path / "x")
    assert {name: value.tolist() for name, value in found.items()} == dict.fromkeys(types, values.tolist())


def _file(path: Path, header: Any, body: bytes = b"", length: int | None = None) -> Path:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(encoded) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + encoded + body)
    return path


def _entry(start: int, end: int, shape: Any = (1,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("header", "body", "length", "what"),
    [
        ({}, b"", 2**40, "header of"),
        (b" " * 64, b"", MAX_HEADER_BYTES + 1, "header of"),
        (b"{nonsense", b"", None, "not JSON"),
        (b"[" * 100_000, b"", None, "not JSON"),
        ([], b"", None, "not an object"),
        ({"../../x": _entry(0, 4)}, b"1234", None, "dotted words"),
        ({"a/b": _entry(0, 4)}, b"1234", None, "dotted words"),
        ({"": _entry(0, 4)}, b"1234", None, "dotted words"),
        ({"a": _entry(0, 4, dtype="PICKLE")}, b"1234", None, "unknown type"),
        ({"a": _entry(0, 4, [-1])}, b"1234", None, "no sound shape"),
        ({"a": _entry(0, 4, [True])}, b"1234", None, "no sound shape"),
        ({"a": _entry(0, 4, [1] * 9)}, b"1234", None, "no sound shape"),
        ({"a": _entry(0, 4, [2])}, b"1234", None, "fill its bytes"),
        ({"a": _entry(-4, 0)}, b"1234", None, "fill its bytes"),
        ({"a": {"dtype": "F32"}}, b"1234", None, "not described"),
        ({"a": 1}, b"1234", None, "not described"),
        ({"a": _entry(0, 4), "b": _entry(0, 4)}, b"1234", None, "gap or overlap"),
        ({"a": _entry(0, 4), "b": _entry(8, 12)}, b"1" * 12, None, "gap or overlap"),
        ({"a": _entry(0, 4)}, b"12345", None, "end at byte"),
        ({"a": _entry(0, 4)}, b"123", None, "end at byte"),
    ],
)
def test_malformed_files(tmp_path: Path, header: Any, body: bytes, length: int | None, what: str) -> None:
    with pytest.raises(ModelError, match=what) as caught:
        read_header(_file(tmp_path / "x", header, body, length))
    assert caught.value.code == "model.tensors_invalid"


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        read_header(tmp_path / "none")
    assert caught.value.code == "model.file_missing"
