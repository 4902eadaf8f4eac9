"""The values of an adapter inside a model: which of them learn, how they are held, and as one vector.

Rules
-----
1. They have the names and the order of the schema (:mod:`plasmid.adapters.adapter`). A factor B is held
   transposed, or as a core in a frame (:meth:`Learned.hold_cores`).
2. The adapter may be held as copies that learn apart (:meth:`Learned.hold_copies`): those of several sites,
   in one pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from plasmid.adapters.adapter import PEFT_PREFIX, AdapterSchema, Vector
from plasmid.lora.layer import LoraLinear


def _in_schema(name: str, tensor: Tensor) -> Tensor:
    """Turn a parameter into the schema's tensor *name*, or back: a factor B is held transposed."""
    return tensor.mT if name.endswith(".lora_B.weight") else tensor


class Learned(nn.Module):
    """A model whose layers at the paths of *factors* carry factors, and that has a head.

    Attributes
    ----------
    schema
        The adapter's tensors.
    """

    def __init__(self, schema: AdapterSchema, factors: Mapping[str, LoraLinear]) -> None:
        super().__init__()
        self.schema = schema
        self._trained: dict[str, nn.Parameter] = {}
        self._factors = factors
        self._frames: dict[str, Tensor] = {}
        self._copies = 0
        for path, layer in factors.items():
            self._trained[f"{PEFT_PREFIX}{path}.lora_A.weight"] = layer.lora_down
            self._trained[f"{PEFT_PREFIX}{path}.lora_B.weight"] = layer.lora_up

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self._trained.values())).device

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the trainable parameters: ``lora``, ``head`` and, if there are any, ``covariates``."""
        found: dict[str, list[nn.Parameter]] = {"lora": [], "head": []}
        for name, parameter in self._trained.items():
            group = {"head.weight": "head", "head.bias": "head", "head.covariates": "covariates"}
            found.setdefault(group.get(name, "lora"), []).append(parameter)
        return found

    def trained(self) -> Mapping[str, nn.Parameter]:
        """Return the trainable parameters by their names in the schema, in its order.

        A factor B is held transposed; :meth:`flat` knows.
        """
        return self._trained

    def learn(self, parts: Collection[str]) -> None:
        """Let those *parts* learn, and nothing else: ``A``, ``B`` or ``core``, ``head``, ``covariates``."""
        kinds = {"head.weight": "head", "head.bias": "head", "head.covariates": "covariates"}
        for name, parameter in self._trained.items():
            kind = "A" if name.endswith(".lora_A.weight") else "core" if name in self._frames else "B"
            parameter.requires_grad_(kinds.get(name, kind) in parts)

    def hold_cores(self, frames: Mapping[str, Vector]) -> None:
        """Hold the factors B named in *frames* as cores in them: orthonormal columns, [out, rank].

        Such a B must lie in the span of its frame; :meth:`set_state` projects it.
        """
        for path, layer in self._factors.items():
            name = f"{PEFT_PREFIX}{path}.lora_B.weight"
            if name in frames:
                frame = torch.from_numpy(np.ascontiguousarray(frames[name].T)).to(self.device)
                self._trained[name] = layer.core_in(frame)
                self._frames[name] = frame

    def hold_copies(self, copies: int) -> None:
        """Hold the adapter as so many *copies*; 0 holds it as it is. Its values are lost: set a state.

        Of a batch, each copy then has its run of as many rows; they stand in the order of the copies.
        """
        for parameter in self._trained.values():
            shape = parameter.shape[1:] if self._copies else parameter.shape
            parameter.grad = None
            parameter.data = parameter.new_zeros((copies, *shape) if copies else shape)
        self._copies = copies

    def factors(self) -> Vector:
        """Return the values of the LoRA factors, float32, as one vector."""
        parts = [parameter.detach().reshape(-1).cpu().numpy() for parameter in self.groups()["lora"]]
        return np.concatenate(parts)

    def learning(self) -> Mapping[str, nn.Parameter]:
        """Return those of :meth:`trained` that are not frozen."""
        return {name: value for name, value in self._trained.items() if value.requires_grad}

    def flat(self, values: Iterable[Tensor]) -> Vector:
        """Return *values*, one shaped like each of :meth:`trained` in order, as float32 [schema.size].

        Where there are copies, as float32 [copies, schema.size].
        """
        pairs = zip(self._trained, values, strict=True)
        whole = ((name, self._unfolded(name, value.detach())) for name, value in pairs)
        shape = (self._copies, -1) if self._copies else (-1,)
        parts = [_in_schema(name, value).reshape(shape).float().cpu().numpy() for name, value in whole]
        return np.concatenate(parts, axis=-1)

    def set_state(self, state: Vector) -> None:
        """Adopt *state*, float32 [schema.size], in every copy.

        Raises
        ------
        ModelError
            ``model.adapter_mismatch``.
        """
        tensors = self.schema.unflatten(state)
        with torch.no_grad():
            for name, parameter in self._trained.items():
                value = _in_schema(name, torch.from_numpy(tensors[name]))
                frame = self._frames.get(name)
                parameter.copy_(value if frame is None else value.to(frame) @ frame.T)

    def _unfolded(self, name: str, value: Tensor) -> Tensor:
        """Return what stands for the tensor *name* as that tensor: a core times its frame."""
        frame = self._frames.get(name)
        return value if frame is None else value @ frame.to(value.dtype)

    def state(self) -> Vector:
        """Return the adapter as float32 [schema.size]; exactly what :meth:`set_state` was given.

        Where cores are held, but for rounding.
        """
        return self.flat(self._trained.values())
