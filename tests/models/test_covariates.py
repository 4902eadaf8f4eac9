"""Covariates as slots."""

from __future__ import annotations

import itertools
import math
import sys
from typing import Any

import numpy as np
import pytest

from plasmid.core.errors import DataError
from plasmid.encoders.slots import CODE, encode_covariates
from plasmid.tasks.classification import ClassificationHead
from plasmid.tasks.covariates import (
    CategoryCovariate,
    MoleculeCovariate,
    NumberCovariate,
    SequenceCovariate,
)

GENE = CategoryCovariate(name="gene", vocabulary=["a", "b"])
AGE = NumberCovariate(name="age", bounds=(0, 80))
DRUG = MoleculeCovariate(name="drug", bits=256)
DNA = SequenceCovariate(name="dna", letters="ACGT", kmers=3, length=8, places=2)


def test_slots() -> None:
    columns = {"gene": ["b", "zz", None, 3.0], "age": [20.0, None, 100.0, float("nan")], "other": ["x"]}
    encoded = encode_covariates([GENE, AGE], columns, 4)
    assert encoded.dtype == np.float32
    assert encoded.tolist() == [[0, 1, 0, 0.25, 0], [0, 0, 1, 0, 1], [0, 0, 0, 1, 0], [0, 0, 1, 0, 1]]
    assert ClassificationHead(labels=["0", "1"], covariates=[GENE, AGE]).covariate_width == 5
    assert encode_covariates([], {}, 3).shape == (3, 0)


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"gene": ["a"]}, "data.column_missing"),
        ({"gene": ["a"], "age": [1.0, 2.0]}, "data.rows_differ"),
        ({"gene": ["a"], "age": ["secret"]}, "data.not_a_number"),
    ],
)
def test_bad_columns(columns: dict[str, list[str | float | None]], code: str) -> None:
    with pytest.raises(DataError) as caught:
        encode_covariates([GENE, AGE], columns, 1)
    assert caught.value.code == code
    assert "secret" not in str(caught.value)


def _plain(text: str | None) -> list[float]:
    """Return the slots of DNA as its documentation says them, letter by letter."""
    read = (text or "")[:8]
    found: list[float] = []
    for size in (1, 2, 3):
        words = ["".join(word) for word in itertools.product("ACGT", repeat=size)]
        counts = [sum(read.startswith(word, at) for at in range(len(read))) for word in words]
        found += [count / max(1, sum(counts)) for count in counts]
    return found + [float(read[at : at + 1] == letter) for at in range(2) for letter in "ACGT"]


def test_a_sequence_is_counted_by_its_words() -> None:
    rows = ["AAAA", "ACGTACGTAAAA", "NACNNGGG", "G", "", None, "\u00e9\u4e2dACG", "TN"]
    encoded = encode_covariates([AGE, DNA], {"dna": rows, "age": [1.0] * 8}, 8)
    assert encoded.shape == (8, 2 + 4 + 16 + 64 + 8)
    np.testing.assert_allclose(encoded[:, 2:], [_plain(row) for row in rows], atol=1e-6)
    assert encoded[5, 2:].tolist() == [0.0] * 92  # missing
    space: dict[str, Any] = {}
    exec("\n".join(CODE["sequence"]), space)  # what an adapter's card says
    told = [space["sequence"](row, DNA.model_dump(mode="json")) for row in rows]
    np.testing.assert_allclose(encoded[:, 2:], told, atol=1e-6)
    assert DNA.width == 92


def test_a_sequence_of_the_most_letters_is_counted_whole() -> None:
    protein = SequenceCovariate(name="p", letters="ACDEFGHIKLMNPQRSTVWY", kmers=3, length=65_536)
    assert protein.width == 20 + 400 + 8000
    slots = encode_covariates([protein], {"p": ["Y" * 70_000]}, 1)[0]
    assert np.flatnonzero(slots).tolist() == [19, 419, 8419]
    assert slots[[19, 419, 8419]].tolist() == [1.0, 1.0, 1.0]


def test_a_molecule_is_counted_by_its_fragments() -> None:
    chem, generators = (
        pytest.importorskip("rdkit.Chem"),
        pytest.importorskip("rdkit.Chem.rdFingerprintGenerator"),
    )
    rows = ["CC(=O)Oc1ccccc1C(=O)O", "OC(=O)c1ccccc1OC(C)=O", "no molecule", "", None, 3.0, "CCO"]
    encoded = encode_covariates([AGE, DRUG], {"drug": rows, "age": [1.0] * 7}, 7)[:, 2:]
    assert encoded.shape == (7, 256)
    generator = generators.GetMorganGenerator(radius=2, fpSize=256)
    aspirin = generator.GetCountFingerprint(chem.MolFromSmiles(rows[0])).ToList()
    np.testing.assert_allclose(encoded[0], [math.log1p(count) / 32 for count in aspirin], atol=1e-7)
    assert encoded[1].tolist() == encoded[0].tolist(), "however it is written"
    assert not encoded[2:6].any()
    assert encoded[6].any()
    space: dict[str, Any] = {}
    exec("\n".join(CODE["molecule"]), space)
    told = [
        space["molecule"](row, DRUG.model_dump(mode="json")) for row in rows if not isinstance(row, float)
    ]
    np.testing.assert_allclose(np.delete(encoded, 5, 0), told, atol=1e-7)
    drugs = ["CN1CCC[C@H]1c1cccnc1", "COc1ccc2[nH]cc(CCN(C)C)c2c1", "CC(C)NCC(O)COc1cccc2ccccc12"]
    whole = MoleculeCovariate(name="drug")
    sums = encode_covariates([whole], {"drug": drugs}, 3).sum(1)
    assert (sums > 0.5).all()
    assert (sums < 1.5).all(), "as much as a category's, so that one rate serves both"


def test_without_rdkit_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "rdkit"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rdkit", None)
    assert ClassificationHead(labels=["0", "1"], covariates=[GENE, DRUG]).needs == ("rdkit",)
    with pytest.raises(DataError, match="rdkit, which is not installed") as caught:
        encode_covariates([DRUG], {"drug": ["CCO"]}, 1)
    assert caught.value.code == "data.library_missing"
    assert "plasmid[molecules]" in caught.value.hint
