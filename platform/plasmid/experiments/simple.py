"""The classical model that a foundation model has to beat, and must say so when it does not.

    logistic   one label a row: logistic regression (L2)
    ridge      one number a row: ridge regression
    window     one label a residue: logistic regression on the residues around it
    phrases    an answer in words: logistic regression over the answers that were seen
    neighbours a masked residue: logistic regression on the residues around it, as they were masked

Rules
-----
1. Of a row: :mod:`plasmid.experiments.features`.
2. Of a residue: which letter stands at each of the places up to :data:`AROUND` away.
3. The strength of the L2 penalty is fixed here, once for each model and kind of input. It was chosen by
   cross-validation within the training rows of the shipped recipes (leave one donor out; three folds; of
   molecules three folds by scaffold). None of those labels molecules: they take the proteins'. None has
   numbers of texts: 1.0 is scikit-learn's.
4. The features are fitted on the same rows as the model: a site alone knows only its own k-mers and words.
5. There is none for perplexities of words, nor for masked tokens that are no residues: what counts as a token
   is the base's business. Of masked residues it is asked at as many of each row, chosen alike, but not at
   the very same ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from plasmid.data.table import Table, concatenate
from plasmid.experiments.features import RowFeatures, texts_of
from plasmid.recipes.columns import RESIDUES
from plasmid.recipes.schema import Recipe
from plasmid.tasks import IGNORED, Answers
from plasmid.tasks.masked_lm import masked

AROUND = 7
C = {"protein": 0.1, "nucleotide": 0.03, "molecule": 0.1, "text": 30.0}
"""The inverse of the penalty's strength, as scikit-learn has it."""
ALPHA = {"protein": 10.0, "nucleotide": 10.0, "molecule": 10.0, "text": 1.0}
"""Of ridge regression: the penalty's strength."""
C_WINDOW = 0.1
MOST_RESIDUES = 200_000
"""Of more residues, so many spread evenly over the rows are fitted to."""
MOST_MASKED = 60_000
"""About so many masked residues are fitted to: rows are masked anew, up to eight times."""
_ITERATIONS = 1000


class Model(Protocol):
    """A classical model that was fitted."""

    def predict(self, table: Table) -> Answers:
        """Return its answers for *table*, as the recipe's head gives them."""


def fit(recipe: Recipe, table: Table) -> Model:
    """Return the classical model of *table*, which holds the recipe's input, label and covariates."""
    return _MODELS[recipe.head().simple](recipe, table)


def is_comparable(recipe: Recipe) -> bool:
    """Return whether a classical model can be judged by the recipe's metric."""
    head = recipe.head()
    by_token = head.simple == "neighbours" and recipe.input_kind != "protein"
    return recipe.task.metric not in head.loss_metrics and not by_token


def fit_and_score(recipe: Recipe, table: Table, test: Table) -> float:
    """Return the recipe's metric on *test* of the classical model of *table*."""
    return score(recipe, fit(recipe, table), test)


def score(recipe: Recipe, model: Model, test: Table) -> float:
    """Return the recipe's metric of *model* on *test*."""
    answers, label = model.predict(test), recipe.data.label
    return recipe.head().score(recipe.task.metric, answers, () if label is None else test.columns[label])


def simple_scores(recipe: Recipe, sites: Mapping[str, Table], test: Table) -> dict[str, float | None]:
    """Return ``{"central": all rows in one place, "local": the best single site}``, or None for both."""
    if not is_comparable(recipe):
        return {"central": None, "local": None}
    best = min if recipe.task.fewer_is_better else max
    return {
        "central": fit_and_score(recipe, concatenate(sites.values()), test),
        "local": best(fit_and_score(recipe, table, test) for table in sites.values()),
    }


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
        self._rows = RowFeatures(recipe, table)
        labels = head.targets(_label(recipe, table), np.ones(table.rows, np.int64))
        self._labels = _Labels(head.width, self._rows.of(table), labels, C[recipe.input_kind])

    def predict(self, table: Table) -> Answers:
        return Answers(self._labels.probabilities(self._rows.of(table)))


class _Ridge:
    def __init__(self, recipe: Recipe, table: Table) -> None:
        from sklearn.linear_model import Ridge

        self._head, self._rows = recipe.head(), RowFeatures(recipe, table)
        targets = self._head.targets(_label(recipe, table), np.ones(table.rows, np.int64))
        self._model = Ridge(alpha=ALPHA[recipe.input_kind]).fit(self._rows.of(table), targets)

    def predict(self, table: Table) -> Answers:
        import torch

        outputs = np.asarray(self._model.predict(self._rows.of(table)), np.float32)
        return Answers(self._head.answers(torch.from_numpy(outputs)[:, None], 1.0).numpy())


class _Window:
    def __init__(self, recipe: Recipe, table: Table) -> None:
        self._recipe, head = recipe, recipe.head()
        texts = texts_of(recipe, table)
        labels = head.targets(_label(recipe, table), np.array([len(text) for text in texts]))
        labelled = np.flatnonzero(labels != IGNORED)
        if len(labelled) > MOST_RESIDUES:
            labelled = labelled[np.linspace(0, len(labelled) - 1, MOST_RESIDUES).astype(np.int64)]
        self._labels = _Labels(
            head.width, _windows(_coded(texts), len(RESIDUES))[labelled], labels[labelled], C_WINDOW
        )

    def predict(self, table: Table) -> Answers:
        texts = texts_of(self._recipe, table)
        starts = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
        return Answers(self._labels.probabilities(_windows(_coded(texts), len(RESIDUES))), starts)


class _Phrases:
    def __init__(self, recipe: Recipe, table: Table) -> None:
        self._rows = RowFeatures(recipe, table)
        cells = [" ".join(str(cell).split()) for cell in _label(recipe, table)]
        self._phrases = sorted(set(cells))
        labels = np.array([self._phrases.index(cell) for cell in cells], np.int64)
        self._labels = _Labels(len(self._phrases), self._rows.of(table), labels, C[recipe.input_kind])

    def predict(self, table: Table) -> Answers:
        likely = self._labels.probabilities(self._rows.of(table)).argmax(1)
        found: Any = np.array([self._phrases[place] for place in likely], object)[:, None]
        return Answers(found)


class _Neighbours:
    def __init__(self, recipe: Recipe, table: Table) -> None:
        self._recipe = recipe
        seeds = range(1, 1 + max(1, min(8, MOST_MASKED // max(1, 2 * table.rows))))
        parts = [self._masked(table, seed) for seed in seeds]
        features, targets = _stacked([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        self._labels = _Labels(len(RESIDUES), features, targets, C_WINDOW)

    def predict(self, table: Table) -> Answers:
        features, targets, counts = self._masked(table, 0)
        likely = self._labels.probabilities(features)
        each = np.log(np.maximum(likely[np.arange(len(targets)), targets], 1e-9))
        right = likely.argmax(1) == targets
        rows = np.repeat(np.arange(table.rows), counts)
        found = [-np.bincount(rows, each, table.rows), np.bincount(rows, right, table.rows)]
        return Answers((np.stack(found, 1) / np.maximum(counts, 1)[:, None]).astype(np.float32))

    def _masked(self, table: Table, seed: int) -> tuple[Any, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return what is around each chosen residue and which it was, and how many each row has."""
        mask, others = len(RESIDUES) + 1, np.arange(1, len(RESIDUES) + 1)
        texts = _coded(texts_of(self._recipe, table))
        pairs = [masked(text, seed, mask=mask, others=others) for text in texts]
        targets = np.concatenate([pair[1] for pair in pairs])
        chosen = targets != IGNORED
        counts = np.array([int((pair[1] != IGNORED).sum()) for pair in pairs])
        return _windows([pair[0] for pair in pairs], mask)[chosen], targets[chosen] - 1, counts


_MODELS: dict[str, Callable[[Recipe, Table], Model]] = {
    "logistic": _Logistic,
    "ridge": _Ridge,
    "window": _Window,
    "phrases": _Phrases,
    "neighbours": _Neighbours,
}


def _coded(texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
    places = {letter: place for place, letter in enumerate(sorted(RESIDUES), 1)}  # 0: beyond an end
    return [np.array([places[one] for one in text], np.int64) for text in texts]


def _windows(texts: Sequence[npt.NDArray[np.int64]], most: int) -> Any:
    """Return which code, 1 to *most*, is where around each one of all *texts*, sparse [codes, features]."""
    from scipy.sparse import csr_matrix

    gap, size = np.zeros(AROUND, np.int64), 2 * AROUND + 1
    coded = np.concatenate([part for text in texts for part in (gap, text, gap)])
    inside = np.concatenate([np.r_[np.zeros(size - 1, bool), np.ones(len(text), bool)] for text in texts])
    windows = np.lib.stride_tricks.sliding_window_view(coded, size)[inside[size - 1 :]]
    columns = windows + np.arange(size) * (most + 1)
    ends = np.arange(0, columns.size + 1, size)
    shape = (len(columns), size * (most + 1))
    return csr_matrix((np.ones(columns.size, np.float32), columns.ravel(), ends), shape)


def _logistic_regression(features: Any, labels: npt.NDArray[np.int64], c: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression(C=c, max_iter=_ITERATIONS)
    with warnings.catch_warnings():
        # Stopped a little early is still a fair baseline; the fit is deterministic either way.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(features, labels)


def _stacked(parts: Sequence[Any]) -> Any:
    from scipy.sparse import vstack

    return vstack(parts, format="csr")


def _label(recipe: Recipe, table: Table) -> Sequence[Any]:
    assert recipe.data.label is not None, "this model learns from labels"
    return table.columns[recipe.data.label]
