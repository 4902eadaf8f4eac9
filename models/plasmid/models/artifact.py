"""An adapter as a folder: the layout that plain PEFT loads, with the head, card and provenance beside it.

    adapter_model.safetensors   LoRA factors only (PEFT would silently ignore head tensors in here)
    adapter_config.json         PEFT's settings; the base by its name on the hub and revision, never by a path
    head.safetensors            weight [labels, hidden + covariate slots], bias [labels]
    head.json                   how to get from a row to that head's input; see :class:`HeadFile`
    README.md                   the card; its code block scores rows with stock libraries
    provenance.json             where the adapter comes from

Rules
-----
1. A folder is written whole or not at all; reading checks sizes, names and shapes before use.
2. The files depend on what they are given alone, not on a library's version. No torch is needed.
3. The first four (:func:`adapter_files`) follow from recipe, base and trained state alone, so that everybody
   who has these three makes the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel as PydanticModel
from pydantic import ConfigDict, Field, ValidationError

from plasmid.core.bounds import check_json
from plasmid.core.errors import ModelError
from plasmid.core.files import folder_atomic
from plasmid.models.adapter import (
    PEFT_PREFIX,
    AdapterSchema,
    Vector,
    adapter_schema,
    lora_modules,
    target_regex,
)
from plasmid.models.card import CardFacts, card
from plasmid.models.catalogue import Hex256, ModelId, Revision
from plasmid.models.specs import HeadSpec, LoraSpec
from plasmid.models.store import BaseModel
from plasmid.models.tensors import pack_floats, read_floats

HUB_ORGANISATION = "plasmid"
"""Owner of the base models on a hub."""
MAX_JSON_BYTES = 16 * 2**20
MAX_TENSORS_BYTES = 4 * 2**30

Seal = Callable[[Mapping[str, bytes]], Mapping[str, bytes]]


class BaseRef(PydanticModel):
    """The base model that an adapter belongs to."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    id: ModelId
    revision: Revision
    digest: Hex256


class HeadFile(PydanticModel):
    """``head.json``.

    Attributes
    ----------
    pooling
        Mean of the encoder's output over the tokens but the special ones.
    input, kind
        The column that the encoder reads, and what it holds.
    spaced
        True: put blanks between residues before tokenising.
    max_length
        In tokens, special ones included.
    label
        The column that holds the label, where it is known.
    metric
        What the adapter was judged by.
    columns
        The part of the recipe's data contract that a table to be scored must meet, by column name.
    temperature
        What logits are divided by so that probabilities are calibrated; None, and no key in the file: nobody
        has calibrated them.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    format: Literal["plasmid.head/1"] = "plasmid.head/1"
    pooling: Literal["mean"] = "mean"
    input: Annotated[str, Field(min_length=1, max_length=200)]
    kind: Literal["protein", "text"]
    spaced: bool
    max_length: Annotated[int, Field(ge=3, le=100_000)]
    label: Annotated[str, Field(min_length=1, max_length=200)]
    metric: Literal["auc", "accuracy"]
    columns: dict[str, dict[str, Any]]
    temperature: Annotated[float, Field(ge=0.01, le=100)] | None = None
    head: HeadSpec
    lora: LoraSpec
    base: BaseRef


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


def adapter_files(
    *,
    schema: AdapterSchema,
    state: Vector,
    base: BaseModel,
    lora: LoraSpec,
    head: HeadSpec,
    input_column: str,
    label_column: str,
    metric: Literal["auc", "accuracy"],
    max_length: int,
    columns: Mapping[str, Mapping[str, Any]],
) -> dict[str, bytes]:
    """Return the contents of the first four files of the adapter *state*, by name.

    Parameters
    ----------
    state
        float32 [schema.size].
    max_length
        In tokens, special ones included.
    columns
        The data contract of the input, label and covariate columns, as JSON values.

    Raises
    ------
    ModelError
        ``model.adapter_mismatch``: *state* doesn't fit *schema*; ``model.not_finite``: it holds
        NaN or an infinity.
    """
    if not np.isfinite(state).all():
        raise ModelError(
            "model.not_finite", "the adapter holds numbers that are not finite.", "Don't release it."
        )
    tensors = schema.unflatten(state)
    about = HeadFile(
        input=input_column,
        kind=base.entry.input,
        spaced=base.entry.spaced,
        max_length=max_length,
        label=label_column,
        metric=metric,
        columns={name: dict(column) for name, column in columns.items()},
        head=head,
        lora=lora,
        base=BaseRef(id=base.id, revision=base.revision, digest=base.digest),
    )
    config = {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": hub_name(base.id),
        "revision": base.revision,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": target_regex(base, lora_modules(base, lora)),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    weight = np.concatenate(
        [tensors[name] for name in ("head.weight", "head.covariates") if name in tensors], 1
    )
    return {
        "adapter_model.safetensors": pack_floats(
            {name: value for name, value in tensors.items() if name.startswith(PEFT_PREFIX)}
        ),
        "adapter_config.json": json_file(config),
        "head.safetensors": pack_floats({"weight": weight, "bias": tensors["head.bias"]}),
        "head.json": json_file(about.model_dump(mode="json", exclude={"temperature"})),
    }


def write_adapter(
    folder: Path,
    *,
    schema: AdapterSchema,
    state: Vector,
    base: BaseModel,
    lora: LoraSpec,
    head: HeadSpec,
    input_column: str,
    label_column: str,
    metric: Literal["auc", "accuracy"],
    max_length: int,
    columns: Mapping[str, Mapping[str, Any]],
    facts: CardFacts,
    provenance: Mapping[str, Any],
    seal: Seal = lambda _: {},
) -> None:
    """Write the adapter *state* to *folder*, replacing what is there.

    Parameters
    ----------
    facts
        What the card says beside the code.
    provenance
        JSON values.
    seal
        Returns further files, by name, from the contents of all the others.

    The others are those of :func:`adapter_files`.

    Raises
    ------
    ModelError
        As :func:`adapter_files`.
    StorageError
        The folder cannot be written; it is then as it was.
    """
    files = adapter_files(
        schema=schema,
        state=state,
        base=base,
        lora=lora,
        head=head,
        input_column=input_column,
        label_column=label_column,
        metric=metric,
        max_length=max_length,
        columns=columns,
    )
    about = HeadFile.model_validate_json(files["head.json"])
    files["README.md"] = card(about, facts, schema.size, base=hub_name(base.id)).encode()
    files["provenance.json"] = json_file(provenance)
    files |= seal(files)
    with folder_atomic(folder) as new:
        for name, content in files.items():
            (new / name).write_bytes(content)


def hub_name(model_id: str) -> str:
    """Return the name under which the hub has the base model *model_id*."""
    return f"{HUB_ORGANISATION}/{model_id}"


def json_file(value: Mapping[str, Any]) -> bytes:
    """Return *value* as the text of a file: the same bytes for the same value in the same order."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


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
        provenance = json.loads(_read(folder / "provenance.json", MAX_JSON_BYTES))
        config = json.loads(_read(folder / "adapter_config.json", MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise _invalid(folder, "a file is not JSON") from error
    if not isinstance(provenance, dict) or not isinstance(config, dict):
        raise _invalid(folder, "a JSON file is not an object")
    if config.get("r") != about.lora.rank or config.get("lora_alpha") != about.lora.alpha:
        raise _invalid(folder, "adapter_config.json and head.json differ in rank or alpha")
    return Adapter(_tensors(folder, about.head), about, provenance)


def read_head(folder: Path) -> HeadFile:
    """Return ``head.json`` of the adapter in *folder*, without reading anything else of it.

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
        return HeadFile.model_validate_json(_read(folder / "head.json", MAX_JSON_BYTES))
    except ValidationError as error:
        places = sorted({".".join(str(part) for part in problem["loc"]) for problem in error.errors()})
        raise _invalid(folder, f"head.json is wrong at {', '.join(places)}") from error
    except (ValueError, RecursionError) as error:
        raise _invalid(folder, "a file is not JSON") from error


def _tensors(folder: Path, head: HeadSpec) -> dict[str, Vector]:
    for name in ("adapter_model.safetensors", "head.safetensors"):
        _size_ok(folder / name, MAX_TENSORS_BYTES)
    tensors = read_floats(folder / "adapter_model.safetensors")
    stray = sorted(name for name in tensors if not name.startswith(PEFT_PREFIX))
    if stray:
        raise _invalid(
            folder, f"adapter_model.safetensors holds {', '.join(stray[:5])}, which is no LoRA factor"
        )
    found = read_floats(folder / "head.safetensors")
    labels, width = len(head.labels), head.covariate_width
    weight, bias = found.get("weight"), found.get("bias")
    if (
        len(found) != 2
        or weight is None
        or bias is None
        or bias.shape != (labels,)
        or weight.ndim != 2
        or weight.shape[0] != labels
        or weight.shape[1] <= width
    ):
        raise _invalid(
            folder, f"head.safetensors isn't a head of {labels} labels and {width} covariate slots"
        )
    hidden = weight.shape[1] - width
    tensors |= {"head.weight": weight[:, :hidden], "head.bias": bias}
    if width:
        tensors["head.covariates"] = weight[:, hidden:]
    if not all(np.isfinite(value).all() for value in tensors.values()):
        raise _invalid(folder, "a tensor holds numbers that are not finite")
    return tensors


def _read(path: Path, limit_bytes: int) -> bytes:
    _size_ok(path, limit_bytes)
    text = path.read_bytes()
    check_json(text)
    return text


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
