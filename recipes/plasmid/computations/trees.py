"""Gradient-boosted trees from summed histograms: a round sums one level of one tree, ``advance`` splits it.

Each record adds the first and second derivative of its loss, g and h, to one cell of each feature, in the
node that it has come to. From the sums over all sites G and H the level's nodes are split where

    G_L^2 / (H_L + l2) + G_R^2 / (H_R + l2) - G^2 / (H + l2)

is largest, and a leaf weighs -G / (H + l2) (Chen and Guestrin 2016, arXiv 1603.02754, eq. 5 and 7, without
the factor 1/2, as XGBoost's own code has it). A missing value goes where that gain is larger (algorithm 3).

Rules
-----
1. Labels: logistic loss, g = p - y, h = p(1 - p), summed as (g, 3h): p^2 + 9 p^2 (1 - p)^2 is at most 1
   for every p, so the second derivatives add no length. Numbers: squared error of the target scaled to
   [-1, 1] by its public bounds, summed as (g / 2, h = 1).
2. The first score is 0: a probability of one half, the middle of the bounds. Nothing of a site's decides it.
3. The state is the forest so far, and how much of it is grown. A node that no split improves is a leaf;
   records in it add nothing to further levels of its tree.
4. ``advance`` adds one number after the other, never by numpy's pairwise sum: the same bits on every machine,
   so that a near tie is broken alike by all who re-run it. Of equal gains the first feature and edge win.
5. Under noise a cell may be negative; a side that does not reach ``min_child_weight`` is no side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plasmid.adapters.adapter import AdapterSchema, TensorSpec
from plasmid.computations._xgboost import model_json
from plasmid.computations.api import Shape, SiteHalf, State, Sum

if TYPE_CHECKING:
    from plasmid.bases.store import BaseModel
    from plasmid.recipes.trees import Cells, TreesRecipe

SITE_HALF: SiteHalf = "per_record"
WORDS = "sums of gradients in public cells of the columns, from which decision trees are grown"

LEAST_GAIN = 1e-6
"""XGBoost's own: a smaller gain is rounding."""
_UNITS = {"classification": (1.0, 1.0 / 3.0), "regression": (2.0, 1.0)}
"""What a sum of g and of h is multiplied by."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Forest:
    """The forest in a state, as views. Node n has the children 2n + 1 and 2n + 2.

    Attributes
    ----------
    grown
        The share of all levels that is grown, [1].
    feature, cut, missing_left, gain
        Of each inner node: its feature from 1, 0 for a leaf; values below the cut's edge go left, behind the
        last edge all that are there; the cell of missing values if they go left, else 0; what the split
        gained per row that a site may hold. [trees, 2^depth - 1].
    weight, cover
        Of each node: what a record that ends in it gets, and its H per row that a site may hold.
        [trees, 2^(depth + 1) - 1].
    """

    grown: Floats
    feature: Floats
    cut: Floats
    missing_left: Floats
    gain: Floats
    weight: Floats
    cover: Floats

    def end(self, tree: int, cells: Sequence[int], levels: int) -> tuple[int, int]:
        """Return the node of a record in *cells* after *levels*, or the leaf before; and how deep it is."""
        node = 0
        for level in range(levels):
            feature = int(self.feature[tree, node]) - 1
            if feature < 0:
                return node, level
            cell = cells[feature]
            left = cell <= self.cut[tree, node] or cell == self.missing_left[tree, node]
            node = 2 * node + (1 if left else 2)
        return node, levels


def _tensors(document: TreesRecipe) -> tuple[TensorSpec, ...]:
    trees, inner = document.trees.count, 2**document.trees.depth - 1
    of_inner = [TensorSpec(name, (trees, inner)) for name in ("feature", "cut", "missing_left", "gain")]
    of_all = [TensorSpec(name, (trees, 2 * inner + 1)) for name in ("weight", "cover")]
    return (TensorSpec("grown", (1,)), *of_inner, *of_all)


def forest(document: TreesRecipe, state: State) -> Forest:
    """Return the forest in *state*, as views of it."""
    views: list[Floats] = []
    start, values = 0, np.asarray(state, np.float64)
    for tensor in _tensors(document):
        views.append(values[start : start + tensor.size].reshape(tensor.shape))
        start += tensor.size
    return Forest(*views)


def _nodes(document: TreesRecipe) -> int:
    return int(2 ** (document.trees.depth - 1))


def _width(document: TreesRecipe) -> int:
    last = document.cells[-1]
    return last.start + last.size


def shape(document: TreesRecipe, base: BaseModel | None) -> Shape:  # noqa: ARG001
    """Return the histograms of the deepest level, which the others do not fill; public is the forest."""
    size = (_nodes(document), _width(document))
    return Shape(
        schema=AdapterSchema((TensorSpec("gradients", size), TensorSpec("hessians", size))),
        bound=float(document.data.max_rows),
        norm=None,
        bits=64,
        public=AdapterSchema(_tensors(document)),
    )


def initial(document: TreesRecipe, shape: Shape) -> State:  # noqa: ARG001
    """Return no tree, float64 [shape.state.size]."""
    return np.zeros(shape.state.size)


def per_record(document: TreesRecipe, state: State, row: Mapping[str, Any]) -> State | None:
    """Return g and h in the record's cells of its node, or None where it has come to a leaf already."""
    so_far, depth = forest(document, state), document.trees.depth
    tree, level = divmod(round(float(so_far.grown[0]) * document.rounds), depth)
    features = document.cells
    cells = [feature.of(row[feature.column]) for feature in features]
    node, reached = so_far.end(tree, cells, level)
    if reached < level:
        return None
    score = sum(float(so_far.weight[one, so_far.end(one, cells, depth)[0]]) for one in range(tree))
    found = np.zeros((2, _nodes(document), _width(document)))
    places = [feature.start + cell for feature, cell in zip(features, cells, strict=True)]
    found[:, node - (2**level - 1), places] = np.array(_derivatives(document, score, row))[:, None]
    return found.reshape(-1)


def _derivatives(document: TreesRecipe, score: float, row: Mapping[str, Any]) -> tuple[float, float]:
    """Return g and h as they are summed."""
    cell = row[document.data.label]
    units = _UNITS[document.task.kind]
    if document.task.kind == "classification":
        likely = 0.5 * (1.0 + math.tanh(0.5 * score))
        g, h = likely - document.task.classes.index(str(cell)), likely * (1.0 - likely)
    else:
        low, high = document.bounds
        g, h = score - (2.0 * min(high, max(low, float(cell))) - low - high) / (high - low), 1.0
    return g / units[0], h / units[1]


@dataclass(frozen=True)
class _Split:
    gain: float
    feature: int
    cut: int
    missing_left: int
    left: tuple[float, float]
    right: tuple[float, float]


def advance(document: TreesRecipe, shape: Shape, state: State, summed: Sum) -> State:  # noqa: ARG001
    """Return the forest with one more level."""
    after = np.array(state, np.float64)
    grown, depth = forest(document, after), document.trees.depth
    tree, level = divmod(summed.round - 1, depth)
    sums = summed.values.reshape(2, _nodes(document), _width(document))
    units = _UNITS[document.task.kind]
    gradients, hessians = sums[0] * units[0], sums[1] * units[1]
    per_row = 1.0 / document.data.max_rows
    for place in range(2**level):
        node = 2**level - 1 + place
        if level and not grown.feature[tree, (node - 1) // 2]:
            continue
        if level == 0:
            of_root = slice(document.cells[0].start, document.cells[0].start + document.cells[0].size)
            total = float(np.cumsum(gradients[0, of_root])[-1]), float(np.cumsum(hessians[0, of_root])[-1])
            _settle(document, grown, tree, 0, total)
        split = _best(document, gradients[place], hessians[place])
        if split is None:
            continue
        grown.feature[tree, node], grown.cut[tree, node] = split.feature + 1, split.cut
        grown.missing_left[tree, node], grown.gain[tree, node] = split.missing_left, split.gain * per_row
        _settle(document, grown, tree, 2 * node + 1, split.left)
        _settle(document, grown, tree, 2 * node + 2, split.right)
    grown.grown[0] = summed.round / document.rounds
    return after


def _settle(document: TreesRecipe, grown: Forest, tree: int, node: int, of: tuple[float, float]) -> None:
    gradient, hessian = of[0], max(of[1], 0.0)
    settings = document.trees
    whole = hessian + settings.l2
    grown.weight[tree, node] = -settings.learning_rate * gradient / whole if whole > 0.0 else 0.0
    grown.cover[tree, node] = hessian / document.data.max_rows


def _best(document: TreesRecipe, gradients: Floats, hessians: Floats) -> _Split | None:
    """Return the split of one node of largest gain, None where none is worth it."""
    best: _Split | None = None
    for place, feature in enumerate(document.cells):
        for missing_left in (False, True) if feature.missing else (False,):
            found = _of_feature(document, place, feature, gradients, hessians, missing_left=missing_left)
            if found is not None and found.gain > (LEAST_GAIN if best is None else best.gain):
                best = found
    return best


def _of_feature(
    document: TreesRecipe,
    place: int,
    feature: Cells,
    gradients: Floats,
    hessians: Floats,
    *,
    missing_left: bool,
) -> _Split | None:
    settings, end = document.trees, feature.start + feature.bins
    below = np.cumsum(gradients[feature.start : end]), np.cumsum(hessians[feature.start : end])
    lost = (float(gradients[end]), float(hessians[end])) if feature.missing else (0.0, 0.0)
    g, h = float(below[0][-1]) + lost[0], float(below[1][-1]) + lost[1]
    cuts = len(feature.edges) + feature.missing  # the last one parts what is there from what is missing
    left_g = below[0][:cuts] + (lost[0] if missing_left else 0.0)
    left_h = below[1][:cuts] + (lost[1] if missing_left else 0.0)
    right_g, right_h = g - left_g, h - left_h
    able = (left_h >= settings.min_child_weight) & (right_h >= settings.min_child_weight)
    if not able.any():
        return None
    safe = np.where(able, left_h, 1.0) + settings.l2, np.where(able, right_h, 1.0) + settings.l2
    whole = g * g / (h + settings.l2)
    gains = np.where(able, left_g * left_g / safe[0] + right_g * right_g / safe[1] - whole, -np.inf)
    cut = int(np.argmax(gains))
    left = float(left_g[cut]), float(left_h[cut])
    right = float(right_g[cut]), float(right_h[cut])
    return _Split(float(gains[cut]), place, cut, feature.bins if missing_left else 0, left, right)


def scores(document: TreesRecipe, state: State, columns: Mapping[str, Sequence[Any]]) -> Floats:
    """Return the score of each row of *columns*, by the trees that are whole, float64 [rows]."""
    so_far, depth = forest(document, state), document.trees.depth
    trees = round(float(so_far.grown[0]) * document.rounds) // depth
    every = zip(*(map(feature.of, columns[feature.column]) for feature in document.cells), strict=True)
    return np.array(
        [
            sum(float(so_far.weight[tree, so_far.end(tree, cells, depth)[0]]) for tree in range(trees))
            for cells in every
        ]
    )


def answers(document: TreesRecipe, state: State, columns: Mapping[str, Sequence[Any]]) -> NDArray[np.float32]:
    """Return what the forest says of each row: probabilities [rows, 2], or numbers [rows, 1]."""
    found = scores(document, state, columns)
    if document.task.kind == "classification":
        likely = 0.5 * (1.0 + np.tanh(0.5 * found))
        return np.stack([1.0 - likely, likely], 1).astype(np.float32)
    low, high = document.bounds
    return (0.5 * (low + high) + 0.5 * (high - low) * found)[:, None].astype(np.float32)


def result(document: TreesRecipe, state: State, sites: int) -> dict[str, Any]:
    """Return ``{"trees", "splits", "gain" (share of each column in all gains), "sites"}``."""
    found = forest(document, state)
    of = [math.fsum(found.gain[found.feature == place + 1]) for place in range(len(document.cells))]
    whole = math.fsum(of) or 1.0
    return {
        "trees": document.trees.count,
        "splits": int(np.count_nonzero(found.feature)),
        "gain": {cells.column: gain / whole for cells, gain in zip(document.cells, of, strict=True)},
        "sites": sites,
    }


def files(document: TreesRecipe, state: State) -> dict[str, bytes]:
    """Return ``model.json``, which XGBoost loads."""
    found = forest(document, state)
    if document.task.kind == "classification":
        objective, middle, half = "binary:logistic", 0.5, 1.0
    else:
        low, high = document.bounds
        objective, middle, half = "reg:squarederror", 0.5 * (low + high), 0.5 * (high - low)
    return {"model.json": model_json(document, found, objective=objective, middle=middle, half=half)}
