"""Fed-SB: a core of r x r between two public frames; only cores and the head are sent.

Singhal, Ponkshe, Vartak, Varshney and Vepakomma 2025 ("Fed-SB: A Silver Bullet for Extreme Communication
Efficiency and Performance in (Private) Federated LoRA Fine-Tuning", arXiv 2502.15436), with the frames of
LoRA-XS (Balazy, Banaei, Aberer and Tabor 2024, arXiv 2405.17604): of each adapted weight W the leading
singular directions. The update is U R Vt; U and V never change, so the mean of the cores R gives the mean
product. As an adapter A is Vt and B is U R: any LoRA library reads it.

Not as in the papers: U and V are both orthonormal (LoRA-XS puts the singular values into one of them), R
starts at zero (Fed-SB starts it from gradients, which here would be private), and the directions are those of
:data:`PASSES` passes of subspace iteration (Halko, Martinsson, Tropp 2011, arXiv 0909.4061) instead of a full
SVD. That is for one reason: sites countersign the adapter's files, so that frames must be the same to the
last bit at every party, and no LAPACK promises that. All arithmetic here is by element, in float64 and in one
order. Signs follow from it, too. Frames are computed where weights are at hand: in the worker, and where an
adapter's files are made; following a run's rounds needs none.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plasmid.adapters.adapter import PEFT_PREFIX, AdapterSchema, TensorSpec, Vector, initial_state
from plasmid.bases.tensors import float_parts, read_header
from plasmid.computations._algebra import uniform
from plasmid.computations._factors import (
    DOWN,
    UP,
    head_of,
    joined,
    modules,
    parts,
    schema_of,
    shape_of,
    step,
    wide_enough,
)
from plasmid.computations._personal import public_of
from plasmid.computations.api import HEAD, Part, Shape, SiteHalf, State, Sum
from plasmid.computations.finetune import losses

if TYPE_CHECKING:
    from pathlib import Path

    from plasmid.bases.store import BaseModel
    from plasmid.recipes.schema import Recipe

__all__ = ["losses"]

SITE_HALF: SiteHalf = "loss"
WORDS = "a small square matrix beside each of a base model's weights is trained on the rows"
LINEAR = True
SERVER_OPTIMISERS = True
SITE_RANKS = False
ADAPTER_KEYS: tuple[str, ...] = ()

PASSES = 3
"""Of subspace iteration, each over W and its transpose."""

Matrix = NDArray[np.float64]


def _sent(whole: AdapterSchema) -> AdapterSchema:
    """Return a core for each adapted layer, and the head."""
    ranks = {
        spec.name.removesuffix(DOWN): spec.shape[0] for spec in whole.tensors if spec.name.endswith(DOWN)
    }
    cores = tuple(TensorSpec(f"{module}.core", (rank, rank)) for module, rank in ranks.items())
    return AdapterSchema((*cores, *head_of(whole)))


def shape(document: Recipe, base: BaseModel | None) -> Shape:
    """Return the cores and the head. Raises RecipeError (``recipe.rank``)."""
    return shape_of(document, _sent(wide_enough(public_of(document, base))))


def initial(document: Recipe, shape: Shape) -> State:  # noqa: ARG001
    """Return zeros."""
    return np.zeros(shape.state.size, np.float32)


def learns(document: Recipe, round_: int) -> frozenset[Part]:  # noqa: ARG001
    """Return the cores and the head."""
    return HEAD | {"core"}


def frames(document: Recipe, base: BaseModel) -> dict[str, Vector]:
    """Return U [out, r] by the name of B."""
    whole = schema_of(document, base)
    return {module + UP: _frames(document, base, module)[0] for module in modules(whole)}


def adapter(document: Recipe, base: BaseModel, state: State) -> Vector:
    """Return the state with Vt for A and U R for B; see the module on why it is exact."""
    whole = schema_of(document, base)
    found: dict[str, NDArray[Any]] = dict(parts(whole, initial_state(whole, document.seed)))
    found |= parts(_sent(public_of(document, base)), state)
    for module in modules(whole):
        outer, inner = _frames(document, base, module)
        found[module + DOWN] = inner
        found[module + UP] = _product(outer.astype(np.float64), found[f"{module}.core"].astype(np.float64))
    return joined(whole, found)


def sent(document: Recipe, base: BaseModel, before: Vector, after: Vector, round_: int) -> State:  # noqa: ARG001
    """Return the difference in the cores, Ut times that in B, and in the head."""
    whole = schema_of(document, base)
    found = parts(whole, after.astype(np.float64) - before)
    cores = {
        f"{module}.core": _frames(document, base, module)[0].T @ found[module + UP]
        for module in modules(whole)
    }
    return joined(_sent(public_of(document, base)), found | cores)


def advance(document: Recipe, shape: Shape, state: State, summed: Sum) -> State:
    """Return the state plus the mean update, or one step of SGD (``dp-fedsgd``)."""
    return np.asarray(state + step(document, shape.schema, summed).astype(state.dtype))


# -- frames ----------------------------------------------------------------------------------------


def _frames(document: Recipe, base: BaseModel, module: str) -> tuple[Vector, Vector]:
    """Return U [out, r] and Vt [r, in], float32, of the weight of *module*."""
    weight = f"{module.removeprefix(PEFT_PREFIX)}.weight"
    return _computed(base.path / "model.safetensors", base.digest, weight, document.adapter.lora.rank)


@lru_cache(maxsize=1024)
def _computed(path: Path, digest: str, name: str, rank: int) -> tuple[Vector, Vector]:  # noqa: ARG001 - a key
    info = read_header(path)[name]
    weight = np.concatenate(list(float_parts(path, info))).reshape(info.shape).astype(np.float64)
    across = np.ascontiguousarray(weight.T)
    inner = _orthonormal(uniform((weight.shape[1], rank), "frame", name))
    for _ in range(PASSES):
        outer = _orthonormal(_product(weight, inner))
        inner = _orthonormal(_product(across, outer))
    return outer.astype(np.float32), np.ascontiguousarray(inner.T).astype(np.float32)


def _product(left: Matrix, right: Matrix) -> Matrix:
    """Return *left* [n, k] times *right* [k, m], its terms added in the order of k."""
    columns = np.ascontiguousarray(left.T)
    total = np.zeros((left.shape[0], right.shape[1]))
    for column, row in zip(columns, right, strict=True):
        total += column[:, None] * row
    return total


def _dots(columns: Matrix, vector: Matrix) -> Matrix:
    """Return the product of each of *columns* [n, k] with *vector* [n]: terms are added in halves, [k]."""
    terms = columns * vector[:, None]
    while len(terms) > 1:
        half = len(terms) // 2
        folded = terms[:half] + terms[half : 2 * half]
        terms = np.concatenate([folded, terms[2 * half :]])
    return np.asarray(terms[0])


def _orthonormal(columns: Matrix) -> Matrix:
    """Return an orthonormal basis of *columns* [n, k] by Gram and Schmidt's method, each column twice."""
    basis = np.zeros_like(columns)
    for place in range(columns.shape[1]):
        vector = columns[:, place].copy()
        for _ in range(2):
            if place:
                shares = _dots(basis[:, :place], vector)
                vector -= _product(basis[:, :place], shares[:, None])[:, 0]
            length = np.sqrt(_dots(vector[:, None], vector)[0])
            vector = vector / length if length > 0.0 else vector
        basis[:, place] = vector
    return basis
