"""Bodies: named tensors as safetensors, with our own caps before anything is parsed.

Rules
-----
1. The size of the JSON header is read from the first eight bytes and capped before parsing.
2. Names, shapes and dtypes must be exactly what the receiver expects; no path is made from a name.
3. A contribution is one tensor ``words`` (U32 or U64); a state is one tensor ``state`` (F32 or F64), the
   flat vector in the order of the computation's schema.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from plasmid.core.errors import ProtocolError

MAX_HEADER_BYTES = 64 * 1024
CHUNK_BYTES = 4 * 1024 * 1024
MAX_BODY_BYTES = 2 * 1024**3


def pack(name: str, values: NDArray[Any]) -> bytes:
    """Return *values* (any shape) as a safetensors body with the one tensor *name*."""
    return save({name: np.ascontiguousarray(values)})


def unpack(body: bytes, name: str, *, length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the tensor *name* [length] of *body*.

    Raises
    ------
    ProtocolError
        ``protocol.body``: the header is too large or malformed, or the tensor is not exactly *name* with
        *length* values of *dtype*.
    """
    header = int.from_bytes(body[:8], "little")
    if len(body) < 8 or header > MAX_HEADER_BYTES or header + 8 + length * dtype.itemsize != len(body):
        raise ProtocolError("protocol.body", f"a body of {len(body)} bytes is not {length} values of {dtype}.")
    try:
        tensors = load(body)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ProtocolError("protocol.body", "a body is not a safetensors file.") from error
    if set(tensors) != {name} or tensors[name].shape != (length,) or tensors[name].dtype != dtype:
        raise ProtocolError("protocol.body", f"a body does not hold exactly {name!r}, {length} x {dtype}.")
    return tensors[name]
