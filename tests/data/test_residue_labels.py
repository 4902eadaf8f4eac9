"""Labels of residues, and numbers to be learned: what is read, refused and reported, without a cell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from plasmid.core.errors import DataError
from plasmid.data.parsing import check_column, fit_residue_labels
from plasmid.data.readiness.report import Readiness, Report, Roles
from plasmid.data.views.reading import read_table
from plasmid.recipes.columns import Contract, NumberColumn, ProteinColumn, ResidueLabelsColumn

FOLD = Contract(
    {
        "chain": ProteinColumn(type="protein", max_length=6, too_long="truncate"),
        "fold": ResidueLabelsColumn(type="residue_labels", of="chain", unlabelled="-"),
    },
    ("h", "E", "^"),
    label="fold",
)
MASS = Contract(
    {
        "chain": ProteinColumn(type="protein", max_length=20),
        "mass": NumberColumn(type="number", bounds=(0.0, 100.0)),
    },
    label="mass",
)

LENGTH = "not as long as the sequence in 'chain', one letter for each residue"


def _file(folder: Path, *rows: str) -> Path:
    path = folder / "rows.csv"
    path.write_text("\n".join(["chain,fold", *rows, ""]))
    return path


def test_labels_are_cut_where_their_sequence_is(tmp_path: Path) -> None:
    table = read_table(_file(tmp_path, "CASS, hE-^ ", "cassylayf,hhhEEE---"), FOLD)
    assert table.columns["chain"] == ["CASS", "CASSYL"]
    assert table.columns["fold"] == ["hE-^", "hhhEEE"]
    assert table.notices == ("column 'chain': 1 value cut to their first 6 residues (first at line 3)",)


def test_what_is_wrong_is_counted_without_a_cell(tmp_path: Path) -> None:
    path = _file(tmp_path, "CASS,hE-^", "CAS,hEEE", "CASS,hXhh", "CASS,HHHH", "CASSYLAYF,hhhEEE", "CAS,")
    with pytest.raises(DataError) as caught:
        read_table(path, FOLD)
    assert caught.value.code == "data.residue_labels_length"
    assert [line.strip() for line in caught.value.message.splitlines()[1:]] == [
        f"column 'fold': 2 values {LENGTH} (first at line 3)",
        "column 'fold': 2 values with a letter that is not one of the task's labels (first at line 4)",
        "column 'fold': 1 value missing (first at line 7)",
    ]
    assert "hEEE" not in str(caught.value)
    assert "as many letters as the sequence has residues" in caught.value.hint
    assert "task.labels" in caught.value.hint


def test_tables_to_be_predicted_need_no_label_of_any_type(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("chain\nCASS\n")
    for contract in (FOLD, MASS):
        assert read_table(path, contract, labels=False).columns == {"chain": ["CASS"]}
        with pytest.raises(DataError) as caught:
            read_table(path, contract)
        assert caught.value.code == "data.column_missing"


def _report(contract: Contract, label: str, *columns: list[object]) -> Report:
    raw = {name: pa.array(cells) for name, cells in zip(contract.columns, columns, strict=True)}
    checked = {name: check_column(raw[name], one, contract.labels) for name, one in contract.columns.items()}
    if label == "fold":
        checked["fold"] = fit_residue_labels(checked["fold"], raw["chain"], checked["chain"])
    readiness = Readiness(contract, Roles(input="chain", label=label), b"k" * 32)
    readiness.feed(
        pa.record_batch(raw),
        pa.record_batch({name: one.values for name, one in checked.items()}),
        {name: one.findings for name, one in checked.items()},
    )
    return readiness.report()


def test_readiness_counts_rows_in_which_a_residue_has_a_label() -> None:
    chains = ["CAS" + "ACDEFGHIKL"[place % 10] * (place % 3) for place in range(40)]
    folds = ["hE-" + "-" * (place % 3) if place < 25 else "-" * (3 + place % 3) for place in range(40)]
    found = _report(FOLD, "fold", chains, folds)
    assert found.as_json()["labels"] == {"h": 30, "E": 30, "^": 0}  # 25, rounded to tens
    assert "20 rows have no labelled residue, and teach nothing" in found.reasons
    assert "label '^' has 0 rows or people" in found.reasons
    assert found.verdict == "ready with notices"
    alone = _report(FOLD, "fold", chains, ["h" * len(chain) for chain in chains])
    assert (alone.verdict, alone.reasons[0]) == (
        "not ready",
        "rows of one label, or none, cannot be told apart",
    )


def test_readiness_tells_of_numbers_in_bins_alone() -> None:
    chains = ["CAS" + "ACDEFGHIKL"[place % 10] * (1 + place // 10) for place in range(100)]
    found = _report(MASS, "mass", chains, [float(place) + 0.3137 for place in range(100)])
    sentence = (
        "column 'mass': a quarter are at most 26, three quarters at most 76 (in bins of 2 from 0 to 100)"
    )
    assert sentence in found.sentences
    assert "3137" not in str(found.as_json())
    assert found.verdict == "ready"
    alike = _report(MASS, "mass", chains, [50.0 + place / 1000 for place in range(100)])
    assert alike.reasons == ("column 'mass': nine in ten numbers are alike; is there something to learn?",)
    outside = _report(MASS, "mass", chains, [float(place) * 1.2 for place in range(100)])
    assert (outside.verdict, outside.reasons[0]) == ("not ready", "column 'mass': 20 values out of range")
    assert np.isfinite(outside.as_json()["columns"]["mass"]["quantiles"]["50"])
