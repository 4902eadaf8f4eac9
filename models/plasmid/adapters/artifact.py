"""An adapter as a folder: the layout that plain PEFT loads, with the head, card and provenance beside it.

    the four files of :mod:`plasmid.adapters.files`
    README.md                   the card; its code block scores rows with stock libraries
    provenance.json             where the adapter comes from
    calibration.json            a temperature, where one was found (:mod:`plasmid.adapters.calibration`)

Rules
-----
1. A folder is written whole or not at all; reading checks sizes, names and shapes before use.
2. No torch is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from plasmid.adapters.adapter import (
    PEFT_PREFIX,
    AdapterSchema,
    Vector,
    adapter_schema,
)
from plasmid.adapters.calibration import calibrated
from plasmid.adapters.card import CardFacts, card
from plasmid.adapters.files import HeadFile, hub_name, json_file
from plasmid.bases.store import BaseModel
from plasmid.bases.tensors import read_floats
from plasmid.core.bounds import parse_json
from plasmid.core.errors import ModelError
from plasmid.core.files import folder_atomic
from plasmid.tasks import Head

MAX_JSON_BYTES = 16 * 2**20
MAX_TENSORS_BYTES = 4 * 2**30

Seal = Callable[[Mapping[str, bytes]], Mapping[str, bytes]]


@dataclass(frozen=True)
class Adapter:
    """An adapter read from its folder.

    Attributes
    ----------
    tensors
        LoRA factors, ``head.weight``, ``head.covariates`` and ``head.bias`` by their schema names.
    about
        ``head.json``.
    provenance
        ``provenance.json``.
    """

    tensors: Mapping[str, Vector]
    about: HeadFile
    provenance: Mapping[str, Any]

    def on(self, base: BaseModel) -> tuple[AdapterSchema, Vector]:
        """Return the schema on *base*, and the state: float32 [schema.size].

        Raises
        ------
        ModelError
            ``model.adapter_mismatch``: the tensors are not those of such an adapter on *base*.
        """
        schema = adapter_schema(base, self.about.lora, self.about.head)
        return schema, schema.flatten(self.tensors)


def write_adapter(
    folder: Path,
    files: Mapping[str, bytes],
    *,
    parameters: int,
    facts: CardFacts,
    provenance: Mapping[str, Any],
    seal: Seal = lambda _: {},
) -> None:
    """Write an adapter to *folder*, replacing what is there.

    Parameters
    ----------
    files
        What :func:`plasmid.adapters.files.adapter_files` made.
    parameters
        Trained ones, the head's included.
    facts
        What the card says beside the code.
    provenance
        JSON values.
    seal
        Returns further files, by name, from the contents of all the others.

    Raises
    ------
    StorageError
        The folder cannot be written; it is then as it was.
    """
    about = HeadFile.model_validate_json(files["head.json"])
    written = {
        **files,
        "README.md": card(about, facts, parameters, base=hub_name(about.base.id)).encode(),
        "provenance.json": json_file(provenance),
    }
    with folder_atomic(folder) as new:
        for name, content in {**written, **seal(written)}.items():
            (new / name).write_bytes(content)


def read_adapter(folder: Path) -> Adapter:
    """Return the adapter in *folder*.

    Raises
    ------
    ModelError
        ``model.adapter_missing``: *folder* holds none; ``model.adapter_invalid``: a file is missing,
        too large or not what it should be; ``model.tensors_invalid``.
    """
    about = read_head(folder)
    try:
        provenance = parse_json(_read(folder / "provenance.json", MAX_JSON_BYTES))
        config = parse_json(_read(folder / "adapter_config.json", MAX_JSON_BYTES))
    except ValueError as error:
        raise _invalid(folder, "a file is not JSON") from error
    if not isinstance(provenance, dict) or not isinstance(config, dict):
        raise _invalid(folder, "a JSON file is not an object")
    said = (config.get("r"), config.get("lora_alpha"), bool(config.get("use_rslora")))
    if said != (about.lora.rank, about.lora.alpha, about.lora.rslora):
        raise _invalid(folder, "adapter_config.json and head.json differ in rank, alpha or rslora")
    if config.get("use_dora"):
        raise _invalid(folder, "adapter_config.json sets use_dora, which is not computed here")
    return Adapter(_tensors(folder, about.head), about, provenance)


def read_head(folder: Path) -> HeadFile:
    """Return ``head.json`` of the adapter in *folder*, with its calibration, and read nothing else of it.

    Raises
    ------
    ModelError
        ``model.adapter_missing``, ``model.adapter_invalid``: as :func:`read_adapter`.
    """
    if not (folder / "head.json").is_file():
        raise ModelError(
            "model.adapter_missing",
            f"{folder} holds no Plasmid adapter (no head.json).",
            "Give the folder that 'plasmid run' named at its end.",
        )
    try:
        text = _read(folder / "head.json", MAX_JSON_BYTES)
        parse_json(text)
        about = HeadFile.model_validate_json(text)
    except ValidationError as error:
        places = sorted({".".join(str(part) for part in problem["loc"]) for problem in error.errors()})
        raise _invalid(folder, f"head.json is wrong at {', '.join(places)}") from error
    except (ValueError, RecursionError) as error:
        raise _invalid(folder, "a file is not JSON") from error
    return calibrated(folder, about)


def _tensors(folder: Path, head: Head) -> dict[str, Vector]:
    trained = head.own_head == "none"
    for name in ("adapter_model.safetensors", *(["head.safetensors"] if trained else [])):
        _size_ok(folder / name, MAX_TENSORS_BYTES)
    tensors = read_floats(folder / "adapter_model.safetensors")
    stray = sorted(name for name in tensors if not name.startswith(PEFT_PREFIX))
    if stray:
        raise _invalid(
            folder, f"adapter_model.safetensors holds {', '.join(stray[:5])}, which is no LoRA factor"
        )
    tensors |= _head_tensors(folder, head) if trained else {}
    if not all(np.isfinite(value).all() for value in tensors.values()):
        raise _invalid(folder, "a tensor holds numbers that are not finite")
    return tensors


def _head_tensors(folder: Path, head: Head) -> dict[str, Vector]:
    found = read_floats(folder / "head.safetensors")
    outputs, width = head.width, head.covariate_width
    weight, bias = found.get("weight"), found.get("bias")
    if (
        len(found) != 2
        or weight is None
        or bias is None
        or bias.shape != (outputs,)
        or weight.ndim != 2
        or weight.shape[0] != outputs
        or weight.shape[1] <= width
    ):
        raise _invalid(
            folder, f"head.safetensors isn't a head of {outputs} outputs and {width} covariate slots"
        )
    hidden = weight.shape[1] - width
    tensors = {"head.weight": weight[:, :hidden], "head.bias": bias}
    if width:
        tensors["head.covariates"] = weight[:, hidden:]
    return tensors


def _read(path: Path, limit_bytes: int) -> bytes:
    _size_ok(path, limit_bytes)
    return path.read_bytes()


def _size_ok(path: Path, limit_bytes: int) -> None:
    if not path.is_file():
        raise _invalid(path.parent, f"{path.name} is missing")
    if path.stat().st_size > limit_bytes:
        raise _invalid(path.parent, f"{path.name} is longer than {limit_bytes} bytes")


def _invalid(folder: Path, what: str) -> ModelError:
    return ModelError(
        "model.adapter_invalid",
        f"the adapter in {folder} cannot be used: {what}.",
        "Fetch it again from its source.",
    )
