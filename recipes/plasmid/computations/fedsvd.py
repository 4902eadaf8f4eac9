"""FedSVD: B and the head are averaged, then each product is taken apart anew, A with orthonormal rows.

Lee, Park, Lee, Wagner, Seong, Bocklet, Lee and Hwang 2025 ("FedSVD: Adaptive Orthogonalization for Private
Federated Learning with LoRA", arXiv 2505.12805). A round is one of FFA-LoRA: A is the same everywhere and
does not learn. Then B A = U S Vt, and A becomes Vt, B becomes U S: the product stays, gradients of B are
bounded by those of the layer, and clip and noise meet columns of B that are orthogonal to one another. A
starts orthonormal, too, which the paper leaves to its first step.

What it is not: Vt spans what the rows of A span, so A turns but reaches no input that its start left out. And
a site sends B's difference for an A that all know; the coordinator and every gateway take the product apart
in float64, with the same result to 1e-5 (:mod:`plasmid.computations._algebra`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plasmid.adapters.adapter import Vector, initial_state
from plasmid.computations._algebra import orthonormal, refactored
from plasmid.computations._factors import (
    DOWN,
    UP,
    changed,
    joined,
    modules,
    no_frames,
    parts,
    shape_of,
    step,
    wide_enough,
    without,
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
WORDS = "one of every two small matrices beside weights is trained on the rows"
LINEAR = True
SERVER_OPTIMISERS = False
SITE_RANKS = False
ADAPTER_KEYS: tuple[str, ...] = ()

frames = no_frames


def shape(document: Recipe, base: BaseModel | None) -> Shape:
    """Return B and the head; the state is the whole adapter. Raises RecipeError (``recipe.rank``)."""
    whole = wide_enough(public_of(document, base))
    return shape_of(document, without(whole, DOWN), public=whole)


def initial(document: Recipe, shape: Shape) -> State:
    """Return A random from the recipe's seed with its rows made orthonormal, B and head zero."""
    found = parts(shape.state, initial_state(shape.state, document.seed))
    rows = {name: orthonormal(value.T).T for name, value in found.items() if name.endswith(DOWN)}
    return joined(shape.state, found | rows)


def learns(document: Recipe, round_: int) -> frozenset[Part]:  # noqa: ARG001
    """Return B and the head."""
    return HEAD | {"B"}


def sent(document: Recipe, base: BaseModel, before: Vector, after: Vector, round_: int) -> State:  # noqa: ARG001
    """Return the difference in B and head."""
    return changed(document, base, without(public_of(document, base), DOWN), before, after)


def advance(document: Recipe, shape: Shape, state: State, summed: Sum) -> State:
    """Return the state with the mean added to B and head, and each product taken apart anew."""
    found = parts(shape.state, state)
    for name, moved in parts(shape.schema, step(document, shape.schema, summed)).items():
        found[name] = found[name] + moved
    for module in modules(shape.state):
        up, down = found[module + UP], found[module + DOWN]
        found[module + UP], found[module + DOWN] = refactored(up, down, len(down), spare=down)
    return joined(shape.state, found)
