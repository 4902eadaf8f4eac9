"""Codes written one way, and repeated rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmid.core.errors import DataError
from plasmid.data.transforms._digests import DigestSet, row_digests
from plasmid.data.transforms.base import Place, load
from plasmid.recipes.columns import TextColumn

COLUMNS = {name: TextColumn(type="text", max_length=50) for name in ("code", "gene")}
PLACE = Place(COLUMNS, None, Path(), b"k" * 32)


@pytest.mark.parametrize(
    ("operations", "cells"),
    [
        (["nfc"], {"Mu\u0308ller": "Müller"}),
        (["trim", "collapse"], {"  a \t\u00a0 b\n": "a b"}),
        (["upper"], {"é": "É", "trbv5-1": "TRBV5-1"}),
        (["lower"], {"ÄB": "äb"}),
        (["no_dots"], {"E11.9": "E119"}),
        (["no_zeros"], {"007": "7", "0": "0", "000": "0", "70": "70", "": ""}),
        (
            ["upper", "icd_dot"],
            {"e119": "E11.9", "E11": "E11", "E11.9": "E11.9", "S72001A": "S72.001A", "1234": "1234"},
        ),
        (["no_allele"], {"TRBV5-1*01": "TRBV5-1", "TRBV5-1": "TRBV5-1", "A*02:01": "A", "a*b": "a*b"}),
    ],
)
def test_named_operations(operations: list[str], cells: dict[str, str]) -> None:
    step = load("normalise", {"columns": {"code": operations}})
    step.prepare(PLACE)
    batch = pa.record_batch({"code": pa.array([*cells, None]), "gene": pa.array(["x"] * (len(cells) + 1))})
    assert step.apply(batch).column("code").to_pylist() == [*cells.values(), None]
    assert step.counts() == {"values changed in code": sum(a != b for a, b in cells.items())}


def test_numbers_are_not_rewritten_and_absent_columns_pass() -> None:
    step = load("normalise", {"columns": {"code": ["no_zeros"]}})
    step.prepare(PLACE)
    assert step.apply(pa.record_batch({"gene": ["x"]})).to_pydict() == {"gene": ["x"]}
    assert step.apply(pa.record_batch({"code": pa.nulls(1)})).to_pydict() == {"code": [None]}
    assert step.apply(pa.record_batch({"code": pa.array(["07"]).dictionary_encode()})).to_pydict() == {
        "code": ["7"]
    }
    with pytest.raises(DataError) as caught:
        step.apply(pa.record_batch({"code": pa.array([7])}))
    assert caught.value.code == "data.transform_type"
    assert "holds int64" in caught.value.message


CELLS = st.none() | st.text(alphabet="a,:-1", max_size=3)


@given(st.lists(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8), min_size=1, max_size=6))
def test_the_first_of_equal_rows_is_kept_over_batches(
    batches: list[list[tuple[str | None, str | None]]],
) -> None:
    step = load("deduplicate", {})
    step.prepare(PLACE)
    kept = []
    for rows in batches:
        columns = {name: pa.array([row[at] for row in rows], pa.string()) for at, name in enumerate(COLUMNS)}
        # What the contract does not know does not make rows different.
        columns["row"] = pa.array(np.arange(len(rows)))
        out = step.apply(pa.record_batch(columns))
        kept += list(zip(out["code"].to_pylist(), out["gene"].to_pylist(), strict=True))
    rows = [row for batch in batches for row in batch]
    assert kept == list(dict.fromkeys(rows))
    assert step.counts() == {"rows kept": len(kept), "repeated rows left out": len(rows) - len(kept)}


def test_named_columns_alone_are_compared() -> None:
    step = load("deduplicate", {"columns": ["gene"]})
    step.prepare(PLACE)
    out = step.apply(pa.record_batch({"code": ["1", "2", "3"], "gene": ["x", "x", None]}))
    assert out.to_pydict() == {"code": ["1", "3"], "gene": ["x", None]}
    with pytest.raises(DataError) as caught:
        step.apply(pa.record_batch({"code": ["1"]}))
    assert caught.value.code == "data.transform_column"


def test_digests_that_agree_in_64_bits_are_told_apart() -> None:
    seen = DigestSet()
    one = np.array([[5, 1], [5, 2], [5, 1], [4, 9]], np.uint64)
    assert seen.add(one).tolist() == [True, True, False, True]
    two = np.array([[5, 3], [5, 2], [5, 0], [6, 1]], np.uint64)
    assert seen.add(two).tolist() == [True, False, True, True]
    assert len(seen) == 6


def test_digests_take_16_bytes_each() -> None:
    seen = DigestSet()
    values = np.arange(200_000, dtype=np.uint64)
    for start in range(0, len(values), 16_384):
        part = values[start : start + 16_384]
        assert seen.add(np.stack([part * 3, part], axis=1)).all()
    assert len(seen) == 200_000
    assert sum(run.nbytes for run in seen._runs) == 16 * 200_000
    assert len(seen._runs) < 10
    assert not seen.add(np.stack([values * 3, values], axis=1)).any()


def test_digests_depend_on_the_key() -> None:
    cells = [pa.array(["a"])]
    assert (row_digests(cells, b"1") != row_digests(cells, b"2")).any()
