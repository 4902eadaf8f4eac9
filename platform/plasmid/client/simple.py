"""The classical model that a foundation model has to beat, and must say so when it does not.

Rules
-----
1. Proteins, nucleotides and SMILES: counts of every k-mer of 1 to 3 letters, wherever it stands. Texts:
   tf-idf of words. Beside them the recipe's own covariates, encoded as the adapter's head gets them. Then
   logistic regression (L2).
2. The strength of the L2 penalty is fixed here, once for each kind of input. It was chosen by
   cross-validation within the training rows of the shipped recipes (leave one donor out; three folds). None
   of those reads nucleotides or molecules yet: they take the proteins'.
3. The features are fitted on the same rows as the model: a site alone knows only its own k-mers and words.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from plasmid.data.table import Table, concatenate
from plasmid.models.metrics import label_indices, score
from plasmid.models.specs import encode_covariates
from plasmid.recipes.schema import Recipe

KMERS = (1, 3)
C = {"protein": 0.1, "nucleotide": 0.1, "molecule": 0.1, "text": 30.0}
"""The inverse of the penalty's strength, as scikit-learn has it."""
_ITERATIONS = 1000


class SimpleModel:
    """Logistic regression on k-mers or words, and covariates; fitted by :func:`fit`."""

    def __init__(self, recipe: Recipe, vectoriser: Any, classifier: Any) -> None:
        self._recipe = recipe
        self._vectoriser = vectoriser
        self._classifier = classifier

    def predict(self, table: Table) -> npt.NDArray[np.float64]:
        """Return probabilities, float64 [rows, labels]; a label that the model never saw has 0."""
        features = _features(self._recipe, table, self._vectoriser.transform(_texts(self._recipe, table)))
        probabilities = np.zeros((table.rows, len(self._recipe.task.labels)))
        probabilities[:, self._classifier.classes_] = self._classifier.predict_proba(features)
        return probabilities


class OneLabel:
    """What a site whose rows all have one label can learn: that label."""

    def __init__(self, recipe: Recipe, label: int) -> None:
        self._recipe = recipe
        self._label = label

    def predict(self, table: Table) -> npt.NDArray[np.float64]:
        """Return probabilities, float64 [rows, labels]: 1 for the label."""
        probabilities = np.zeros((table.rows, len(self._recipe.task.labels)))
        probabilities[:, self._label] = 1.0
        return probabilities


def fit(recipe: Recipe, table: Table) -> SimpleModel | OneLabel:
    """Return the classical model of *table*, which holds the recipe's input, label and covariates."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    labels = _labels(recipe, table)
    if len(set(labels.tolist())) == 1:
        return OneLabel(recipe, int(labels[0]))
    vectoriser = _vectoriser(recipe)
    features = _features(recipe, table, vectoriser.fit_transform(_texts(recipe, table)))
    classifier = LogisticRegression(C=C[recipe.input_kind], max_iter=_ITERATIONS)
    with warnings.catch_warnings():
        # Stopped a little early is still a fair baseline; the fit is deterministic either way.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(features, labels)
    return SimpleModel(recipe, vectoriser, classifier)


def fit_and_score(recipe: Recipe, table: Table, test: Table) -> float:
    """Return the recipe's metric on *test* of the classical model of *table*."""
    return score(recipe.task.metric, fit(recipe, table).predict(test), _labels(recipe, test))


def simple_scores(recipe: Recipe, sites: Mapping[str, Table], test: Table) -> dict[str, float]:
    """Return ``{"central": all rows in one place, "local": the best single site}``."""
    return {
        "central": fit_and_score(recipe, concatenate(sites.values()), test),
        "local": max(fit_and_score(recipe, table, test) for table in sites.values()),
    }


def _vectoriser(recipe: Recipe) -> Any:
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

    if recipe.input_kind != "text":
        return CountVectorizer(analyzer="char", ngram_range=KMERS, lowercase=False)
    return TfidfVectorizer(sublinear_tf=True)


def _texts(recipe: Recipe, table: Table) -> Sequence[str]:
    return [str(cell) for cell in table.columns[recipe.data.input]]


def _labels(recipe: Recipe, table: Table) -> npt.NDArray[np.int64]:
    return label_indices(recipe.task.labels, table.columns[recipe.data.label])


def _features(recipe: Recipe, table: Table, counts: Any) -> Any:
    from scipy.sparse import csr_matrix, hstack

    covariates = encode_covariates(recipe.head().covariates, table.columns, table.rows)
    return hstack([counts, csr_matrix(covariates)], format="csr")
