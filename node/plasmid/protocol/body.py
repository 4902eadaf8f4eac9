"""Bodies: one named vector as a safetensors file, read in place, with our own caps before anything is parsed.

Rules
-----
1. The size of the JSON header is read from the first eight bytes and capped before parsing.
2. Name, length and dtype must be exactly what the receiver expects; no path is made from a name.
3. A contribution is one tensor ``words`` (U32 or U64); a state is one tensor ``state`` (F32 or F64), the
   flat vector in the order of the computation's schema.
4. Reading makes no copy: the vector is a read-only view of the body. (The library would copy; a body may
   be hundreds of megabytes. Any safetensors reader opens what is written here.)
"""

from __future__ import annotations

import json
from mmap import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.core.errors import ProtocolError

Body = bytes | bytearray | mmap

MAX_HEADER_BYTES = 4096
CHUNK_BYTES = 4 * 1024 * 1024
_PREFIX_BYTES = 8
_CODES = {"<u4": "U32", "<u8": "U64", "<f4": "F32", "<f8": "F64"}


def _header(name: str, length: int, dtype: np.dtype[Any]) -> bytes:
    entry = {
        "dtype": _CODES[dtype.newbyteorder("<").str],
        "shape": [length],
        "data_offsets": [0, length * dtype.itemsize],
    }
    text = json.dumps({name: entry}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of eight bytes
    return len(text).to_bytes(_PREFIX_BYTES, "little") + text


def body_bytes(name: str, length: int, dtype: np.dtype[Any]) -> int:
    """Return the size of the body that :func:`pack` makes."""
    return len(_header(name, length, dtype)) + length * dtype.itemsize


def pack(name: str, values: NDArray[Any]) -> bytes:
    """Return the vector *values* [n] (U32, U64, F32 or F64) as a body."""
    header = _header(name, values.size, values.dtype)
    return header + values.astype(values.dtype.newbyteorder("<"), copy=False).data.cast("B")


def unpack(body: Body, name: str, *, length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the vector *name* [length] of *body* as a read-only view of it.

    Raises
    ------
    ProtocolError
        ``protocol.body``: the header is too large or malformed, or the body is not exactly *name* with
        *length* values of *dtype*.
    """
    size = int.from_bytes(body[:_PREFIX_BYTES], "little")
    start = _PREFIX_BYTES + size
    if (
        len(body) < _PREFIX_BYTES
        or size > MAX_HEADER_BYTES
        or start + length * dtype.itemsize != len(body)
        or bytes(body[:start]) != _header(name, length, dtype)
    ):
        raise ProtocolError("protocol.body", f"a body is not exactly {name!r}, {length} values of {dtype}.")
    values = np.frombuffer(body, dtype=dtype, count=length, offset=start)
    values.flags.writeable = False
    return values
