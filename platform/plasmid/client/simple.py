"""The classical model that a foundation model has to beat, and must say so when it does not.

    logistic   one label a row: logistic regression (L2)
    ridge      one number a row: ridge regression
    window     one label a residue: logistic regression on the residues around it

Rules
-----
1. Of a row: proteins, nucleotides and SMILES as counts of every k-mer of 1 to 3 letters, wherever it stands;
   texts as tf-idf of words. Beside them the recipe's own covariates, encoded as the adapter's head gets them.
2. Of a residue: which letter stands at each of the places up to :data:`AROUND` away.
3. The strength of the L2 penalty is fixed here, once for each model and kind of input. It was chosen by
   cross-validation within the training rows of the shipped recipes (leave one donor out; three folds). None
   of those reads nucleotides or molecules yet: they take the proteins'. None has numbers of texts: 1.0 is
   scikit-learn's.
4. The features are fitted on the same rows as the model: a site alone knows only its own k-mers and words.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from plasmid.data.table import Table, concatenate
from plasmid.models.specs import encode_covariates
from plasmid.models.tasks import IGNORED, Answers
from plasmid.recipes.columns import RESIDUES
from plasmid.recipes.schema import Recipe

KMERS = (1, 3)
AROUND = 7
C = {"protein": 0.1, "nucleotide": 0.1, "molecule": 0.1, "text": 30.0}
"""The inverse of the penalty's strength, as scikit-learn has it."""
ALPHA = {"protein": 10.0, "nucleotide": 10.0, "molecule": 10.0, "text": 1.0}
"""Of ridge regression: the penalty's strength."""
C_WINDOW = 0.1
MOST_RESIDUES = 200_000
"""Of more residues, so many spread evenly over the rows are fitted to."""
_ITERATIONS = 1000


class Model(Protocol):
    """A classical model that was fitted."""

    def predict(self, table: Table) -> Answers:
        """Return its answers for *table*, as the recipe's head gives them."""


def fit(recipe: Recipe, table: Table) -> Model:
    """Return the classical model of *table*, which holds the recipe's input, label and covariates."""
    return _MODELS[recipe.head().simple](recipe, table)


def fit_and_score(recipe: Recipe, table: Table, test: Table) -> float:
    """Return the recipe's metric on *test* of the classical model of *table*."""
    answers = fit(recipe, table).predict(test)
    return recipe.head().score(recipe.task.metric, answers, test.columns[recipe.data.label])


def simple_scores(recipe: Recipe, sites: Mapping[str, Table], test: Table) -> dict[str, float]:
    """Return ``{"central": all rows in one place, "local": the best single site}``."""
    best = min if recipe.task.fewer_is_better else max
    return {
        "central": fit_and_score(recipe, concatenate(sites.values()), test),
        "local": best(fit_and_score(recipe, table, test) for table in sites.values()),
    }


class _Rows:
    """The features of whole rows, fitted to a table: k-mers or words, and covariates."""

    def __init__(self, recipe: Recipe, table: Table) -> None:
        from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

        self._recipe = recipe
        self._vectoriser: Any = (
            TfidfVectorizer(sublinear_tf=True)
            if recipe.input_kind == "text"
            else CountVectorizer(analyzer="char", ngram_range=KMERS, lowercase=False)
        )
        self._vectoriser.fit(_texts(recipe, table))

    def of(self, table: Table) -> Any:
        """Return the features of *table*, sparse [rows, features]."""
        from scipy.sparse import csr_matrix, hstack

        counts = self._vectoriser.transform(_texts(self._recipe, table))
        covariates = encode_covariates(self._recipe.head().covariates, table.columns, table.rows)
        return hstack([counts, csr_matrix(covariates)], format="csr")


class _Labels:
    """What a classifier of scikit-learn, or one label alone, says of rows of features."""

    def __init__(self, width: int, features: Any, labels: npt.NDArray[np.int64], c: float) -> None:
        self._width = width
        self._only = int(labels[0]) if len(labels) and (labels == labels[0]).all() else None
        self._none = not len(labels)
        if self._only is None and not self._none:
            self._classifier = _logistic_regression(features, labels, c)

    def probabilities(self, features: Any) -> npt.NDArray[np.float32]:
        """Return float32 [rows, labels]; a label that was never seen has 0."""
        found = np.zeros((features.shape[0], self._width), np.float32)
        if self._none:
            found[:] = 1 / self._width
        elif self._only is not None:
            found[:, self._only] = 1.0
        else:
            found[:, self._classifier.classes_] = self._classifier.predict_proba(features)
        return found


class _Logistic:
    def __init__(self, recipe: Recipe, table: Table) -> None:
        head = recipe.head()
        self._rows = _Rows(recipe, table)
        labels = head.targets(table.columns[recipe.data.label], np.ones(table.rows, np.int64))
        self._labels = _Labels(head.width, self._rows.of(table), labels, C[recipe.input_kind])

    def predict(self, table: Table) -> Answers:
        return Answers(self._labels.probabilities(self._rows.of(table)))


class _Ridge:
    def __init__(self, recipe: Recipe, table: Table) -> None:
        from sklearn.linear_model import Ridge

        self._head, self._rows = recipe.head(), _Rows(recipe, table)
        targets = self._head.targets(table.columns[recipe.data.label], np.ones(table.rows, np.int64))
        self._model = Ridge(alpha=ALPHA[recipe.input_kind]).fit(self._rows.of(table), targets)

    def predict(self, table: Table) -> Answers:
        import torch

        outputs = np.asarray(self._model.predict(self._rows.of(table)), np.float32)
        return Answers(self._head.answers(torch.from_numpy(outputs)[:, None], 1.0).numpy())


class _Window:
    def __init__(self, recipe: Recipe, table: Table) -> None:
        self._recipe, head = recipe, recipe.head()
        texts = _texts(recipe, table)
        labels = head.targets(table.columns[recipe.data.label], np.array([len(text) for text in texts]))
        labelled = np.flatnonzero(labels != IGNORED)
        if len(labelled) > MOST_RESIDUES:
            labelled = labelled[np.linspace(0, len(labelled) - 1, MOST_RESIDUES).astype(np.int64)]
        self._labels = _Labels(head.width, _windows(texts)[labelled], labels[labelled], C_WINDOW)

    def predict(self, table: Table) -> Answers:
        texts = _texts(self._recipe, table)
        starts = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
        return Answers(self._labels.probabilities(_windows(texts)), starts)


_MODELS: dict[str, Callable[[Recipe, Table], Model]] = {
    "logistic": _Logistic,
    "ridge": _Ridge,
    "window": _Window,
}


def _windows(texts: Sequence[str]) -> Any:
    """Return which letter is where around each residue of all *texts*, sparse [residues, features]."""
    from scipy.sparse import csr_matrix

    places = {letter: place for place, letter in enumerate(sorted(RESIDUES), 1)}  # 0: beyond an end
    gap, size = [0] * AROUND, 2 * AROUND + 1
    coded = np.array([code for text in texts for code in (*gap, *(places[one] for one in text), *gap)])
    inside = np.concatenate([np.r_[np.zeros(size - 1, bool), np.ones(len(text), bool)] for text in texts])
    windows = np.lib.stride_tricks.sliding_window_view(coded, size)[inside[size - 1 :]]
    columns = windows + np.arange(size) * (len(places) + 1)
    ends = np.arange(0, columns.size + 1, size)
    shape = (len(columns), size * (len(places) + 1))
    return csr_matrix((np.ones(columns.size, np.float32), columns.ravel(), ends), shape)


def _logistic_regression(features: Any, labels: npt.NDArray[np.int64], c: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression(C=c, max_iter=_ITERATIONS)
    with warnings.catch_warnings():
        # Stopped a little early is still a fair baseline; the fit is deterministic either way.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(features, labels)


def _texts(recipe: Recipe, table: Table) -> Sequence[str]:
    return [str(cell) for cell in table.columns[recipe.data.input]]
