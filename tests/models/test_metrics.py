"""Metrics with known values."""

from __future__ import annotations

import numpy as np
import pytest

from plasmid.core.errors import DataError, UsageError
from plasmid.models.metrics import label_indices, score

PROBABILITIES = np.asarray([[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]], np.float32)


def test_values() -> None:
    labels = label_indices(["no", "yes"], ["no", "no", "yes", "yes"])
    assert labels.tolist() == [0, 0, 1, 1]
    assert score("auc", PROBABILITIES, labels) == 0.75
    assert score("accuracy", PROBABILITIES, labels) == 0.75


def test_errors() -> None:
    with pytest.raises(DataError) as one:
        score("auc", PROBABILITIES, np.ones(4, np.int64))
    assert one.value.code == "data.one_class"
    with pytest.raises(DataError) as none:
        score("accuracy", PROBABILITIES[:0], np.ones(0, np.int64))
    assert none.value.code == "data.empty"
    with pytest.raises(DataError) as label:
        label_indices(["no", "yes"], ["no", "canary", None])
    assert label.value.code == "data.label_unknown"
    assert "2 rows" in label.value.message
    assert "canary" not in str(label.value)
    with pytest.raises(UsageError):
        score("f1", PROBABILITIES, np.ones(4, np.int64))
