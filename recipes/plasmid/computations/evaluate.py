"""How good an adapter is on the sites' own rows: counts of scores, or slopes of its loss in the temperature.

``scores``: a record counts 1 in the cell of its label and its score. With two labels the score is the logit
of the second one's probability, with more it is the predicted label and the logit of its probability; both
are cut into equal cells between minus and plus :data:`REACH`. AUC is the chance that a record of label 1 is
in a higher cell than one of label 0 (Mann and Whitney 1947); within one cell, over which the ratio of their
densities rises by e^k, that is 1/2 + k/12 to the first order, with k from the cells beside it. Its interval
is that of Hanley and McNeil (1982, Radiology 143), that of accuracy Wilson's (1927). The calibration error is
the expected one over the same cells (Naeini, Cooper, Hauskrecht 2015).

``temperature``: the mean slope of the cross entropy in the inverse temperature b, E_p(b)[z] - z_label for the
logits z, at each of :data:`INVERSE`, cut to :data:`STEEPEST`. The loss is convex in b; where its slope
crosses zero, probabilities are calibrated (Guo et al. 2017, arXiv 1706.04599). A slope stays useful where
the rules against disclosure round a site's sum; the loss itself would not.

The public state is the adapter, as given, and behind it the sums. Without a privacy unit the counts come with
a table of flags, as in :mod:`plasmid.computations.counts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from plasmid.adapters.adapter import AdapterSchema, TensorSpec, adapter_schema
from plasmid.computations.api import Layout, Scored, Shape, SiteHalf, State, Sum, given_digest

if TYPE_CHECKING:
    from plasmid.bases.store import BaseModel
    from plasmid.recipes.evaluation import EvaluationDocument

SITE_HALF: SiteHalf = "per_record"
WORDS = "an adapter's scores of the rows are counted beside their labels"
SCORED = True

INVERSE = tuple(round(float(2.0 ** (step / 2.0)), 6) for step in range(-6, 5))
"""From 1/8 to 4, in steps of half an octave."""
STEEPEST = 6.0
REACH = 16.0
"""Scores are cut between logits of minus and plus this; what is beyond is in the outermost cells."""
_NORMAL = NormalDist().inv_cdf(0.975)


def _sums(document: EvaluationDocument) -> tuple[TensorSpec, ...]:
    flagged = document.privacy.unit == "none"
    if document.measure == "temperature":
        flag = (TensorSpec("suppressed", (1,)),) if flagged else ()
        return (TensorSpec("slopes", (1 + len(INVERSE),)), *flag)
    flag = (TensorSpec("suppressed", document.shape),) if flagged else ()
    return (TensorSpec("counts", document.shape), *flag)


def shape(document: EvaluationDocument, base: BaseModel | None) -> Shape:
    """Return the cells, each bounded by the public number of rows; public is the adapter besides."""
    assert base is not None, "an adapter has a base model"
    adapter, sums = adapter_schema(base, document.adapter.lora, document.head()), _sums(document)
    return Shape(
        schema=AdapterSchema(sums),
        bound=float(document.data.max_rows),
        norm=None,
        bits=64,
        public=AdapterSchema((*adapter.tensors, *sums)),
    )


def record_norm(measure: str) -> float:
    """Return the L2 norm of the longest record's vector for *measure*."""
    return 1.0 if measure == "scores" else math.sqrt(1 + len(INVERSE))


def first(document: EvaluationDocument, shape: Shape, given: NDArray[np.float32]) -> State:  # noqa: ARG001
    """Return the state that the adapter *given*, float32 [adapter size], makes: it, and zeros."""
    return np.concatenate([given.astype(np.float64), np.zeros(shape.schema.size)])


def begins(document: EvaluationDocument, shape: Shape, state: State) -> bool:
    """Return whether *state* is what the adapter that the document names makes."""
    given = adapter_of(shape, state)
    exact = np.array_equal(given.astype(np.float64), state[: given.size])
    return exact and given_digest(given) == document.given and not state[given.size :].any()


def adapter_of(shape: Shape, state: State) -> NDArray[np.float32]:
    """Return the adapter in *state*, float32 [adapter size]."""
    return state[: state.size - shape.schema.size].astype(np.float32)


def table(document: EvaluationDocument) -> Layout:
    """Return the layout: the table of counts, or one cell of a count and the slopes."""
    if document.measure == "temperature":
        return Layout((1,), 1 + len(INVERSE), counted=False)
    return Layout(document.shape, 1, counted=True)


def cell(document: EvaluationDocument, row: Mapping[str, Any]) -> int | None:
    """Return the number of the record's cell in the flattened table."""
    if document.measure == "temperature":
        return 0
    likely = cast(Scored, row).probabilities
    label, labels = _label(document, row), len(document.task.classes)
    if labels == 2:
        return label * document.bins + _bin(document.bins, likely[1], likely[0])
    found = int(np.argmax(likely))
    rest = float(sum(likely) - likely[found])
    return (label * labels + found) * document.bins + _bin(document.bins, likely[found], rest)


def amounts(document: EvaluationDocument, row: Mapping[str, Any]) -> tuple[float, ...]:
    """Return 1, or 1 and the slopes."""
    if document.measure == "scores":
        return (1.0,)
    with np.errstate(divide="ignore"):
        logits = np.log(np.asarray(cast(Scored, row).probabilities, np.float64))
    logits = np.maximum(logits, -1e4)
    label = _label(document, row)
    found = [1.0]
    for inverse in INVERSE:
        weights = np.exp(inverse * (logits - logits.max()))
        slope = float(weights @ logits / weights.sum() - logits[label])
        found.append(min(STEEPEST, max(-STEEPEST, slope)))
    return tuple(found)


def per_record(document: EvaluationDocument, state: State, row: Mapping[str, Any]) -> State:  # noqa: ARG001
    """Return 1 in the record's cell, or 1 and its slopes as shares of the steepest; flags are 0."""
    sums = _sums(document)
    vector = np.zeros(sum(spec.size for spec in sums))
    if document.measure == "scores":
        place = cell(document, row)
        assert place is not None, "every record has a label"
        vector[place] = 1.0
        return vector
    values = amounts(document, row)
    vector[0] = 1.0
    vector[1 : len(values)] = np.asarray(values[1:]) / STEEPEST
    return vector


def advance(document: EvaluationDocument, shape: Shape, state: State, summed: Sum) -> State:  # noqa: ARG001
    """Return the adapter as it was, and the sums."""
    return np.concatenate([state[: state.size - shape.schema.size], summed.values])


def result(document: EvaluationDocument, state: State, sites: int) -> dict[str, Any]:
    """Return what the sums say, as JSON values; None where too little is left to say it.

    ``scores``: ``count``, ``accuracy`` and ``auc`` (of two labels), 95-% intervals of the sampling alone,
    ``calibration_error``, ``confusion`` (label by predicted label) and the table itself as ``counts``.
    ``temperature``: ``count``, ``slope`` at each of ``inverse``, and the best ``temperature``.
    ``suppressed`` is the number of cells that a site has suppressed (None under a unit). Under a unit all
    numbers are noised.
    """
    sums = _sums(document)
    tail = state[state.size - sum(spec.size for spec in sums) :]
    numbers, flags = tail[: sums[0].size], tail[sums[0].size :]
    about = {
        "measure": document.measure,
        "rows": document.rows,
        "given": document.given,
        "sites": sites,
        "suppressed": int(np.count_nonzero(np.rint(flags))) if document.privacy.unit == "none" else None,
    }
    if document.measure == "temperature":
        return about | _temperature(np.asarray(numbers, np.float64))
    return about | _scores(document, nearest_counts(np.asarray(numbers, np.float64).reshape(document.shape)))


def _label(document: EvaluationDocument, row: Mapping[str, Any]) -> int:
    name = document.data.label
    assert name is not None, "a classification has labels"
    return document.task.classes.index(str(row[name]))


def _bin(bins: int, likely: float, rest: float) -> int:
    if rest <= 0.0 or likely <= 0.0:
        return bins - 1 if likely > 0.0 else 0
    logit = math.log(likely) - math.log(rest)
    return min(max(int((logit + REACH) / (2.0 * REACH) * bins), 0), bins - 1)


def _centres(bins: int) -> NDArray[np.float64]:
    """Return the probability in the middle of each cell, float64 [bins]."""
    logits = (np.arange(bins) + 0.5) / bins * 2.0 * REACH - REACH
    return np.asarray(1.0 / (1.0 + np.exp(-logits)))


def nearest_counts(noised: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the table of the same shape and sum without negative cells that is nearest to *noised*.

    Cells that the noise has pushed below zero cannot be set to zero alone: most cells are empty, and what the
    noise has added to the others would stay, as records that nobody has (Duchi et al. 2008, "Efficient
    projections onto the l1-ball", algorithm 1).
    """
    total = max(0.0, float(noised.sum()))
    falling = np.sort(noised, axis=None)[::-1]
    excess = (np.cumsum(falling) - total) / np.arange(1, falling.size + 1)
    kept = max(1, int(np.count_nonzero(falling > excess)))
    return np.asarray(np.maximum(noised - excess[kept - 1], 0.0))


def _scores(document: EvaluationDocument, counts: NDArray[np.float64]) -> dict[str, Any]:
    bins, labels = document.bins, len(document.task.classes)
    likely = _centres(bins)
    if labels == 2:
        upper = likely >= 0.5
        confusion = np.stack([counts[:, ~upper].sum(1), counts[:, upper].sum(1)], 1)
        # Of the predicted label: below one half it is the other one's.
        sure = np.where(upper, likely, 1.0 - likely)
        right = np.where(upper, counts[1], counts[0])
        of_cell = counts.sum(0)
    else:
        confusion, sure = counts.sum(2), likely
        right = np.einsum("iib->b", counts)
        of_cell = counts.sum((0, 1))
    total = float(confusion.sum())
    found: dict[str, Any] = {
        "count": round(total),
        "labels": list(document.task.classes),
        "confusion": np.rint(confusion).astype(int).tolist(),
        "counts": np.rint(counts).astype(int).tolist(),
        "accuracy": None,
        "accuracy_interval": None,
        "auc": None,
        "auc_interval": None,
        "calibration_error": None,
    }
    if total < 1.0:
        return found
    correct = float(np.trace(confusion))
    found["accuracy"], found["accuracy_interval"] = correct / total, wilson(correct, total)
    found["calibration_error"] = float(np.abs(right - sure * of_cell).sum() / total)
    if labels == 2 and min(counts.sum(1)) >= 1.0:
        found["auc"], found["auc_interval"] = auc(counts)
    return found


def auc(counts: NDArray[np.float64]) -> tuple[float, list[float]]:
    """Return AUC and its 95-% interval from *counts* [2, bins], both rows with records."""
    lower, upper = counts
    below = np.cumsum(lower) - lower
    rise = np.gradient(np.log((upper + 0.5) / (lower + 0.5)))
    within = np.clip(0.5 + rise / 12.0, 0.0, 1.0)
    negatives, positives = float(lower.sum()), float(upper.sum())
    value = float((upper * (below + within * lower)).sum() / (negatives * positives))
    q1, q2 = value / (2.0 - value), 2.0 * value * value / (1.0 + value)
    spread = value * (1.0 - value) + (positives - 1.0) * (q1 - value**2) + (negatives - 1.0) * (q2 - value**2)
    error = _NORMAL * math.sqrt(max(0.0, spread) / (negatives * positives))
    return value, [max(0.0, value - error), min(1.0, value + error)]


def wilson(hits: float, total: float) -> list[float]:
    """Return the 95-% interval of a share of *hits* in *total*."""
    z2, share = _NORMAL**2, hits / total
    centre = (share + z2 / (2.0 * total)) / (1.0 + z2 / total)
    half = _NORMAL / (1.0 + z2 / total) * math.sqrt(share * (1.0 - share) / total + z2 / (4.0 * total**2))
    return [max(0.0, centre - half), min(1.0, centre + half)]


def _temperature(numbers: NDArray[np.float64]) -> dict[str, Any]:
    count = float(numbers[0])
    found: dict[str, Any] = {
        "count": round(count),
        "inverse": list(INVERSE),
        "slope": None,
        "temperature": None,
    }
    if count < 1.0:
        return found
    slopes = numbers[1:] * STEEPEST / count
    found["slope"] = slopes.tolist()
    rising = np.maximum.accumulate(slopes)  # what noise and rounding have turned is set straight
    if rising[0] < 0.0 < rising[-1]:
        after = int(np.argmax(rising > 0.0))
        low, high = math.log(INVERSE[after - 1]), math.log(INVERSE[after])
        share = float(-rising[after - 1] / (rising[after] - rising[after - 1]))
        found["temperature"] = math.exp(-(low + share * (high - low)))
    return found
