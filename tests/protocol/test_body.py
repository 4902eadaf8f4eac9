"""Bodies: exactly the expected vector, or a refusal before anything is parsed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy

from plasmid.core.errors import ProtocolError
from plasmid.protocol.body import MAX_HEADER_BYTES, body_bytes, pack, unpack

DTYPES = ("<u4", "<u8", "<f4", "<f8")


def refused(body: bytes, name: str = "words", length: int = 5, dtype: str = "<u4") -> None:
    with pytest.RaisesExc(ProtocolError, check=lambda error: error.code == "protocol.body"):
        unpack(body, name, length=length, dtype=np.dtype(dtype))


def vector(dtype: str, length: int = 5) -> np.ndarray:
    return np.arange(length).astype(dtype) * np.dtype(dtype).type(3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 5, 1000])
def test_a_vector_comes_back_and_any_reader_of_safetensors_opens_it(dtype: str, length: int) -> None:
    values = vector(dtype, length)
    body = pack("words", values)
    assert len(body) == body_bytes("words", length, values.dtype)
    assert (len(body) - values.nbytes) % 8 == 0  # the data are aligned
    found = unpack(body, "words", length=length, dtype=values.dtype)
    assert found.dtype == values.dtype
    assert found.tolist() == values.tolist()
    (loaded,) = safetensors.numpy.load(body).items()
    assert loaded[0] == "words"
    assert loaded[1].dtype == values.dtype
    assert loaded[1].tolist() == values.tolist()


def test_the_bytes_are_pinned() -> None:
    body = pack("words", np.array([1, 2**32 - 1], np.uint32))
    header = b'{"words":{"dtype":"U32","shape":[2],"data_offsets":[0,8]}}      '
    assert body == len(header).to_bytes(8, "little") + header + b"\1\0\0\0\xff\xff\xff\xff"


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_the_vector_is_a_read_only_view_of_the_body(kind: type) -> None:
    body = kind(pack("words", vector("<u4")))
    found = unpack(body, "words", length=5, dtype=np.dtype("<u4"))
    assert not found.flags.writeable
    assert not found.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


BODY = pack("words", vector("<u4"))


@pytest.mark.parametrize(
    "body",
    [
        BODY + b"\0",
        BODY[:-1],
        BODY[:-4],
        BODY[:8],
        BODY[:3],
        b"",
        pack("state", vector("<u4")),
        pack("../../etc/x", vector("<u4")),
        pack("words", vector("<f4")),
        pack("words", vector("<u8")),
        pack("words", vector("<u4", 4)),
        pack("words", vector("<u4", 6)),
        BODY[:12] + b"W" + BODY[13:],  # one byte of the header
        BODY.replace(b"[5]", b"[05]"[:3]),
    ],
)
def test_another_body_is_refused(body: bytes) -> None:
    assert body != BODY
    refused(body)


@pytest.mark.parametrize(("name", "length", "dtype"), [("word", 5, "<u4"), ("words", 4, "<u4"),
                                                       ("words", 6, "<u4"), ("words", 5, "<f4")])  # fmt: skip
def test_another_expectation_is_refused(name: str, length: int, dtype: str) -> None:
    refused(BODY, name, length, dtype)


@pytest.mark.parametrize("size", [MAX_HEADER_BYTES + 1, 200 * 2**20, 2**40, 2**63, 2**64 - 1])
def test_a_header_over_the_cap_is_not_read(size: int) -> None:
    refused(size.to_bytes(8, "little") + BODY[8:])


def test_a_header_that_means_the_same_in_other_words_is_refused() -> None:
    """One vector, one sequence of bytes: the digest of a body says what it holds."""
    header = json.dumps({"words": {"shape": [5], "dtype": "U32", "data_offsets": [0, 20]}}).encode()
    body = len(header).to_bytes(8, "little") + header + BODY[-20:]
    assert safetensors.numpy.load(body)["words"].tolist() == [0, 3, 6, 9, 12]
    refused(body)


def test_a_second_tensor_is_refused() -> None:
    refused(safetensors.numpy.save({"words": vector("<u4"), "more": vector("<u4")}))
