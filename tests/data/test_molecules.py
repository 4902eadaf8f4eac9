"""SD files become batches of rows, or an error with record and line and nothing of the file."""

from __future__ import annotations

import gzip
import traceback
from pathlib import Path
from typing import Any

import pytest
import sqlglot

from plasmid.core.errors import DataError
from plasmid.data.sources import blocks, molecules
from plasmid.data.sources.files import open_file
from plasmid.data.sources.molecules import read_sd, sd_columns
from support.hospital.sequence_files import sd_record, write_sd

Chem = pytest.importorskip("rdkit.Chem")
RDConfig = pytest.importorskip("rdkit.RDConfig")

DATA = Path(RDConfig.RDDataDir).parent
ETHANOL = """ethanol
  made up

  3  2  0  0  0  0            999 V2000
    0.0000    0.0000    0.0000 C   0  0
    1.5000    0.0000    0.0000 C   0  0
    2.2000    1.2000    0.0000 O   0  0
  1  2  1  0
  2  3  1  0
M  END
"""
EMPTY = "nothing\n\n\n  0  0  0  0  0  0            999 V2000\nM  END\n"
PENTAVALENT = """CANARY
  made up

  6  5  0  0  0  0            999 V2000
    0.0000    0.0000    0.0000 C   0  0
    1.0000    0.0000    0.0000 C   0  0
    0.0000    1.0000    0.0000 C   0  0
   -1.0000    0.0000    0.0000 C   0  0
    0.0000   -1.0000    0.0000 C   0  0
    1.0000    1.0000    0.0000 C   0  0
  1  2  1  0
  1  3  1  0
  1  4  1  0
  1  5  1  0
  1  6  1  0
M  END
"""


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "file.sdf"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(path: Path, **options: Any) -> list[dict[str, Any]]:
    return [row for batch in read_sd(path, **options) for row in batch.to_pylist()]


def test_records_and_their_fields(tmp_path: Path) -> None:
    salt = Chem.MolToMolBlock(Chem.MolFromSmiles("C[C@H](N)C(=O)[O-].[Na+]"), forceV3000=True)
    text = (
        sd_record(ETHANOL, [("label", "1"), ("SMILES", "as drawn"), ("notes", "two\nlines")])
        + sd_record(salt, [("label", ""), ("Label", "0")])
        + sd_record(EMPTY)
    )
    expected = [
        {"name": "ethanol", "smiles": "CCO", "label": "1", "field_SMILES": "as drawn", "notes": "two\nlines"},
        {"name": "", "smiles": "C[C@H](N)C(=O)[O-].[Na+]", "label": "", "field_Label": "0"},
        {"name": "nothing", "smiles": None},
    ]
    names = ["name", "smiles", "label", "field_SMILES", "notes", "field_Label"]
    expected = [{name: row.get(name) for name in names} for row in expected]
    for content in (text.encode(), gzip.compress(text.encode()), text.replace("\n", "\r\n").encode()):
        path = write(tmp_path, content)
        assert list(sd_columns(path)) == names
        assert rows(path) == expected
    assert rows(path, columns=["inchikey", "name"])[0] == {
        "inchikey": "LFQSCWFLJHTTHZ-UHFFFAOYSA-N",
        "name": "ethanol",
    }


@pytest.mark.parametrize("file", ["Contrib/Fastcluster/testdata/cdk2.sdf", "Data/NCI/first_200.props.sdf"])
def test_real_files_read_as_rdkit_reads_them(file: str) -> None:
    found = rows(DATA / file)
    expected = list(Chem.SDMolSupplier(str(DATA / file)))
    assert len(found) == len(expected) in (47, 200)
    for row, molecule in zip(found, expected, strict=True):
        fields = molecule.GetPropsAsDict(autoConvertStrings=False)
        told = {name.removeprefix("field_"): text for name, text in row.items() if text is not None}
        assert told.pop("name", "") == molecule.GetProp("_Name").strip()
        assert told.pop("smiles") == Chem.MolToSmiles(molecule)
        assert told == fields


@pytest.mark.parametrize("size", [50, 3000])
def test_no_size_of_block_or_batch_makes_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = write_sd(tmp_path / "file.sdf", [DATA / "Contrib/FreeWilson/data/cmet_ligands.sdf"], 40)
    whole = rows(path)
    assert [row["number"] for row in whole] == [*map(str, range(40))]
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    monkeypatch.setattr(molecules, "BATCH_ROWS", 7)
    assert rows(path) == whole
    assert max(batch.num_rows for batch in read_sd(path)) == 7
    monkeypatch.setattr(molecules, "MAX_BATCH_BYTES", 1)
    assert [batch.num_rows for batch in read_sd(path)] == [1] * 40


def test_molecules_that_rdkit_refuses_are_counted_and_none_is_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = ETHANOL.replace("  2  3  1  0", "  2 CANARY  0")
    path = write(
        tmp_path, sd_record(ETHANOL) + sd_record(PENTAVALENT) + sd_record(ETHANOL) + sd_record(broken)
    )
    with pytest.raises(DataError) as caught:
        rows(path)
    assert caught.value.code == "data.molecule_invalid"
    assert "RDKit cannot read 2 molecules, first record 2, line 12." in caught.value.message
    assert "CANARY" not in "".join(traceback.format_exception(caught.value))
    assert capfd.readouterr() == ("", "")
    assert [row["name"] for row in rows(path, columns=["name"])] == [
        "ethanol",
        "CANARY",
        "ethanol",
        "ethanol",
    ]


@pytest.mark.parametrize("size", [10, 2**20])
def test_whoever_asks_to_be_told_gets_all_other_molecules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Under a privacy unit one molecule refuses no table: before it, after it, and in any block."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    ends = ETHANOL.replace("ethanol", "last")
    path = write(tmp_path, sd_record(ETHANOL) + sd_record(PENTAVALENT) + sd_record(ends))
    told: list[DataError] = []
    batches = read_sd(path, columns=["name", "smiles"], left_out=told.append)
    found = [row for batch in batches for row in batch.to_pylist()]
    assert found == [{"name": "ethanol", "smiles": "CCO"}, {"name": "last", "smiles": "CCO"}]
    assert [one.code for one in told] == ["data.molecule_invalid"]
    source = open_file(path, leaves_out=True)
    query: Any = sqlglot.parse_one('SELECT "name" FROM "rows" WHERE "smiles" <> \'\'', dialect="duckdb")
    names = [name for batch in source.select(query) for name in batch.column("name").to_pylist()]
    assert names == ["ethanol", "last"]
    assert [one.code for one in source.troubles()] == ["data.molecule_invalid"]
    source.close()


def test_molecules_read_together_are_those_read_one_by_one(tmp_path: Path) -> None:
    # Each of these would take its neighbour with it if RDKit were let go on to the next record.
    short = "  0  0  0  0  0  0            999 V2000\nM  END\n"
    ended = ETHANOL.replace("ethanol", "$$$$")
    empty = EMPTY.replace("nothing", "  0  0  0  0  0  0            999 V2000")
    for odd, refused in ((short, 1), (ended, 0), (EMPTY, 0), (ETHANOL.replace("  3  2", "  9  9"), 1)):
        path = write(tmp_path, sd_record(ETHANOL) + sd_record(odd) + sd_record(empty) + sd_record(ETHANOL))
        assert (Chem.MolFromMolBlock(odd) is None) == bool(refused)
        if refused:
            with pytest.raises(DataError, match="cannot read 1 molecule, first record 2, line 12"):
                rows(path, columns=["smiles"])
        else:
            expected = ["CCO", None if odd == EMPTY else "CCO", None, "CCO"]
            assert [row["smiles"] for row in rows(path, columns=["smiles"])] == expected


@pytest.mark.parametrize(
    ("content", "code", "what"),
    [
        (" \n", "data.empty", "is empty"),
        (sd_record(ETHANOL) + ETHANOL, "data.not_sd", "record 2, line 12: no $$$$ ends this record"),
        (
            sd_record(ETHANOL) + "CANARY\n$$$$\n",
            "data.not_sd",
            "record 2, line 12: a record without the line",
        ),
        (sd_record(ETHANOL + "CANARY\n"), "data.not_sd", "record 1, line 11: a line that belongs to no"),
        (
            sd_record(ETHANOL + "\n> CANARY\n1\n\n"),
            "data.not_sd",
            "record 1, line 12: a line that belongs to no",
        ),
        (sd_record(ETHANOL, [("a", "1"), ("a", "CANARY")]), "data.not_sd", "line 14: a data item that the"),
        (sd_record(ETHANOL, [("a", "1\n\nCANARY")]), "data.not_sd", "record 1, line 14: a line that"),
        (sd_record(ETHANOL).encode() + b"CANARY\xe9\n$$$$\n", "data.not_utf8", "line 12"),
        (sd_record(ETHANOL + "CANARY\0"), "data.nul_character", "line 11"),
        (
            "".join(sd_record(ETHANOL, [(f"{n}_{m}", "") for m in range(400)]) for n in range(3)),
            "data.not_sd",
            "more than 1000 different data items",
        ),
    ],
)
def test_what_is_no_sd_file(tmp_path: Path, content: str | bytes, code: str, what: str) -> None:
    with pytest.raises(DataError) as caught:
        rows(write(tmp_path, content))
    assert caught.value.code == code
    assert what in caught.value.message
    assert "CANARY" not in "".join(traceback.format_exception(caught.value))


def test_a_record_beyond_the_limit_and_a_column_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="has no column 'logp'") as caught:
        rows(write(tmp_path, sd_record(ETHANOL, [("logP", "-0.3")])), columns=["smiles", "logp"])
    assert caught.value.code == "data.source_table"
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(molecules, "MAX_RECORD_BYTES", 10_000)
    with pytest.raises(DataError, match="begins at line 12") as caught:
        rows(write(tmp_path, sd_record(ETHANOL) + ETHANOL + "> <a>\n" + "x\n" * 9000 + "\n$$$$\n"))
    assert caught.value.code == "data.record_too_long"
