"""What comes of a run that makes no adapter: named arrays, files made of them, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import save

from plasmid.adapters.adapter import AdapterSchema
from plasmid.core.canonical import canonical_json
from plasmid.core.files import folder_atomic, write_atomic


def named(schema: AdapterSchema, state: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the tensors of *state* [schema.size] by name, as copies."""
    found: dict[str, NDArray[Any]] = {}
    start = 0
    for tensor in schema.tensors:
        found[tensor.name] = state[start : start + tensor.size].reshape(tensor.shape).copy()
        start += tensor.size
    return found


def write_result(
    folder: Path,
    schema: AdapterSchema,
    state: NDArray[Any],
    *,
    files: Mapping[str, bytes],
    provenance: Mapping[str, Any],
) -> None:
    """Write ``result.safetensors``, *files* and ``provenance.json`` to *folder*, whole or not at all.

    Parameters
    ----------
    state
        The last state, float64 [schema.size].

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    with folder_atomic(folder) as partial:
        write_atomic(partial / "result.safetensors", save(named(schema, state)))
        for name, content in files.items():
            write_atomic(partial / name, content)
        write_atomic(partial / "provenance.json", canonical_json(dict(provenance)))
