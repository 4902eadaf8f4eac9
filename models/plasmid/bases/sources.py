"""A model folder in the Hugging Face layout, read without running anything in it.

Rules
-----
1. A folder with ``*.py`` or an ``auto_map`` is refused: it means to run its own code.
2. Weights come from safetensors, whole or in shards named beside the index, or from a ``.bin`` that
   loads with ``weights_only``: a plain dictionary of tensors.
3. Sizes and names are checked before they are used. An archive is taken only if nothing in it is compressed
   and its parts are no more than the file; a tensor, only if its values could be in the file.
4. Safetensors are read a part at a time: of a model of any size, some megabytes are in memory.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plasmid.bases.tensors import TensorInfo, float_parts, is_float, read_header, valid_name
from plasmid.core.bounds import parse_json
from plasmid.core.errors import ModelError

MAX_JSON_BYTES = 64 * 2**20
_SHARED = 4
"""Tensors may share their values, as tied embeddings do: in all up to so many times the file."""
_SHARD = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.safetensors")

Tensors = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Weight:
    """One floating-point tensor of a checkpoint: in a file, in memory, or made when it is asked for."""

    shape: tuple[int, ...]
    place: tuple[Path, TensorInfo] | npt.NDArray[np.float32] | Callable[[], npt.NDArray[np.float32]]

    @property
    def size(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)

    def parts(self) -> Iterable[npt.NDArray[np.float32]]:
        """Return its numbers as float32, in C order, in one array or more."""
        if isinstance(self.place, tuple):
            return float_parts(*self.place)
        return [self.place() if callable(self.place) else self.place]


Weights = dict[str, Weight]


def refuse_code(source: Path) -> None:
    """Raise ModelError: *source* is no folder (``model.source_missing``) or has code (``model.refused``)."""
    if not source.is_dir():
        raise ModelError(
            "model.source_missing",
            f"there is no folder {source}.",
            "Give a folder that holds config.json and weights.",
        )
    reasons = [f"it holds {path.name}" for path in sorted(source.glob("*.py"))]
    reasons += [
        f"{name} has an {key}"
        for name in ("config.json", "tokenizer_config.json")
        if (source / name).exists()
        for key in ("auto_map", "trust_remote_code")
        if read_json(source / name).get(key) not in (None, False)
    ]
    if reasons:
        raise ModelError(
            "model.refused",
            f"{source.name} would run its own code: {', '.join(reasons)}.",
            "Only models that transformers itself knows are imported.",
        )


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in *path*, or raise ModelError ``model.file_missing`` or ``model.refused``."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_JSON_BYTES + 1)
        if len(text) > MAX_JSON_BYTES:
            raise ValueError
        value = parse_json(text)
    except OSError as error:
        raise ModelError(
            "model.file_missing",
            f"cannot read {path}: {error.strerror}.",
            "Give a folder in the Hugging Face layout.",
        ) from error
    except ValueError as error:
        raise ModelError(
            "model.refused", f"{path.name} is not JSON of sensible size.", "Repair the folder."
        ) from error
    if not isinstance(value, dict):
        raise ModelError("model.refused", f"{path.name} is not a JSON object.", "Repair the folder.")
    return value


def read_weights(source: Path) -> Weights:
    """Return the floating-point tensors of *source* by their names there; those in safetensors stay unread.

    Raises
    ------
    ModelError
        ``model.file_missing``: there are no weights; ``model.refused``: they need code, or an index
        names files elsewhere; ``model.tensors_invalid``.
    """
    if (source / "model.safetensors").exists():
        return _in_files([source / "model.safetensors"])
    if (source / "model.safetensors.index.json").exists():
        shards = set(read_json(source / "model.safetensors.index.json").get("weight_map", {}).values())
        if not all(isinstance(shard, str) and _SHARD.fullmatch(shard) for shard in shards):
            raise ModelError(
                "model.refused",
                "model.safetensors.index.json names files that are not plain *.safetensors names.",
                "An index may only name files beside it.",
            )
        return _in_files([source / shard for shard in sorted(shards)])
    if (source / "pytorch_model.bin").exists():
        tensors = _unpickled(source / "pytorch_model.bin")
        return {name: Weight(value.shape, value) for name, value in tensors.items()}
    raise ModelError(
        "model.file_missing",
        f"{source} holds neither model.safetensors nor pytorch_model.bin.",
        "Give a folder in the Hugging Face layout.",
    )


def _in_files(paths: list[Path]) -> Weights:
    return {
        name: Weight(info.shape, (path, info))
        for path in paths
        for name, info in read_header(path).items()
        if is_float(info)
    }


def _unpickled(path: Path) -> Tensors:
    import torch

    size = path.stat().st_size
    if _swells(path, size):
        raise ModelError(
            "model.refused",
            f"{path.name} is an archive that is larger when unpacked.",
            "Ask for the weights as safetensors.",
        )
    try:  # what torch raises for a malformed file is of many kinds
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
        tensors = {name: value.detach() for name, value in state.items() if value.is_floating_point()}
        if not all(value.layout is torch.strided for value in tensors.values()):
            raise ValueError
    except Exception as error:
        raise ModelError(
            "model.refused",
            f"{path.name} is not a plain dictionary of tensors; a pickle that needs code is not loaded.",
            "Ask for the weights as safetensors.",
        ) from error
    if not all(isinstance(name, str) and valid_name(name) for name in tensors):
        raise ModelError(
            "model.refused", f"{path.name} holds tensors with strange names.", "Repair the file."
        )
    spread = [value.numel() * value.element_size() for value in tensors.values()]
    if max(spread, default=0) > size or sum(spread) > _SHARED * size:
        raise ModelError(
            "model.refused", f"{path.name} describes tensors larger than itself.", "Repair the file."
        )
    return {name: value.to(torch.float32).numpy() for name, value in tensors.items()}


def _swells(path: Path, size: int) -> bool:
    """Return whether *path* is an archive with compressed or overlapping parts."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False  # the older format, which is no archive
    return any(part.compress_type != zipfile.ZIP_STORED for part in parts) or (
        sum(max(part.file_size, part.compress_size) for part in parts) > size
    )
