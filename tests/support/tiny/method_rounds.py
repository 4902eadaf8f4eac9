"""One LoRA method on a tiny base, round by round and without a federation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from plasmid.bases.store import BaseModel
from plasmid.computations import _factors, api
from plasmid.recipes.schema import Recipe
from plasmid.secagg.ring import decode_sum, encode, plan_encoding
from support.tiny.tiny_task import tiny_recipe

SITES = 4
UNIT = {"unit": "record", "epsilon": 8.0, "delta": 1e-5, "record_clip": 0.5}
EXACT = ["ffa_lora", "rolora", "fedsvd", "fedsb"]
EXTRA: dict[str, dict[str, Any]] = {"sketch": {"sketch_width": 16}}


def recipe(base: BaseModel, method: str, **sections: dict[str, Any]) -> Recipe:
    values = tiny_recipe(base).model_dump(mode="json")
    values["computation"] = method
    values["adapter"] |= EXTRA.get(method, {})
    for section, changes in sections.items():
        values[section] |= changes
    return Recipe.model_validate(values)


def lora(**changes: Any) -> dict[str, Any]:
    return {"rank": 4, "alpha": 8.0, "targets": ["query", "value"], "layers": 2} | changes


class Rounds:
    """One method on a tiny base: what sites make of the state, what the ring makes of that, and the step."""

    def __init__(self, base: BaseModel, name: str, **sections: dict[str, Any]) -> None:
        self.base, self.document = base, recipe(base, name, **sections)
        self.method: Any = api.load(name)
        self.shape: api.Shape = self.method.shape(self.document, base)
        self.whole = _factors.schema_of(self.document, base)
        self.state = self.method.initial(self.document, self.shape)
        self.source = np.random.default_rng(3)

    def adapter(self) -> np.ndarray:
        return self.method.adapter(self.document, self.base, self.state)

    def trained(self, round_: int, size: float = 0.02) -> list[np.ndarray]:
        """Return an adapter of each site, moved at random in what learns."""
        learns, frames = (
            self.method.learns(self.document, round_),
            self.method.frames(self.document, self.base),
        )
        found = []
        for _ in range(SITES):
            tensors = _factors.parts(self.whole, self.adapter().copy())
            for name, value in tensors.items():
                part = {_factors.DOWN[:7]: "A", _factors.UP[:7]: "B"}.get(name[-14:-7], "head")
                moved = self.source.normal(0, size, value.shape)
                if name in frames and "core" in learns:
                    moved, part = frames[name] @ self.source.normal(0, size, (value.shape[1],) * 2), "core"
                if part in learns:
                    value += moved.astype(np.float32)
            found.append(_factors.joined(self.whole, tensors))
        return found

    def summed(self, trained: list[np.ndarray], round_: int, *, exact: bool = False) -> api.Sum:
        """Return the sum of what the sites send: through the ring, or as it is."""
        vectors = [
            self.method.sent(self.document, self.base, self.adapter(), after, round_) for after in trained
        ]
        assert all(vector.shape == (self.shape.schema.size,) for vector in vectors)
        assert all(vector.dtype == np.float32 for vector in vectors)
        if exact:
            return api.Sum(np.sum([vector.astype(np.float64) for vector in vectors], axis=0), SITES, round_)
        encoding = plan_encoding(length=vectors[0].size, bound=self.shape.bound, sites=SITES, bits=32)
        words = np.sum([encode(vector, encoding) for vector in vectors], axis=0, dtype=encoding.dtype)
        return api.Sum(decode_sum(words, encoding, SITES)[: vectors[0].size], SITES, round_)

    def advance(self, summed: api.Sum) -> None:
        self.state = self.method.advance(self.document, self.shape, self.state, summed)
        assert (self.state.dtype, self.state.size) == (np.float32, self.shape.state.size)

    def products(self, adapters: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Return the plain mean of the products of *adapters*, by module, in float64."""
        found: dict[str, np.ndarray] = {}
        for adapter in adapters:
            tensors = _factors.parts(self.whole, adapter.astype(np.float64))
            for module in _factors.modules(self.whole):
                product = tensors[module + _factors.UP] @ tensors[module + _factors.DOWN]
                found[module] = found.get(module, 0.0) + product / len(adapters)
        return found

    def heads(self, adapters: list[np.ndarray]) -> np.ndarray:
        """Return the plain mean of the heads."""
        start = _factors.only(self.whole, _factors.DOWN).size + _factors.only(self.whole, _factors.UP).size
        return np.mean([adapter[start:].astype(np.float64) for adapter in adapters], axis=0)


def worst(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(left[name] - right[name]).max()) for name in left)


def problem(base: BaseModel, method: str, **sections: dict[str, Any]) -> str:
    """Return the one contradiction of a recipe."""
    with pytest.raises(ValidationError) as caught:
        recipe(base, method, **sections)
    ((_, what),) = [found for error in caught.value.errors() for found in error["ctx"]["problems"]]
    return str(what)
