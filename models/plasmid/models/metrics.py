"""How good probabilities are on labelled rows. scikit-learn is imported when a metric is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from plasmid.core.errors import DataError, UsageError


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
    from sklearn.metrics import roc_auc_score

    if len(np.unique(labels)) < 2:
        raise DataError(
            "data.one_class",
            f"all {len(labels)} rows have the same label, so there is no AUC.",
            "Give rows of both labels.",
        )
    return float(roc_auc_score(labels, probabilities[:, 1]))


def accuracy(probabilities: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """Return the share of rows ([rows, labels] against [rows]) whose most probable label is right.

    Raises
    ------
    DataError
        ``data.empty``: there are no rows.
    """
    from sklearn.metrics import accuracy_score

    if not len(labels):
        raise DataError("data.empty", "there are no rows to score.", "Give a file with rows.")
    return float(accuracy_score(labels, probabilities.argmax(1)))


_METRICS = {"auc": auc, "accuracy": accuracy}


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


def score(metric: str, probabilities: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """Return *metric* (``"auc"`` or ``"accuracy"``) in [0, 1].

    Raises
    ------
    UsageError
        ``usage.metric_unknown``.
    DataError
        As :func:`auc` and :func:`accuracy`.
    """
    if metric not in _METRICS:
        raise UsageError(
            "usage.metric_unknown", f"there is no metric {metric!r}.", f"Known: {', '.join(_METRICS)}."
        )
    return _METRICS[metric](probabilities, labels)
