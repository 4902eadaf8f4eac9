"""What a site keeps for itself: parts of the adapter that learn there, are never summed and never leave.

Rules
-----
1. Which parts those are follows from the document: what its method keeps (``PERSONAL``), and what the recipe
   names as ``adapter.personal``. All parties derive the same names and shapes; only a site has the values.
2. They are no part of the public state, nor of what is sent (:func:`public_of`). Where nobody has trained
   them, they are as the adapter starts.
3. Under a privacy unit they learn together with what is summed, so that what is summed depends on them: the
   node clips and noises the gradient of all that learns (:mod:`plasmid.recipes.methods` refuses the rest).
4. The gateway keeps the values (:mod:`plasmid.gateway.personal`), the worker trains them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plasmid.adapters.adapter import AdapterSchema, Vector, adapter_schema, initial_state
from plasmid.computations.api import Part, makes_adapter, method

if TYPE_CHECKING:
    from plasmid.bases.store import BaseModel

_ENDS: dict[Part, str] = {
    "A": ".lora_A.weight",
    "B": ".lora_B.weight",
    "head": "head.",  # its covariate weights go with it
}


def personal_parts(document: Any) -> frozenset[Part]:
    """Return what each site keeps for itself, by the *document*."""
    return frozenset({*getattr(method(document), "PERSONAL", ()), *document.adapter.personal})


def keeps(document: Any) -> bool:
    """Return whether a site keeps an adapter of its own of a run of *document*."""
    return makes_adapter(method(document)) and bool(
        document.training.personal_steps or personal_parts(document)
    )


def whole_of(document: Any, base: BaseModel | None) -> AdapterSchema:
    """Return the tensors of the adapter that *document* trains."""
    assert base is not None, "an adapter needs a base model"
    return adapter_schema(base, document.adapter.lora, document.head())


def personal_of(document: Any, base: BaseModel | None) -> AdapterSchema:
    """Return the tensors that a site keeps for itself; it has none where nothing is personal."""
    ends = tuple(_ENDS[part] for part in personal_parts(document))
    return AdapterSchema(tuple(one for one in whole_of(document, base).tensors if _is_any(one.name, ends)))


def public_of(document: Any, base: BaseModel | None) -> AdapterSchema:
    """Return the tensors of the adapter that all sites have in common."""
    own = {one.name for one in personal_of(document, base).tensors}
    return AdapterSchema(tuple(one for one in whole_of(document, base).tensors if one.name not in own))


def with_personal(document: Any, base: BaseModel | None, adapter: Vector, own: NDArray[Any] | None) -> Vector:
    """Return *adapter*, float32 [adapter size], with the personal tensors *own*, float32 [personal size].

    Parameters
    ----------
    own
        None is a site that has trained none yet: they are as the adapter starts.
    """
    kept, whole = personal_of(document, base), whole_of(document, base)
    if not kept.tensors:
        return adapter
    if own is None:
        own = personal_in(document, base, initial_state(whole, document.seed))
    return whole.flatten(whole.unflatten(adapter) | kept.unflatten(np.asarray(own, np.float32)))


def personal_in(document: Any, base: BaseModel | None, adapter: Vector) -> Vector:
    """Return the personal tensors of *adapter*, float32 [personal size]."""
    kept, whole = personal_of(document, base), whole_of(document, base)
    found = whole.unflatten(adapter)
    return kept.flatten({one.name: found[one.name] for one in kept.tensors}) if kept.tensors else adapter[:0]


def completed(document: Any, base: BaseModel | None, state: NDArray[Any]) -> Vector:
    """Return the adapter of which *state* [public size] is what all have: the rest is as it starts."""
    whole, public = whole_of(document, base), public_of(document, base)
    shared = np.asarray(state, np.float32)
    if public.size == whole.size:
        return shared
    start = whole.unflatten(initial_state(whole, document.seed))
    return whole.flatten(start | public.unflatten(shared))


def _is_any(name: str, ends: tuple[str, ...]) -> bool:
    return any(name.startswith(end) if end == "head." else name.endswith(end) for end in ends)
