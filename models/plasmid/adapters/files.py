"""The files of an adapter that follow from recipe, base and trained state alone. No torch.

    adapter_model.safetensors   LoRA factors only (PEFT would silently ignore head tensors in here)
    adapter_config.json         PEFT's settings; the base by its name on the hub and revision, never by a path
    head.safetensors            weight [outputs, hidden + covariate slots], bias [outputs]; not of an adapter
                                whose base answers with its own head
    head.json                   how to get from a row to that head's input; see :class:`HeadFile`

Rules
-----
1. They depend on what they are given alone, not on a library's version: everybody who has those three makes
   the same bytes, the sites that countersign them included.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel as PydanticModel
from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from plasmid.adapters.adapter import PEFT_PREFIX, AdapterSchema, Vector, lora_modules, target_regex
from plasmid.bases.architectures import InputKind
from plasmid.bases.catalogue import Hex256, ModelId, Revision
from plasmid.bases.specs import LoraSpec, Quantization, unless_default
from plasmid.bases.store import BaseModel
from plasmid.bases.tensors import pack_floats
from plasmid.core.errors import ModelError
from plasmid.tasks import AnyHead, Head

_PEFT_TASKS = {"none": "FEATURE_EXTRACTION", "causal": "CAUSAL_LM", "masked": None}
"""What PEFT calls it, by the head of the base's own; it has no word for masked tokens."""
HUB_ORGANISATION = "plasmid"
"""Owner of the base models on a hub."""


class BaseRef(PydanticModel):
    """The base model that an adapter belongs to.

    Attributes
    ----------
    quantization
        How its weights were held in training; no key in the file where they were as they are published.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    id: ModelId
    revision: Revision
    digest: Hex256
    quantization: Quantization = "none"

    @model_serializer(mode="wrap")
    def _named(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return unless_default(handler(self), "quantization", "none")


class HeadFile(PydanticModel):
    """``head.json``.

    Attributes
    ----------
    pooling
        ``mean``: of the encoder's output over the tokens but the special ones; ``none``: the head is on the
        output at each of these, or is the base's own.
    input, kind
        The column that the encoder reads, and what it holds.
    spaced
        True: put blanks between residues before tokenising.
    max_length
        In tokens, special ones included.
    label
        The column that holds the label, where it is known; None: there is none to be known.
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
    pooling: Literal["mean", "none"] = "mean"
    input: Annotated[str, Field(min_length=1, max_length=200)]
    kind: InputKind
    spaced: bool
    max_length: Annotated[int, Field(ge=3, le=100_000)]
    label: Annotated[str, Field(min_length=1, max_length=200)] | None
    metric: Annotated[str, Field(min_length=1, max_length=200)]
    columns: dict[str, dict[str, Any]]
    temperature: Annotated[float, Field(ge=0.01, le=100)] | None = None
    head: AnyHead
    lora: LoraSpec
    base: BaseRef

    @model_validator(mode="after")
    def _check(self) -> HeadFile:
        if self.metric not in self.head.metrics:
            raise ValueError(f"a {self.head.kind} is not judged by {self.metric}")
        if (self.pooling == "none") is not self.head.per_token:
            raise ValueError(f"pooling is {self.pooling}")
        if self.head.per_token and self.head.own_head == "none" and self.kind != "protein":
            raise ValueError(f"a {self.kind} has no residues")
        if self.temperature is not None and not self.head.probabilistic:
            raise ValueError("there are no probabilities to be calibrated")
        return self


def adapter_files(
    *,
    schema: AdapterSchema,
    state: Vector,
    base: BaseModel,
    lora: LoraSpec,
    head: Head,
    input_column: str,
    label_column: str | None,
    metric: str,
    max_length: int,
    columns: Mapping[str, Mapping[str, Any]],
    quantization: Quantization = "none",
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
    quantization
        How the base's weights were held in training.

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
        pooling="none" if head.per_token else "mean",
        input=input_column,
        kind=base.entry.input,
        spaced=base.entry.spaced,
        max_length=max_length,
        label=label_column,
        metric=metric,
        columns={name: dict(column) for name, column in columns.items()},
        head=head,
        lora=lora,
        base=BaseRef(id=base.id, revision=base.revision, digest=base.digest, quantization=quantization),
    )
    config = {
        "peft_type": "LORA",
        "task_type": _PEFT_TASKS[head.own_head],
        "base_model_name_or_path": hub_name(base.id),
        "revision": base.revision,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "use_rslora": lora.rslora,
        "target_modules": target_regex(base, lora_modules(base, lora)),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    trained = {}
    if head.own_head == "none":
        names = [name for name in ("head.weight", "head.covariates") if name in tensors]
        weight = np.concatenate([tensors[name] for name in names], 1)
        trained["head.safetensors"] = pack_floats({"weight": weight, "bias": tensors["head.bias"]})
    return {
        "adapter_model.safetensors": pack_floats(
            {name: value for name, value in tensors.items() if name.startswith(PEFT_PREFIX)}
        ),
        "adapter_config.json": json_file(config),
        **trained,
        "head.json": json_file(about.model_dump(mode="json", exclude={"temperature"})),
    }


def hub_name(model_id: str) -> str:
    """Return the name under which the hub has the base model *model_id*."""
    return f"{HUB_ORGANISATION}/{model_id}"


def json_file(value: Mapping[str, Any]) -> bytes:
    """Return *value* as the text of a file: the same bytes for the same value in the same order."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
