"""How good a forest is, and what the same rows give without a federation.

Rules
-----
1. Trees of each site alone, and of all rows in one place, are grown by the computation's own halves, with the
   recipe's settings and without noise. The sum of one table takes the place of the secure one.
2. The simple model is a regression on the same columns, each scaled by its own mean and deviation; what is
   missing is the column's mean, beside a column that says so. Its penalty is scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasmid.computations import api, trees
from plasmid.computations.api import State
from plasmid.data.table import Table, concatenate
from plasmid.data.views.reading import read_table
from plasmid.recipes.documents import parse_document
from plasmid.recipes.trees import TreesRecipe
from plasmid.tasks import Answers, Head


def grown(recipe: TreesRecipe, table: Table, progress: Callable[[int], None] = lambda _: None) -> State:
    """Return the forest of all rows of *table*, as a public state; *progress* is told the rounds done."""
    shape = trees.shape(recipe, None)
    state = trees.initial(recipe, shape)
    records = list(table.records())
    for round_ in range(1, recipe.rounds + 1):
        total = np.zeros(shape.schema.size)
        for row in records:
            vector = trees.per_record(recipe, state, row)
            if vector is not None:
                total += vector
        state = trees.advance(recipe, shape, state, api.Sum(total, 1, round_))
        progress(round_)
    return state


def head_of(recipe: TreesRecipe) -> Head:
    """Return the head that judges the recipe's answers."""
    return recipe.task.head((), recipe.data.columns[recipe.data.label])


def score(recipe: TreesRecipe, state: State, test: Table) -> float:
    """Return the recipe's metric on *test* of the forest in *state*."""
    answers = Answers(trees.answers(recipe, state, test.columns))
    return head_of(recipe).score(recipe.task.metric, answers, test.columns[recipe.data.label])


def score_file(recipe: TreesRecipe, state: State, test: Path) -> float:
    """Return :func:`score` on the file *test*. Raises DataError: it does not meet the contract."""
    return score(recipe, state, read_table(test, recipe.contract))


class TreesBench:
    """The tables of one run; grows trees on them and scores them: jobs of the baselines' child."""

    def __init__(self, header: Mapping[str, Any]) -> None:
        recipe = parse_document(header["document"])
        assert isinstance(recipe, TreesRecipe)
        self.recipe = recipe
        self.sites = {site: read_table(Path(path), recipe.contract) for site, path in header["sites"].items()}
        self.test = read_table(Path(header["eval"]), recipe.contract)

    def run(self, job: Mapping[str, Any], progress: Callable[[int, int], None]) -> Any:
        """Return the value of *job*."""
        chosen = [self.sites[site] for site in job["sites"]]
        if job["name"] == "simple":
            best = min if self.recipe.task.fewer_is_better else max
            return {
                "central": self._simple(concatenate(chosen)),
                "local": best(self._simple(table) for table in chosen),
            }
        told = len(chosen)
        state = grown(self.recipe, concatenate(chosen), lambda done: progress(done * told, job["steps"]))
        return score(self.recipe, state, self.test)

    def _simple(self, table: Table) -> float:
        recipe, head = self.recipe, head_of(self.recipe)
        cells, truth = table.columns[recipe.data.label], self.test.columns[recipe.data.label]
        targets = head.targets(cells, np.ones(table.rows, np.int64))
        found = fitted(head.simple, self._numbers(table), targets, self._numbers(self.test))
        if head.simple == "ridge":
            low, high = recipe.bounds
            found = low + (found + 1.0) * 0.5 * (high - low)
        return head.score(recipe.task.metric, Answers(found.astype(np.float32)), truth)

    def _numbers(self, table: Table) -> NDArray[np.float64]:
        names = [cells.column for cells in self.recipe.cells]
        columns = [[np.nan if cell is None else cell for cell in table.columns[name]] for name in names]
        return np.array(columns, np.float64).T


def fitted(
    kind: str, features: NDArray[Any], targets: NDArray[Any], test: NDArray[Any]
) -> NDArray[np.float64]:
    """Return what the simple model of *features* [rows, columns] says of *test*.

    Probabilities [rows, 2], or for ``ridge`` scaled numbers [rows, 1].
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    filled = SimpleImputer(add_indicator=True, keep_empty_features=True)
    if kind == "ridge":
        model = make_pipeline(filled, StandardScaler(), Ridge()).fit(features, targets)
        return np.asarray(model.predict(test), np.float64)[:, None]
    if (targets == targets[0]).all():
        return np.repeat(np.eye(2)[[int(targets[0])]], len(test), 0)
    model = make_pipeline(filled, StandardScaler(), LogisticRegression(max_iter=1000)).fit(features, targets)
    return np.asarray(model.predict_proba(test), np.float64)
