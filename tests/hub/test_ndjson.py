"""A commit's body taken apart: at any boundary, in bounded memory, strictly."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from plasmid.core.errors import HubError
from plasmid.hub.routes.ndjson import LINE_BYTES, Item, Lines, decode
from plasmid.hub.store.blobs import BlobStore

DATA = Random(0).randbytes(300_001)


def line(key: str, **value: Any) -> bytes:
    return json.dumps({"key": key, "value": value}).encode() + b"\n"


def file(path: str, data: bytes, **more: Any) -> bytes:
    return line("file", content=base64.b64encode(data).decode(), path=path, encoding="base64", **more)


def read(body: bytes, folder: Path, *, piece: int = 4096, max_bytes: int = 10**6) -> list[tuple[Item, bytes]]:
    store = BlobStore(str(folder))
    pieces = iter([body[start : start + piece] for start in range(0, len(body), piece)])
    lines = Lines(pieces, lambda: store.writing(max_bytes=max_bytes))
    found = []
    for item in lines:
        blob = item.blob or (lines.store_short(item.value) if item.key == "file" else None)
        found.append((item, b"".join(store.read(blob.sha256)) if blob else b""))
    return found


@pytest.mark.parametrize("piece", [61, 4096, 60_000])
def test_contents_come_out_whole_wherever_the_body_is_cut(piece: int, tmp_path: Path) -> None:
    data = DATA if piece > 61 else DATA[: LINE_BYTES + 5]
    body = line("header", summary="s", description="") + file("long.bin", data) + file("a.txt", b"hi")
    body += line("file", path="t.txt", content="plain ü", encoding="utf-8") + line("deletedFile", path="x")
    found = read(body, tmp_path, piece=piece)
    assert [item.key for item, _ in found] == ["header", "file", "file", "file", "deletedFile"]
    assert [stored for _, stored in found] == [b"", data, b"hi", "plain ü".encode(), b""]
    assert found[1][0].value == {"content": "", "path": "long.bin", "encoding": "base64"}
    assert (found[1][0].blob is not None, found[2][0].blob is not None) == (True, False)


def test_the_last_line_needs_no_end(tmp_path: Path) -> None:
    assert read(file("a", DATA).rstrip(b"\n"), tmp_path)[0][1] == DATA
    assert read(file("a", b"hi").rstrip(b"\n"), tmp_path)[0][1] == b"hi"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"key": "x", "value": {"path": "' + b"p" * 200_000 + b'"}}', "longer than"),
        (file("a", DATA)[:200_000], "ends inside"),
        (file("a", DATA).replace(b'", "path', b'=", "path'), "not base64"),
        (file("a", DATA)[:150_000] + b"*" + file("a", DATA)[150_000:], "not base64"),
        (line("other", content=base64.b64encode(DATA).decode()), "but no file"),
        (file("a", DATA, other="o" * 40_000), "does not end after its content"),
        (file("a", b"hi").replace(b"aGk=", b"aG*="), "not base64"),
        (b"[1]\n", "no object of key and value"),
        (b"{\n", "no object of key and value"),
        (b"[" * 100_000, "no object of key and value"),
        (b'{"key": "a", "value": {"a": [' + b"[]," * 200_000 + b"[]]}}\n", "longer than"),
    ],
)
def test_what_is_no_commit_is_refused(body: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(HubError, match=why) as caught:
        read(body, tmp_path)
    assert caught.value.code == "hub.malformed"


def test_a_content_beyond_the_cap_is_refused_before_it_has_come(tmp_path: Path) -> None:
    asked = 0

    def endless() -> Iterator[bytes]:
        nonlocal asked
        yield b'{"key": "file", "value": {"content": "'
        while True:
            asked += 1
            yield b"QUJD" * 16_384

    store = BlobStore(str(tmp_path))
    with pytest.raises(HubError) as caught:
        list(Lines(endless(), lambda: store.writing(max_bytes=500_000)))
    assert caught.value.code == "hub.too_large"
    assert asked < 15


def test_a_line_is_held_up_to_its_cap_only() -> None:
    largest = 0

    @contextmanager
    def counting() -> Iterator[Any]:
        def write(data: bytes) -> None:
            nonlocal largest
            largest = max(largest, len(data), len(lines._held))

        yield SimpleNamespace(write=write, blob="a blob")

    body = file("a", bytes(20_000_000))
    lines = Lines(iter([body[start : start + 65_536] for start in range(0, len(body), 65_536)]), counting)
    assert [item.blob for item in lines] == ["a blob"]
    assert largest <= LINE_BYTES + 65_536


def test_base64_in_pieces_of_any_length_is_that_of_the_whole() -> None:
    text = base64.b64encode(DATA[:10_000])
    random = Random(1)
    for _ in range(20):
        cuts = sorted(random.sample(range(len(text)), 40))
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert b"".join(decode(iter(pieces))) == DATA[:10_000]
    for wrong in (b"QUI=QUJD", b"QUJ", b"QU\nJD", b"QUI"):
        with pytest.raises(HubError):
            b"".join(decode(iter([wrong[:4], wrong[4:]])))
