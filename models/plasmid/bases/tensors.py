"""The safetensors format, read with caps and written with the same bytes everywhere.

Format: 8 bytes little-endian header length, a JSON header, the tensors' bytes back to back
(https://github.com/huggingface/safetensors, "Format").

Rules
-----
1. Lengths, counts and names are checked before anything of that size is parsed or allocated.
2. A tensor's name is dotted words (or stars); a file's tensors fill it exactly, without gap or overlap.
3. Written files depend on nothing but names and values: tensors sorted by name, float32, header
   padded with blanks to 8 bytes.
4. No torch: numbers are numpy arrays, bfloat16 and float16 widen to float32.
5. A file of any size can be read and written in parts of :data:`PART_BYTES`, with the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plasmid.core.bounds import parse_json
from plasmid.core.errors import ModelError

MAX_HEADER_BYTES = 8 * 2**20
MAX_TENSORS = 20_000
MAX_DIMENSIONS = 8
MAX_TENSOR_BYTES = 2**40
MAX_HEADER_VALUES = 20 * MAX_TENSORS
MAX_METADATA_CHARACTERS = 2**20
PART_BYTES = 16 * 2**20
_NAME = re.compile(r"(\w+|\*)(\.(\w+|\*))*", re.ASCII)  # transformers writes "layer.*" for what layers share
_WIDTH_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor's place in a file: *start* and *end* are byte offsets from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def valid_name(name: str) -> bool:
    """True when *name* is dotted words of at most 256 characters in all."""
    return len(name) <= 256 and _NAME.fullmatch(name) is not None


def _strange(path: Path, what: str) -> ModelError:
    return ModelError(
        "model.tensors_invalid",
        f"{path.name} is not a sound safetensors file: {what}.",
        "Import the model, or fetch the adapter, again from its source.",
    )


def read_header(path: Path, *, max_header_bytes: int = MAX_HEADER_BYTES) -> dict[str, TensorInfo]:
    """Return the tensors of *path* by name, in the order of their bytes.

    Raises
    ------
    ModelError
        ``model.file_missing``, or ``model.tensors_invalid``: a rule of the format is broken, or the
        header is longer than *max_header_bytes*.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(max_header_bytes, size - 8):
                raise _strange(path, f"header of {length} bytes in a file of {size}")
            text = file.read(length)
            header = parse_json(text, max_values=MAX_HEADER_VALUES)
    except OSError as error:
        raise ModelError(
            "model.file_missing", f"cannot read {path.name}: {error.strerror}.", "Import or fetch it again."
        ) from error
    except ValueError as error:
        raise _strange(path, "its header is not JSON, or names a tensor twice") from error
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise _strange(path, f"the header is not an object of at most {MAX_TENSORS} tensors")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _strange(path, "its metadata holds something else than strings")
    if sum(map(len, metadata.values())) > MAX_METADATA_CHARACTERS:
        raise _strange(path, f"more than {MAX_METADATA_CHARACTERS} characters of metadata")
    base = 8 + length
    found = sorted(
        ((name, _info(path, name, entry, base)) for name, entry in header.items()),
        key=lambda item: (item[1].start, item[1].end),
    )
    expected = base
    for name, info in found:
        if info.start != expected:
            raise _strange(path, f"gap or overlap before {name}")
        expected = info.end
    if expected != size:
        raise _strange(path, f"its tensors end at byte {expected} of {size}")
    return dict(found)


def _info(path: Path, name: str, entry: Any, base: int) -> TensorInfo:
    if not valid_name(name):
        raise _strange(path, "a tensor's name is not dotted words")
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]}:
            if dtype not in _WIDTH_BYTES:
                raise _strange(path, f"{name} is of an unknown type")
            whole = len(shape) <= MAX_DIMENSIONS and all(type(side) is int and side >= 0 for side in shape)
            # A side of 0 hides what the others are; numpy multiplies those all the same.
            if not whole or prod(side or 1 for side in shape) * _WIDTH_BYTES[dtype] > MAX_TENSOR_BYTES:
                raise _strange(path, f"{name} has no sound shape")
            if start < 0 or end - start != prod(shape) * _WIDTH_BYTES[dtype]:
                raise _strange(path, f"{name} does not fill its bytes")
            return TensorInfo(dtype, tuple(shape), base + start, base + end)
    raise _strange(path, f"{name} is not described by dtype, shape and data_offsets")


def read_floats(
    path: Path, *, max_header_bytes: int = MAX_HEADER_BYTES
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the floating-point tensors of *path* as float32, in the order of their bytes; skip others.

    Raises
    ------
    ModelError
        As :func:`read_header`.
    """
    header = read_header(path, max_header_bytes=max_header_bytes)
    found: dict[str, npt.NDArray[np.float32]] = {}
    with path.open("rb") as file:
        for name, info in header.items():
            if info.dtype in _FLOATS:
                file.seek(info.start)
                raw = file.read(info.end - info.start)
                found[name] = _widened(raw, info.dtype).reshape(info.shape)
    return found


def is_float(info: TensorInfo) -> bool:
    """Return whether a tensor's numbers are floating-point."""
    return info.dtype in _FLOATS


def float_parts(path: Path, info: TensorInfo) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the numbers of one floating-point tensor of *path* as float32, flat, a part at a time."""
    with path.open("rb") as file:
        file.seek(info.start)
        for start in range(info.start, info.end, PART_BYTES):
            yield _widened(file.read(min(PART_BYTES, info.end - start)), info.dtype)


def _widened(raw: bytes, dtype: str) -> npt.NDArray[np.float32]:
    numbers = np.frombuffer(raw, _FLOATS[dtype])
    if dtype == "BF16":
        numbers = (numbers.astype("<u4") << 16).view("<f4")
    return numbers.astype(np.float32)


def write_floats(path: Path, tensors: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Write *tensors* as float32 to *path*, sorted by name."""
    write_parts(path, {name: tensor.shape for name, tensor in tensors.items()}, lambda name: [tensors[name]])


def write_parts(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    parts: Callable[[str], Iterable[npt.NDArray[np.float32]]],
) -> None:
    """Write tensors as float32 to *path*, sorted by name, without holding one of them whole.

    Parameters
    ----------
    parts
        Returns the numbers of the tensor of a name, in C order, in as many arrays as it likes.
    """
    with path.open("wb") as file:
        file.write(_header(shapes))
        for name in sorted(shapes):
            for part in parts(name):
                file.write(np.ascontiguousarray(part, "<f4").data)


def pack_floats(tensors: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """Return the bytes that :func:`write_floats` writes."""
    return b"".join(_parts(tensors))


def _parts(tensors: Mapping[str, npt.NDArray[np.float32]]) -> Iterator[bytes]:
    yield _header({name: tensor.shape for name, tensor in tensors.items()})
    for name in sorted(tensors):
        yield np.ascontiguousarray(tensors[name], "<f4").tobytes()


def _header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in sorted(shapes):
        size = prod(shapes[name]) * 4
        header[name] = {
            "dtype": "F32",
            "shape": list(shapes[name]),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded
