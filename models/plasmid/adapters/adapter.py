"""An adapter as one flat vector, and the schema that says which number is what. No torch.

Rules
-----
1. The schema follows from the base's safetensors header, the LoRA settings and the head alone, so
   that every party derives the same one.
2. Order: LoRA factors by layer, then module path, A before B; then ``head.weight``,
   ``head.covariates`` (absent without covariates), ``head.bias``, all absent where the base's own head
   answers. Each tensor is flattened in C order.
3. LoRA tensors have the names that PEFT saves: ``base_model.model.<module>.lora_A.weight`` [r, in],
   ``.lora_B.weight`` [out, r] (Hu et al., https://arxiv.org/abs/2106.09685).
4. Flattening and unflattening are exact inverses; a wrong name, shape or type is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from plasmid.bases.architectures import architecture
from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel
from plasmid.core.errors import ModelError
from plasmid.core.problems import did_you_mean
from plasmid.lora.nf4 import packable
from plasmid.tasks import Head

Vector = npt.NDArray[np.float32]

PEFT_PREFIX = "base_model.model."
ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of an adapter."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class AdapterSchema:
    """The tensors of an adapter in the order in which they make one vector."""

    tensors: tuple[TensorSpec, ...]

    @property
    def size(self) -> int:
        """The length of the vector: the number of trainable parameters."""
        return sum(tensor.size for tensor in self.tensors)

    def flatten(self, tensors: Mapping[str, npt.NDArray[Any]]) -> Vector:
        """Return *tensors* as float32 [size].

        Raises
        ------
        ModelError
            ``model.adapter_mismatch``: a tensor is missing, unknown, not float32 or of another shape;
            all of them are named.
        """
        wanted = {tensor.name: tensor.shape for tensor in self.tensors}
        problems = [f"{name} is missing" for name in wanted if name not in tensors]
        problems += [f"{name} is unknown" for name in tensors if name not in wanted]
        for name in wanted.keys() & tensors.keys():
            value = tensors[name]
            if value.shape != wanted[name] or value.dtype != np.float32:
                problems.append(
                    f"{name} is {value.dtype} {list(value.shape)}, not float32 {list(wanted[name])}"
                )
        if problems:
            raise ModelError(
                "model.adapter_mismatch",
                f"the adapter's tensors do not fit: {'; '.join(sorted(problems))}.",
                "It was made for another base model, LoRA setting or head.",
            )
        return np.concatenate([tensors[tensor.name].reshape(-1) for tensor in self.tensors])

    def unflatten(self, vector: npt.NDArray[Any]) -> dict[str, Vector]:
        """Return the tensors of *vector* (float32 [size]) by name, as copies.

        Raises
        ------
        ModelError
            ``model.adapter_mismatch``: *vector* has another length or type.
        """
        if vector.shape != (self.size,) or vector.dtype != np.float32:
            raise ModelError(
                "model.adapter_mismatch",
                f"the state is {vector.dtype} {list(vector.shape)}, the schema needs float32 [{self.size}].",
                "It was made for another base model, LoRA setting or head.",
            )
        found: dict[str, Vector] = {}
        start = 0
        for tensor in self.tensors:
            found[tensor.name] = vector[start : start + tensor.size].reshape(tensor.shape).copy()
            start += tensor.size
        return found

    def as_json(self) -> list[dict[str, Any]]:
        """Return ``[{"name", "shape"}, ...]`` in order."""
        return [{"name": tensor.name, "shape": list(tensor.shape)} for tensor in self.tensors]


@dataclass(frozen=True)
class LoraModule:
    """One linear layer that carries LoRA factors."""

    path: str
    inputs: int
    outputs: int


def lora_modules(base: BaseModel, lora: LoraSpec) -> tuple[LoraModule, ...]:
    """Return the linear layers of *base* that *lora* means, by layer and then module path.

    Raises
    ------
    ModelError
        ``model.target_unknown``: a target names no linear layer; ``model.layers_unknown``: more
        layers than the model has; ``model.architecture_unknown``, ``model.tensors_invalid``.
    """
    linear = _linear_layers(base)
    depth = 1 + max((index for index, _, _ in linear), default=-1)
    if lora.layers is not None and lora.layers > depth:
        raise ModelError(
            "model.layers_unknown",
            f"LoRA on the top {lora.layers} layers, but {base.id} has {depth}.",
            f"Set adapter.lora.layers to at most {depth}, or leave it out.",
        )
    endings = sorted({suffix for _, suffix, _ in linear})
    near = {*endings, *(ending.rpartition(".")[2] for ending in endings)}
    unknown = [
        target
        for target in lora.targets
        if target != ALL_LINEAR and not any(_ends(suffix, target) for suffix in endings)
    ]
    if unknown:
        raise ModelError(
            "model.target_unknown",
            f"{base.id} has no linear layer "
            + ", ".join(f"{target}{did_you_mean(target, sorted(near))}" for target in unknown)
            + " in its transformer layers.",
            f"It has {', '.join(endings)}; {ALL_LINEAR} means all of them.",
        )
    lowest = 0 if lora.layers is None else depth - lora.layers
    return tuple(
        module
        for index, suffix, module in sorted(linear, key=lambda item: item[:2])
        if index >= lowest and any(target == ALL_LINEAR or _ends(suffix, target) for target in lora.targets)
    )


def packed_layers(base: BaseModel) -> tuple[LoraModule, ...]:
    """Return the linear layers of *base* that can be packed: whole blocks, inside transformer layers.

    Embeddings, norms, biases and heads stay as they are.
    """
    linear = [module for _, _, module in _linear_layers(base)]
    return tuple(module for module in linear if packable((module.outputs, module.inputs)))


@lru_cache(maxsize=16)
def _linear_layers(base: BaseModel) -> tuple[tuple[int, str, LoraModule], ...]:
    """Return every linear layer of *base* as (transformer layer, path in it, module)."""
    pattern = re.compile(re.escape(architecture(base.entry.architecture).layers) + r"\.(\d+)\.(.+)\.weight")
    found = []
    for name, info in base.header.items():
        match = pattern.fullmatch(name)
        if match and len(info.shape) == 2:
            path = name.removesuffix(".weight")
            found.append((int(match[1]), match[2], LoraModule(path, info.shape[1], info.shape[0])))
    return tuple(found)


def _ends(path: str, target: str) -> bool:
    return f".{path}".endswith(f".{target}")


def target_regex(base: BaseModel, modules: tuple[LoraModule, ...]) -> str:
    """Return PEFT's ``target_modules``: a regular expression that full paths of exactly *modules* match."""
    layers = architecture(base.entry.architecture).layers
    indices: dict[str, list[str]] = {}
    for module in modules:
        index, _, suffix = module.path.removeprefix(f"{layers}.").partition(".")
        indices.setdefault(suffix, []).append(index)
    return "|".join(
        rf"{re.escape(layers)}\.(?:{'|'.join(numbers)})\.{re.escape(suffix)}"
        for suffix, numbers in indices.items()
    )


def hidden_size(base: BaseModel) -> int:
    """Return the width of the encoder's output, which is that of a token's embedding."""
    words = architecture(base.entry.architecture).words
    return base.header[f"{words}.weight"].shape[1]


def adapter_schema(base: BaseModel, lora: LoraSpec, head: Head) -> AdapterSchema:
    """Return the schema of an adapter on *base*, read from the header of its weights.

    Raises
    ------
    ModelError
        As :func:`lora_modules`.
    """
    tensors: list[TensorSpec] = []
    for module in lora_modules(base, lora):
        tensors.append(TensorSpec(f"{PEFT_PREFIX}{module.path}.lora_A.weight", (lora.rank, module.inputs)))
        tensors.append(TensorSpec(f"{PEFT_PREFIX}{module.path}.lora_B.weight", (module.outputs, lora.rank)))
    if head.own_head != "none":
        return AdapterSchema(tuple(tensors))
    width = head.width
    tensors.append(TensorSpec("head.weight", (width, hidden_size(base))))
    if head.covariate_width:
        tensors.append(TensorSpec("head.covariates", (width, head.covariate_width)))
    tensors.append(TensorSpec("head.bias", (width,)))
    return AdapterSchema(tuple(tensors))


def of_rank(state: Vector, schema: AdapterSchema, own: AdapterSchema) -> Vector:
    """Return *state* of *schema* as one of *own*, which differs in the rank of the factors alone: float32.

    Of a smaller rank it holds the first components, of a larger one zeros beside those that there are.
    """
    tensors, found = schema.unflatten(state), dict[str, Vector]()
    for tensor in own.tensors:
        value = found[tensor.name] = np.zeros(tensor.shape, np.float32)
        part = tuple(
            slice(min(sizes)) for sizes in zip(tensor.shape, tensors[tensor.name].shape, strict=True)
        )
        value[part] = tensors[tensor.name][part]
    return own.flatten(found)


def initial_state(schema: AdapterSchema, seed: int) -> Vector:
    """Return the state that training starts from: A uniform in ±1/sqrt(in), everything else 0.

    That is PEFT's Kaiming-uniform start with a = sqrt 5. The numbers are the raw 64-bit output of
    Philox(*seed*), top 53 bits, in the schema's order, so that they don't depend on numpy's version.
    """
    source = np.random.Philox(seed)
    tensors: dict[str, Vector] = {}
    for tensor in schema.tensors:
        if tensor.name.endswith(".lora_A.weight"):
            unit = (np.asarray(source.random_raw(tensor.size), np.uint64) >> np.uint64(11)).astype(
                np.float64
            ) * 2.0**-53
            bound = 1.0 / math.sqrt(tensor.shape[1])
            tensors[tensor.name] = ((2.0 * unit - 1.0) * bound).astype(np.float32).reshape(tensor.shape)
        else:
            tensors[tensor.name] = np.zeros(tensor.shape, np.float32)
    return schema.flatten(tensors)
