"""Canaries: made-up rows in a site's table, by which a run is audited (:mod:`plasmid.dp.canary_audit`).

Rules
-----
1. A canary fits the recipe's contract and is otherwise random: sequence or text, covariates, and a label
   that has nothing to do with them, so that only a model which has seen it predicts it. Each is a person of
   its own.
2. Canaries and coins come from the operating system and stay in this process. Neither depends on the table:
   the guesses are a function of coins, canaries and published states, so their number may leave unprotected.
3. Each canary is in the training table with probability 1/2. Guessed "out" are those whose loss fell least
   from the first state to the last, as many as :func:`plasmid.dp.canary_audit.planned_guesses` says.
"""

from __future__ import annotations

import math
import secrets
import string
from random import Random

import numpy as np
import numpy.typing as npt

from plasmid.bases.specs import Cell
from plasmid.data.snapshot import Snapshot
from plasmid.data.table import Drawn, Joined, Table, concatenate
from plasmid.dp.canary_audit import planned_guesses
from plasmid.recipes.columns import (
    RESIDUES,
    AnyColumn,
    CategoryColumn,
    IdentifierColumn,
    LabelColumn,
    MoleculeColumn,
    NucleotideColumn,
    NumberColumn,
    ProteinColumn,
    ResidueLabelsColumn,
    TextColumn,
)
from plasmid.recipes.schema import Recipe

_WORDS = (6, 24)
_LETTERS = (3, 9)


class Canaries:
    """The canaries of one site in one run.

    Parameters
    ----------
    table
        The site's table, read under the recipe's contract.
    count
        How many canaries; about half of them end in the training table.

    Attributes
    ----------
    rows
        All canaries, [count].
    table
        The site's rows, then those canaries whose coin says so: what is trained on.
    """

    def __init__(self, recipe: Recipe, table: Table | Snapshot, count: int) -> None:
        source = secrets.SystemRandom()
        labels, contract = recipe.task.classes, recipe.data.columns
        columns = {
            name: [_cell(contract[name], labels, source) for _ in range(count)] for name in table.names
        }
        for name in table.names:
            column = contract[name]
            if isinstance(column, ResidueLabelsColumn):
                columns[name] = [
                    "".join(source.choices(labels, k=len(str(one)))) for one in columns[column.of]
                ]
        self.rows = Table(columns, count)
        self._included = np.array([bool(source.getrandbits(1)) for _ in range(count)])
        kept = self.rows.subset(np.flatnonzero(self._included))
        self.table: Drawn = concatenate([table, kept]) if isinstance(table, Table) else Joined(table, kept)

    def guess(self, score: npt.NDArray[np.floating]) -> tuple[int, int]:
        """Return (guesses, right).

        Parameters
        ----------
        score
            By how much each canary's loss fell from the first state to the last, [count].
        """
        guesses = planned_guesses(self.rows.rows)
        least = np.argsort(score, kind="stable")[:guesses]
        return guesses, int((~self._included[least]).sum())


def _cell(column: AnyColumn, labels: tuple[str, ...], source: Random) -> Cell:
    """Return a random value that *column* takes, long enough to be told from every other."""
    match column:
        case ProteinColumn():
            length = source.randint(math.ceil(column.max_length / 2), column.max_length)
            return "".join(source.choices(sorted(RESIDUES), k=length))
        case NucleotideColumn():
            length = source.randint(math.ceil(column.max_length / 2), column.max_length)
            return "".join(source.choices("ACGT", k=length))
        case MoleculeColumn():
            # Each of these atoms takes the two bonds of a chain, so any order of them is a molecule.
            length = source.randint(math.ceil(column.max_length / 2), column.max_length)
            return "".join(source.choices("CNOS", k=length))
        case TextColumn():
            words = (
                "".join(source.choices(string.ascii_lowercase, k=source.randint(*_LETTERS)))
                for _ in range(source.randint(*_WORDS))
            )
            return " ".join(words)[: column.max_characters].strip()
        case LabelColumn():
            return source.choice(labels)
        case ResidueLabelsColumn():
            return None  # as long as its sequence: drawn when that is known
        case CategoryColumn():
            return source.choice(column.vocabulary)
        case NumberColumn():
            low, high = column.bounds
            if column.integer:
                return float(source.randint(math.ceil(low), math.floor(high)))
            return source.uniform(low, high)
        case IdentifierColumn():
            return secrets.token_hex(16)
