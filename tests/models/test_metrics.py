"""Metrics with known values."""

from __future__ import annotations

import numpy as np
import pytest

from plasmid.core.errors import DataError, UsageError
from plasmid.tasks.metrics import label_indices, score

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


def test_they_are_scikit_learn_s_and_scipy_s_with_ties_as_well() -> None:
    from scipy.stats import spearmanr
    from sklearn.metrics import f1_score, r2_score, roc_auc_score

    source = np.random.default_rng(0)
    for _ in range(20):
        values, truth = source.integers(0, 8, 50) / 4, source.integers(0, 6, 50).astype(float)
        assert score("spearman", values, truth) == pytest.approx(spearmanr(values, truth).statistic)
        assert score("r2", values, truth) == pytest.approx(r2_score(truth, values))
        ones = np.stack([1 - values / 2, values / 2], 1)
        labels = source.integers(0, 2, 50)
        assert score("auc", ones, labels) == pytest.approx(roc_auc_score(labels, ones[:, 1]))
        shares, kinds = source.random((50, 4)), source.integers(0, 3, 50)
        expected = f1_score(kinds, shares.argmax(1), average="macro")
        assert score("macro-f1", shares, kinds) == pytest.approx(expected)
