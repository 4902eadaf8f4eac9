"""The GGUF format, read with caps: settings, and tensors as float32.

Format: magic, version, counts, settings by key, tensors' names, shapes, types and places; then their bytes
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

Rules
-----
1. Counts and lengths are checked before anything of that size is read; a tensor must lie in the file.
2. Nothing of a file runs: a chat template in its settings is text like any other, and nobody asks for it.
3. Quantised numbers become float32 by one product and one sum each, so that the bytes are the same on every
   machine.
4. One tensor at a time is in memory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from plasmid.core.errors import ModelError

MAX_SETTINGS = 10_000
MAX_TENSORS = 20_000
MAX_TEXT_BYTES = 16 * 2**20
MAX_ELEMENTS = 4_000_000
MAX_DIMENSIONS = 4
MAX_SIDE = 2**40
_TEXT, _LIST = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Kind:
    """How *elements* numbers in a row are stored in *size* bytes; [n, size] bytes become [n, elements]."""

    elements: int
    size: int
    widened: Callable[[npt.NDArray[np.uint8]], Floats]


def _plain(dtype: str) -> Callable[[npt.NDArray[np.uint8]], Floats]:
    return lambda raw: raw.view(dtype).astype(np.float32)


def _q8_0(raw: npt.NDArray[np.uint8]) -> Floats:
    scale = raw[:, :2].copy().view("<f2").astype(np.float32)
    return raw[:, 2:].view(np.int8).astype(np.float32) * scale


def _q4_1(raw: npt.NDArray[np.uint8]) -> Floats:
    scale, least = (raw[:, at : at + 2].copy().view("<f2").astype(np.float32) for at in (0, 2))
    both = np.concatenate([raw[:, 4:] & 15, raw[:, 4:] >> 4], 1).astype(np.float32)
    found: Floats = both * scale + least
    return found


_KINDS = {
    0: _Kind(1, 4, _plain("<f4")),
    1: _Kind(1, 2, _plain("<f2")),
    3: _Kind(32, 20, _q4_1),
    8: _Kind(32, 34, _q8_0),
}
"""By ggml's number; others are refused."""


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: its shape as numpy has it, and where its bytes start in the file."""

    shape: tuple[int, ...]
    kind: int
    start: int

    @property
    def size_bytes(self) -> int:
        """Of its bytes in the file."""
        return prod(self.shape) // _KINDS[self.kind].elements * _KINDS[self.kind].size


@dataclass(frozen=True)
class Gguf:
    """A file's settings and tensors, by name.

    Raises
    ------
    ModelError
        ``model.refused``: by :meth:`setting`, where one is missing or of another type.
    """

    path: Path
    settings: dict[str, Any]
    tensors: dict[str, GgufTensor]

    def setting(self, name: str, kind: type[Any]) -> Any:
        """Return the setting *name*, which must be a *kind*."""
        value = self.settings.get(name)
        if type(value) is not kind:
            raise _strange(self.path, f"it has no sound {name}")
        return value

    def read(self, name: str) -> Floats:
        """Return the tensor *name* as float32."""
        tensor, kind = self.tensors[name], _KINDS[self.tensors[name].kind]
        with self.path.open("rb") as file:
            file.seek(tensor.start)
            raw = np.frombuffer(file.read(tensor.size_bytes), np.uint8)
        return kind.widened(raw.reshape(-1, kind.size)).reshape(tensor.shape)


def read_gguf(path: Path) -> Gguf:
    """Return what is in *path*; no tensor's numbers are read.

    Raises
    ------
    ModelError
        ``model.file_missing``; ``model.refused``: it is no sound GGUF file, or has tensors of a type that is
        not read.
    """
    try:
        with path.open("rb") as file:
            return _Reader(path, file).whole()
    except OSError as error:
        raise ModelError(
            "model.file_missing", f"cannot read {path.name}: {error.strerror}.", "Install its package again."
        ) from error
    except (struct.error, UnicodeDecodeError) as error:
        raise _strange(path, "it ends too early, or a text is not UTF-8") from error


def _strange(path: Path, what: str) -> ModelError:
    return ModelError(
        "model.refused", f"{path.name} cannot be imported: {what}.", "Ask for the weights as safetensors."
    )


class _Reader:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file, self._length = path, file, path.stat().st_size

    def whole(self) -> Gguf:
        magic, version, tensors, settings = self._take("<4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise _strange(self._path, "it is no GGUF file of version 2 or 3")
        if tensors > MAX_TENSORS or settings > MAX_SETTINGS:
            raise _strange(self._path, f"it says that it has {tensors} tensors and {settings} settings")
        said = {self._text(): self._value(*self._take("<I")) for _ in range(settings)}
        found = dict(self._tensor() for _ in range(tensors))
        align = said.get("general.alignment", 32)
        if type(align) is not int or not 1 <= align <= 4096:
            raise _strange(self._path, "its alignment is not sound")
        base = -(-self._file.tell() // align) * align
        placed = {
            name: GgufTensor(tensor.shape, tensor.kind, base + tensor.start) for name, tensor in found.items()
        }
        for name, tensor in placed.items():
            if tensor.start + tensor.size_bytes > self._length:
                raise _strange(self._path, f"{name[:80]!r} lies beyond its end")
        return Gguf(self._path, said, placed)

    def _take(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self._file.read(struct.calcsize(layout)))

    def _text(self) -> str:
        (length,) = self._take("<Q")
        if length > MAX_TEXT_BYTES:
            raise _strange(self._path, f"a text of {length} bytes")
        raw = self._file.read(length)
        if len(raw) < length:
            raise _strange(self._path, "it ends too early")
        return raw.decode()

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind == _LIST:
            inner, count = self._take("<IQ")
            if inner == _LIST or count > MAX_ELEMENTS:
                raise _strange(self._path, f"a list of {count} elements, or of lists")
            if inner == _TEXT:
                return [self._text() for _ in range(count)]
            return list(self._take(f"<{count}{self._scalar(inner)}"))
        return self._take(f"<{self._scalar(kind)}")[0]

    def _scalar(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise _strange(self._path, f"a setting of unknown type {kind}")
        return _SCALARS[kind]

    def _tensor(self) -> tuple[str, GgufTensor]:
        name = self._text()
        (dimensions,) = self._take("<I")
        if dimensions > MAX_DIMENSIONS:
            raise _strange(self._path, f"a tensor of {dimensions} dimensions")
        sides = self._take(f"<{dimensions}Q")  # ggml counts them from the fastest
        kind, start = self._take("<IQ")
        if kind not in _KINDS:
            raise _strange(self._path, f"tensors of type {kind}, of which {sorted(_KINDS)} are read")
        if not sides or prod(sides) > MAX_SIDE or sides[0] % _KINDS[kind].elements:
            raise _strange(self._path, f"{name[:80]!r} has no sound shape")
        return name, GgufTensor(tuple(reversed(sides)), kind, start)
