"""Row 26. Attack: header and archive bombs: a safetensors header of 200 MB, a shape of 2^40, ratio 1000.

Must hold: own caps before anything is parsed or allocated.
"""

from __future__ import annotations

import io
import json
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plasmid.adapters.artifact import read_adapter
from plasmid.bases.sources import read_json, read_weights
from plasmid.bases.tensors import MAX_HEADER_BYTES, read_floats, read_header
from plasmid.protocol.body import pack, unpack
from plasmid.protocol.channel import Channel
from support.federation.attacks import refusal

MEGABYTE = 2**20


def peak(attempt: Callable[[], object]) -> int:
    """Return the most memory that Python holds at once during *attempt*, bytes."""
    tracemalloc.start()
    try:
        attempt()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def tensors_file(path: Path, header: bytes, *, said: int | None = None, body: bytes = b"") -> Path:
    """Write a safetensors file whose header says to be *said* bytes long."""
    path.write_bytes((len(header) if said is None else said).to_bytes(8, "little") + header + body)
    return path


def entry(shape: list[int], size: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}


HUGE_HEADERS: dict[str, Callable[[Path], Path]] = {
    "200 MB that are there": lambda path: tensors_file(path, b" " * (200 * MEGABYTE)),
    "200 MB that are not": lambda path: tensors_file(path, b"{}", said=200 * MEGABYTE),
    "2^63": lambda path: tensors_file(path, b"{}", said=2**63),
    "empty lists": lambda path: tensors_file(
        path, b'{"a":[' + b"[]," * ((MAX_HEADER_BYTES - 20) // 3) + b"[]]}"
    ),
    "many tensors": lambda path: tensors_file(
        path, json.dumps({f"t{index}": entry([0], 0) for index in range(60_000)}).encode()
    ),
    "deep": lambda path: tensors_file(path, b"[" * MEGABYTE),
}


@pytest.mark.promise("sizes-capped")
@pytest.mark.parametrize("what", HUGE_HEADERS)
def test_a_header_is_capped_before_it_is_parsed(tmp_path: Path, what: str) -> None:
    path = HUGE_HEADERS[what](tmp_path / "model.safetensors")

    def attempt() -> None:
        with refusal("model.tensors_invalid"):
            read_header(path)

    assert peak(attempt) < 40 * MEGABYTE


def test_control_the_parser_alone_takes_what_the_header_says(tmp_path: Path) -> None:
    path = HUGE_HEADERS["empty lists"](tmp_path / "model.safetensors")
    assert peak(lambda: json.loads(path.read_bytes()[8:])) > 150 * MEGABYTE


@pytest.mark.parametrize(
    "shape", [[2**40], [2**39, 2], [2**20, 2**20], [0, 2**39, 2**39], [1] * 9, [2**62, 4], [2**40 - 1, 0]]
)
def test_a_shape_is_no_larger_than_its_bytes(tmp_path: Path, shape: list[int]) -> None:
    """A shape with a zero holds no byte, and still may not ask numpy for more than it can count."""
    size = 0 if 0 in shape else 16
    path = tensors_file(tmp_path / "x", json.dumps({"a": entry(shape, size)}).encode(), body=bytes(size))

    def attempt() -> None:
        with refusal("model.tensors_invalid"):
            read_floats(path)

    assert peak(attempt) < MEGABYTE


def test_a_body_is_measured_before_it_is_read() -> None:
    good = pack("state", np.arange(8, dtype=np.float32))
    assert unpack(good, "state", length=8, dtype=np.dtype(np.float32)).tolist() == list(range(8))
    for bad in (
        (2**40).to_bytes(8, "little") + good[8:],
        (200 * MEGABYTE).to_bytes(8, "little") + good[8:],
        good[:8] + good[8:].replace(b"[8]", b"[9]", 1),
        good + b"\0",
        good[:-1],
    ):
        with refusal("protocol.body"):
            unpack(bad, "state", length=8, dtype=np.dtype(np.float32))


class Talker:
    """A socket whose other end says *data* and hangs up."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def recv_into(self, view: memoryview) -> int:
        return self._data.readinto(view)


@pytest.mark.promise("sizes-capped")
@pytest.mark.parametrize(("header", "body"), [(2**32 - 1, 0), (5 * MEGABYTE, 0), (2, 2**63), (2, 3 * 2**30)])
def test_a_frame_of_the_worker_is_measured_before_it_is_read(header: int, body: int) -> None:
    said = header.to_bytes(4, "big") + body.to_bytes(8, "big") + b"{}"
    channel: Any = Channel(Talker(said))  # type: ignore[arg-type]

    def attempt() -> None:
        with refusal("protocol.frame"):
            channel.receive()

    assert peak(attempt) < MEGABYTE
    small: Any = Channel(Talker((2).to_bytes(4, "big") + (3).to_bytes(8, "big") + b"{}abc"))  # type: ignore[arg-type]
    assert small.receive() == ({}, bytearray(b"abc"))


# -- archives --------------------------------------------------------------------------------------


def saved(tensors: dict[str, torch.Tensor]) -> bytes:
    made = io.BytesIO()
    torch.save(tensors, made)
    return made.getvalue()


def compressed(data: bytes) -> bytes:
    """Return torch's archive with its parts compressed."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    return made.getvalue()


def overlapping(data: bytes) -> bytes:
    """Return an archive that lists its largest part a thousand times, all in one place."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        largest = max(old.infolist(), key=lambda part: part.file_size)
        made = io.BytesIO(data)
        with zipfile.ZipFile(made, "a") as new:
            for index in range(1000):
                again = zipfile.ZipInfo(f"archive/data/{index + 100}")
                again.file_size = again.compress_size = largest.file_size
                again.CRC, again.header_offset = largest.CRC, largest.header_offset
                new.filelist.append(again)
            new._didModify = True
    return made.getvalue()


ZEROS = saved({"bert.x": torch.zeros(MEGABYTE)})
ARCHIVES = {
    "compressed": compressed(ZEROS),
    "overlapping": overlapping(ZEROS),
    "spread": saved({"bert.x": torch.zeros(1).expand(2**40)}),
    "a thousand views": saved(dict.fromkeys(map("bert.x{}".format, range(1000)), torch.zeros(1000))),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_an_archive_that_swells_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(ARCHIVES[what])

    def attempt() -> None:
        with refusal("model.refused"):
            read_weights(tmp_path)

    assert peak(attempt) < 8 * MEGABYTE


def test_control_the_archives_unpack_to_more(tmp_path: Path) -> None:
    assert len(ARCHIVES["compressed"]) * 500 < 4 * MEGABYTE
    with zipfile.ZipFile(io.BytesIO(ARCHIVES["compressed"])) as archive:
        assert sum(part.file_size for part in archive.infolist()) > 4 * MEGABYTE
    with zipfile.ZipFile(io.BytesIO(ARCHIVES["overlapping"])) as archive:
        assert sum(part.file_size for part in archive.infolist()) > 4000 * MEGABYTE
    spread = torch.load(io.BytesIO(ARCHIVES["spread"]), weights_only=True)["bert.x"]
    assert spread.numel() == 2**40
    (tmp_path / "pytorch_model.bin").write_bytes(ZEROS)
    assert read_weights(tmp_path)["bert.x"].size == MEGABYTE  # a plain one is taken
    tied = torch.zeros(1000)
    (tmp_path / "pytorch_model.bin").write_bytes(saved({"bert.x": tied, "bert.y": tied}))
    assert set(read_weights(tmp_path)) == {"bert.x", "bert.y"}


def test_a_pickle_of_repeats_is_refused(tmp_path: Path) -> None:
    """Ten lists, each of ten times the one before: small as a file, 10^10 entries if walked."""
    laughs: Any = ["ha"] * 10
    for _ in range(9):
        laughs = [laughs] * 10
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"bert.x": laughs}, protocol=2))

    def attempt() -> None:
        with refusal("model.refused"):
            read_weights(tmp_path)

    assert peak(attempt) < MEGABYTE


# -- JSON beside the tensors -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [65 * MEGABYTE, 12 * MEGABYTE])
def test_a_model_s_settings_are_bounded(tmp_path: Path, size: int) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b'{"a":[' + b"[]," * (size // 3) + b"[]]}")

    def attempt() -> None:
        with refusal("model.refused"):
            read_json(path)

    assert peak(attempt) < 140 * MEGABYTE


def test_an_adapter_s_settings_are_bounded(tmp_path: Path) -> None:
    bomb = b'{"a":[' + b"[]," * (4 * MEGABYTE) + b"[]]}"
    for name in ("head.json", "provenance.json", "adapter_config.json"):
        (tmp_path / name).write_bytes(bomb)

    def attempt() -> None:
        with refusal("model.adapter_invalid"):
            read_adapter(tmp_path)

    assert peak(attempt) < 40 * MEGABYTE
    assert peak(lambda: json.loads(bomb)) > 200 * MEGABYTE  # the control
