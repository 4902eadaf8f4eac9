"""The exact mean of the sites' products from two linear sketches, cut to the adapter's rank.

A site trains its own A_i and B_i from the public A and B. What all of it makes, the mean of D_i = B_i A_i - B
A, is no function of mean factors; but Y_i = D_i Omega and Z_i = Psi D_i are linear in D_i, so their sums are
those of the sum of D_i. Omega [in, s + 4] and Psi [s + r + 12, out] are normal, public, and new in every
round. From the two sums the sum of the D_i follows exactly: with Q spanning B and Y, it is Q (Psi Q)^+ Z
(:func:`sketched`). That holds while s is at least the sum of the ranks: D_i = (B_i - B) A_i + B (A_i - A), so
that beside the columns of B, which all know, every site adds at most its own rank. Nothing asks for equal
ones: a site may train the first components of A and B only (``adapter.ranks``), and the mean is that of what
all trained.

What is kept is FlexLoRA's (Bai, Chen, Qian, Yao and Li 2024, arXiv 2402.11505): the nearest product of rank r
to the mean, by SVD. FedEx-LoRA (Singhal, Ponkshe and Vepakomma 2024, arXiv 2410.09432) would keep the mean
factors and add what they miss to the base's weights, FLoRA (Wang et al. 2024, arXiv 2409.05976) would add the
whole product to them and start the factors anew: adapters of growing rank, which nobody could hand on as one
of rank r. The mean product that both need is what :func:`mean_product` returns.
"""

from __future__ import annotations

import math
from itertools import accumulate, chain, repeat, takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plasmid.adapters.adapter import AdapterSchema, TensorSpec, Vector, initial_state
from plasmid.computations._algebra import Matrix, gaussian, refactored, sketched
from plasmid.computations._factors import (
    DOWN,
    UP,
    head_of,
    joined,
    modules,
    no_frames,
    parts,
    schema_of,
    shape_of,
    wide_enough,
)
from plasmid.computations._personal import completed as adapter
from plasmid.computations._personal import public_of
from plasmid.computations.api import HEAD, Part, Shape, SiteHalf, State, Sum
from plasmid.computations.finetune import losses

if TYPE_CHECKING:
    from plasmid.bases.store import BaseModel
    from plasmid.recipes.schema import Recipe

__all__ = ["adapter", "losses"]

SITE_HALF: SiteHalf = "loss"
WORDS = "small matrices beside weights are trained on the rows; projections of them leave"
LINEAR = False
SERVER_OPTIMISERS = False
SITE_RANKS = True
ADAPTER_KEYS = ("sketch_width",)

WIDER = 4
"""Columns of Omega beyond the ranks that it is to span, or rounding grows, a thousandfold at worst."""
MORE = 8
"""Rows of Psi beyond the columns that it is to tell apart: what keeps its pseudo-inverse small."""

frames = no_frames


def shape(document: Recipe, base: BaseModel | None) -> Shape:
    """Return each adapted layer's sketches and the head; the state is the whole adapter.

    Raises
    ------
    RecipeError
        ``recipe.rank``.
    """
    whole, rank = wide_enough(public_of(document, base)), document.adapter.lora.rank
    width = _columns(document)
    found = {spec.name: spec.shape for spec in whole.tensors}
    sketches: list[TensorSpec] = []
    for module in modules(whole):
        outputs, inputs = found[module + UP][0], found[module + DOWN][1]
        sketches.append(TensorSpec(f"{module}.sketch_Y", (outputs, width)))
        sketches.append(TensorSpec(f"{module}.sketch_Z", (width + rank + MORE, inputs)))
    schema = AdapterSchema((*sketches, *head_of(whole)))
    needed = accumulate(chain(sorted(document.adapter.ranks.values()), repeat(rank)))
    most = sum(1 for _ in takewhile(lambda ranks: ranks <= width - WIDER, needed))
    return shape_of(document, schema, public=whole, most_sites=most)


def initial(document: Recipe, shape: Shape) -> State:
    """Return the adapter before training: A random from the recipe's seed, B and head zero."""
    return initial_state(shape.state, document.seed)


def learns(document: Recipe, round_: int) -> frozenset[Part]:  # noqa: ARG001
    """Return everything."""
    return HEAD | {"A", "B"}


def _columns(document: Recipe) -> int:
    """Return how many columns Omega has."""
    width = document.adapter.sketch_width
    assert width is not None, "the recipe's checks ask for it"
    return width + WIDER


def omega(document: Recipe, round_: int, module: str, inputs: int) -> Matrix:
    """Return Omega [inputs, s + 4] of a layer in a round; its rows have a length of 1 on average."""
    width = _columns(document)
    return gaussian((inputs, width), document.seed, round_, module, "omega") / math.sqrt(width)


def psi(document: Recipe, round_: int, module: str, outputs: int) -> Matrix:
    """Return Psi [s + r + 12, outputs] of a layer in a round; its columns have a length of 1 on average."""
    rows = _columns(document) + document.adapter.lora.rank + MORE
    return gaussian((rows, outputs), document.seed, round_, module, "psi") / math.sqrt(rows)


def sent(document: Recipe, base: BaseModel, before: Vector, after: Vector, round_: int) -> State:
    """Return Y and Z of each layer's change, and the difference in the head. Sketches keep lengths."""
    whole = schema_of(document, base)
    was, now = (parts(whole, state.astype(np.float64)) for state in (before, after))
    found: dict[str, NDArray[Any]] = {
        spec.name: now[spec.name] - was[spec.name] for spec in head_of(public_of(document, base))
    }
    for module in modules(whole):
        up, down = now[module + UP], now[module + DOWN]
        old_up, old_down = was[module + UP], was[module + DOWN]
        right = omega(document, round_, module, down.shape[1])
        left = psi(document, round_, module, up.shape[0])
        found[f"{module}.sketch_Y"] = up @ (down @ right) - old_up @ (old_down @ right)
        found[f"{module}.sketch_Z"] = (left @ up) @ down - (left @ old_up) @ old_down
    return joined(shape(document, base).schema, found)


def mean_product(
    document: Recipe,
    module: str,
    up: NDArray[Any],
    down: NDArray[Any],
    y: NDArray[Any],
    z: NDArray[Any],
    round_: int,
) -> tuple[Matrix, Matrix]:
    """Return (F, G), F G being B A plus the mean change, from the public factors and the mean sketches."""
    q, x = sketched(y, z, psi(document, round_, module, len(up)), known=up)
    return np.concatenate([up, q], axis=1), np.concatenate([down, x])


def advance(document: Recipe, shape: Shape, state: State, summed: Sum) -> State:
    """Return the nearest adapter of the recipe's rank to the mean product, with the mean head."""
    found, mean = parts(shape.state, state), parts(shape.schema, summed.mean)
    for spec in head_of(shape.state):
        found[spec.name] = found[spec.name] + mean[spec.name]
    for module in modules(shape.state):
        up, down = found[module + UP], found[module + DOWN]
        y, z = mean[f"{module}.sketch_Y"], mean[f"{module}.sketch_Z"]
        left, right = mean_product(document, module, up, down, y, z, summed.round)
        found[module + UP], found[module + DOWN] = refactored(left, right, len(down), spare=down)
    return joined(shape.state, found)
