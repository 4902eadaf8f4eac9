"""How good answers are on labelled rows. NumPy alone: gateways read heads, which name their metrics.

Rules
-----
1. ``auc``, ``accuracy``, ``macro-f1``, ``spearman`` and ``r2`` are better the larger they are, ``rmse`` and
   ``mae``, in the label's unit, the smaller (:data:`FEWER_IS_BETTER`), as are losses of tokens, which their
   own kinds of task measure.
2. What has no value on the given rows is an error, never a number.
3. Equal values share the mean of their ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from plasmid.core.errors import DataError, UsageError

FEWER_IS_BETTER = frozenset({"rmse", "mae", "token-loss", "perplexity", "masked-loss", "pseudo-perplexity"})
"""Metrics of which the smaller value is the better one."""


def auc(probabilities: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """Return the area under the ROC curve of label 1 against label 0.

    Parameters
    ----------
    probabilities
        [rows, 2].
    labels
        0 or 1, [rows].

    Raises
    ------
    DataError
        ``data.one_class``: the rows hold fewer than two labels.
    """
    if len(np.unique(labels)) < 2:
        raise DataError(
            "data.one_class",
            f"all {len(labels)} rows have the same label, so there is no AUC.",
            "Give rows of both labels.",
        )
    ones = labels == 1
    count, rest = int(ones.sum()), int((~ones).sum())
    above = float(_ranks(probabilities[:, 1])[ones].sum()) - count * (count + 1) / 2
    return above / (count * rest)


def accuracy(probabilities: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """Return the share of rows ([rows, labels] against [rows]) whose most probable label is right."""
    return float((probabilities.argmax(1) == labels).mean())


def macro_f1(probabilities: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """Return the mean, over the labels that are there or answered, of the F1 score of each."""
    said, scores = probabilities.argmax(1), []
    for label in np.union1d(said, labels):
        right = int(((said == label) & (labels == label)).sum())
        scores.append(2 * right / int((said == label).sum() + (labels == label).sum()))
    return sum(scores) / len(scores)


def spearman(values: npt.NDArray[Any], truth: npt.NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation of *values* [rows] and *truth* [rows], in [-1, 1].

    It is 0 where all values are the same: nothing is put in order.

    Raises
    ------
    DataError
        ``data.one_value``: all of *truth* is the same.
    """
    _varies(truth, "rank correlation")
    if np.ptp(values) == 0:
        return 0.0
    return float(np.corrcoef(_ranks(values), _ranks(truth))[0, 1])


def r2(values: npt.NDArray[Any], truth: npt.NDArray[np.float64]) -> float:
    """Return the share of the variance of *truth* that *values* explain, at most 1. Raises as spearman."""
    _varies(truth, "r2")
    return float(1.0 - np.square(values - truth).sum() / np.square(truth - truth.mean()).sum())


def rmse(values: npt.NDArray[Any], truth: npt.NDArray[np.float64]) -> float:
    """Return the root of the mean squared error, in the unit of *truth*."""
    return math.sqrt(float(np.square(values - truth).mean()))


def mae(values: npt.NDArray[Any], truth: npt.NDArray[np.float64]) -> float:
    """Return the mean absolute error, in the unit of *truth*."""
    return float(np.abs(values - truth).mean())


def _ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the rank of each value, from 1; of equal ones the mean."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[place]


def _varies(truth: npt.NDArray[np.float64], what: str) -> None:
    if np.ptp(truth) == 0:
        raise DataError(
            "data.one_value",
            f"all {len(truth)} rows have the same value, so there is no {what}.",
            "Give rows of different values, or choose mae or rmse in the recipe.",
        )


_METRICS: dict[str, Callable[[npt.NDArray[Any], npt.NDArray[Any]], float]] = {
    "auc": auc,
    "accuracy": accuracy,
    "macro-f1": macro_f1,
    "spearman": spearman,
    "rmse": rmse,
    "mae": mae,
    "r2": r2,
}


def label_indices(labels: Sequence[str], values: Sequence[object]) -> npt.NDArray[np.int64]:
    """Return the place of each value in *labels*, int64 [rows].

    Raises
    ------
    DataError
        ``data.label_unknown``: how many values are not among *labels*, and the first such row.
    """
    place = {label: index for index, label in enumerate(labels)}
    strange = [row for row, value in enumerate(values) if value not in place]
    if strange:
        raise DataError(
            "data.label_unknown",
            f"{len(strange)} rows hold a label outside the contract, first in row {strange[0] + 1}.",
            f"The labels are {', '.join(labels)}.",
        )
    return np.asarray([place[str(value)] for value in values], np.int64)


def score(metric: str, answers: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float:
    """Return *metric*.

    Parameters
    ----------
    answers, truth
        Probabilities [rows, labels] and places of labels [rows]; of numbers, both [rows].

    Raises
    ------
    UsageError
        ``usage.metric_unknown``.
    DataError
        ``data.empty``: there are no rows; as the metric.
    """
    if metric not in _METRICS:
        raise UsageError(
            "usage.metric_unknown", f"there is no metric {metric!r}.", f"Known: {', '.join(_METRICS)}."
        )
    if not len(truth):
        raise DataError("data.empty", "there are no rows to score.", "Give a file with labelled rows.")
    return _METRICS[metric](answers, truth)
