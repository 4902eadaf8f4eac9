"""What the classical model knows of whole rows: k-mers, letters by place, fragments or words, and covariates.

Rules
-----
1. Proteins as counts of every k-mer of 1 to 3 letters, wherever it stands; nucleotides as those, of length
   one together, beside which letter stands at each place from the first on, for genomic windows are often
   cut about a place; molecules as counts of Morgan's circular fragments of radius 2, folded to 2,048 (Rogers,
   Hahn 2010, J. Chem. Inf. Model. 50, 742; as RDKit has them); texts as tf-idf of words. Beside them the
   recipe's own covariates, encoded as the adapter's head gets them.
2. Features are fitted on the same rows as the model: a site alone knows only its own k-mers and words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from plasmid.core import extras
from plasmid.data.table import Table
from plasmid.encoders.slots import encode_covariates
from plasmid.recipes.schema import Recipe

KMERS = (1, 3)


def texts_of(recipe: Recipe, table: Table) -> Sequence[str]:
    """Return the inputs of *table*."""
    return [str(cell) for cell in table.columns[recipe.data.input]]


class RowFeatures:
    """The features of whole rows, fitted to a table: k-mers or words, and covariates."""

    def __init__(self, recipe: Recipe, table: Table) -> None:
        from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

        self._recipe = recipe
        # Where the head counts the words of the input, too, they are here already.
        self._covariates = [one for one in recipe.head().covariates if one.name != recipe.data.input]
        self._vectoriser: Any = (
            TfidfVectorizer(sublinear_tf=True)
            if recipe.input_kind == "text"
            else CountVectorizer(analyzer="char", ngram_range=KMERS, lowercase=False)
        )
        if recipe.input_kind == "molecule":
            self._vectoriser = _Fragments()
        if recipe.input_kind == "nucleotide":
            self._vectoriser = _Places(self._vectoriser)
        self._vectoriser.fit(texts_of(recipe, table))

    def of(self, table: Table) -> Any:
        """Return the features of *table*, sparse [rows, features]."""
        from scipy.sparse import csr_matrix, hstack

        counts = self._vectoriser.transform(texts_of(self._recipe, table))
        covariates = encode_covariates(self._covariates, table.columns, table.rows)
        return hstack([counts, csr_matrix(covariates)], format="csr")


class _Places:
    """K-mers of length one together, and which letter stands where up to the longest row that was seen."""

    def __init__(self, kmers: Any) -> None:
        self._kmers = kmers

    def fit(self, texts: Sequence[str]) -> None:
        """Learn which k-mers there are, and how long a row can be."""
        self._kmers.fit(texts)
        self._length = max(map(len, texts))

    def transform(self, texts: Sequence[str]) -> Any:
        """Return the features, sparse [texts, k-mers + 4 · places]."""
        from scipy.sparse import csr_matrix, hstack
        from sklearn.preprocessing import normalize

        letters = np.array([list(text[: self._length].ljust(self._length)) for text in texts])
        places = (letters[:, :, None] == np.array(list("ACGT"))).reshape(len(texts), -1)
        counts = normalize(self._kmers.transform(texts))
        return hstack([counts, csr_matrix(places.astype(np.float32))], format="csr")


class _Fragments:
    """Counts of circular fragments, in the shape of a vectoriser of scikit-learn."""

    def fit(self, texts: Sequence[str]) -> None:
        """There is nothing to learn from *texts*."""

    def transform(self, texts: Sequence[str]) -> Any:
        """Return the counts, sparse [texts, 2048]; none of what is no molecule."""
        from scipy.sparse import csr_matrix

        with extras.told():
            from rdkit import Chem
            from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
            from rdkit.rdBase import BlockLogs

        generator = GetMorganGenerator(radius=2, fpSize=2048)
        found = np.zeros((len(texts), 2048), np.float32)
        with BlockLogs():
            for row, text in enumerate(texts):
                molecule = Chem.MolFromSmiles(text)
                if molecule is not None:
                    found[row] = generator.GetCountFingerprintAsNumPy(molecule)
        return csr_matrix(found)
