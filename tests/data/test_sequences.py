"""FASTA and FASTQ files become batches of rows, or an error with record and line and nothing of the file."""

from __future__ import annotations

import gzip
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from plasmid.core.errors import DataError
from plasmid.data.source import BATCH_ROWS
from plasmid.data.sources import blocks, sequences
from plasmid.data.sources.sequences import fasta_columns, fastq_columns, read_fasta, read_fastq
from support.hospital.sequence_files import write_fasta, write_fastq

UNIPROT = (
    b">sp|P69905|HBA_HUMAN Hemoglobin subunit alpha OS=Homo sapiens OX=9606 GN=HBA1 PE=1 SV=2\r\n"
    b"MVLSPADK\r\nTNVK AAW\r\n\r\n"
    b">s2\tlabel=1 OS=\r\nac*-\r\n>  s3\r\nMK\r\n"
)


def write(folder: Path, content: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content)
    return path


def rows(batches: Iterator[pa.RecordBatch]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.to_pylist()]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, b"\xef\xbb\xbf".__add__, lambda text: text[:-2]])
def test_a_fasta_file_wrapped_packed_or_from_windows(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    found = rows(
        read_fasta(write(tmp_path, pack(UNIPROT)), columns=[*fasta_columns(), "OS", "OX", "SV", "label"])
    )
    assert [row["id"] for row in found] == ["sp|P69905|HBA_HUMAN", "s2", "s3"]
    assert [row["sequence"] for row in found] == ["MVLSPADKTNVKAAW", "ac*-", "MK"]
    assert found[0]["description"] == "Hemoglobin subunit alpha OS=Homo sapiens OX=9606 GN=HBA1 PE=1 SV=2"
    assert [row["OS"] for row in found] == ["Homo sapiens", "", None]
    assert [row["OX"] for row in found] == ["9606", None, None]
    assert [row["SV"] for row in found] == ["2", None, None]
    assert [row["label"] for row in found] == [None, "1", None]
    assert list(found[0]) == [*fasta_columns(), "OS", "OX", "SV", "label"]


def test_a_fastq_file_and_its_mean_quality(tmp_path: Path) -> None:
    content = "@r1 élan lane=3\nACGT\n+\n!!~~\n@r2\r\nN\r\n+r2\r\nI\r\n".encode()
    assert rows(read_fastq(write(tmp_path, content), columns=[*fastq_columns(), "lane"])) == [
        {"id": "r1", "description": "élan lane=3", "sequence": "ACGT", "mean_quality": 46.5, "lane": "3"},
        {"id": "r2", "description": "", "sequence": "N", "mean_quality": 40.0, "lane": None},
    ]
    assert fastq_columns()["mean_quality"] == "double"
    few = rows(read_fastq(write(tmp_path, content), columns=["mean_quality", "lane", "id"]))
    assert list(few[0].items()) == [("mean_quality", 46.5), ("lane", "3"), ("id", "r1")]


@pytest.mark.parametrize("size", [1, 7, 600, 5000, blocks.BLOCK_BYTES])
def test_no_size_of_block_makes_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    count = 20 if size < 600 else 400
    fasta = write_fasta(tmp_path / "p.fasta", count)
    expected = []
    for record in fasta.read_text().split(">")[1:]:
        header, _, body = record.partition("\n")
        expected.append((*header.split(" ", 1), body.replace("\n", "")))
    assert [tuple(row.values()) for row in rows(read_fasta(fasta))] == expected
    fastq = write_fastq(tmp_path / "r.fastq", count, vary=140)
    lines = fastq.read_text().splitlines()
    found = rows(read_fastq(fastq))
    assert [row["sequence"] for row in found] == lines[1::4]
    assert [row["mean_quality"] for row in found] == pytest.approx(
        [sum(map(ord, line)) / len(line) - 33 for line in lines[3::4]], abs=1e-12
    )


def test_a_word_ends_at_a_blank_alone(tmp_path: Path) -> None:
    headers = {"a b\tc": ("a", "b c"), "\t d  e ": ("d", "e"), "f\x0bg\th": ("f\x0bg", "h"), "": ("", "")}
    path = write(tmp_path, "".join(f"@{header}\nA\n+\nI\n" for header in headers).encode())
    found = [(row["id"], row["description"].replace("\t", " ")) for row in rows(read_fastq(path))]
    assert found == list(headers.values())


def test_a_problem_comes_after_the_records_before_it_and_no_thread_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(sequences, "_THREADS", 3)
    good = b"".join(b"@r%d\nACGT\n+\nIIII\n" % number for number in range(2000))
    for bad, what in ((b"@x\nAC\n+\nI\n", "record 2001, line 8004: not as"), (b"@\0\n", "line 8001")):
        path = write(tmp_path, good + bad + b"@y\nA?\n+\nII\n" * 2000)
        found: list[str] = []
        with pytest.raises(DataError, match=what):  # noqa: PT012 - what came before it counts
            for batch in read_fastq(path):
                found += batch["id"].to_pylist()
        assert found == [f"r{number}" for number in range(len(found))]
        assert len(found) > 1700
    before = threading.active_count()
    opened = read_fastq(write(tmp_path, good))
    assert next(opened)["id"][0].as_py() == "r0"
    assert threading.active_count() > before
    opened.close()
    assert threading.active_count() == before


def test_a_batch_has_a_limited_number_of_rows(tmp_path: Path) -> None:
    path = write(tmp_path, b"".join(b">%d\nAC\n" % number for number in range(40_000)))
    batches = list(read_fasta(path))
    assert max(batch.num_rows for batch in batches) == BATCH_ROWS
    assert [row for batch in batches for row in batch["id"].to_pylist()] == [*map(str, range(40_000))]


@pytest.mark.parametrize(
    ("content", "code", "what"),
    [
        (b"\n\n", "data.empty", "is empty"),
        (b"\nCANARY\n>a\nA\n", "data.not_fasta", "record 1, line 2: text before the first header"),
        (b">a\nA\n>CANARY\n\n>b\nA\n", "data.not_fasta", "record 2, line 3: no sequence follows"),
        (b">a\nA\n>CANARY", "data.not_fasta", "record 2, line 3: no sequence follows"),
        (
            b">a\nAC\nA A\n>b\nC\nCANARY1\n",
            "data.not_fasta",
            "record 2, line 6: a character that is no letter",
        ),
        (
            b">a\nAC\n>b\nCANARY\xc3\xa9\n",
            "data.not_fasta",
            "record 2, line 4: a character that is no letter",
        ),
        (b">a\nAC\n>CANARY\xe9\nAC\n", "data.not_utf8", "line 3"),
        (b">a\nAC\n>b\nCANARY\0\nAC\n", "data.nul_character", "line 4"),
        (b">a\nA\n>" + b"CANARY" * 11_000 + b"\nA\n", "data.line_too_long", "record 2, line 3"),
    ],
)
def test_what_is_no_fasta_file(tmp_path: Path, content: bytes, code: str, what: str) -> None:
    refused(tmp_path, read_fasta, content, code, what)


@pytest.mark.parametrize(
    ("content", "code", "what"),
    [
        (b">a\nAC\n>CANARY\nAC\n", "data.not_fastq", "record 1, line 1: the header of a read"),
        (b"@a\nA\n+\nI\n@CANARY\nAC\nGT\n+\nIIII\n", "data.not_fastq", "record 2, line 7: the third line"),
        (b"@a\nA\n+\nI\n@b\nACGT\n+\nCANARY\n", "data.not_fastq", "record 2, line 8: not as many"),
        (b"@a\nA\n+\nI\n@b\nAC\n+\n", "data.not_fastq", "record 2, line 7: the file ends within"),
        (b"@CANARY\nAC", "data.not_fastq", "record 1, line 2: the file ends within"),
        (b"@a\n\n+\n\n", "data.not_fastq", "record 1, line 2: a read without letters"),
        (
            b"@a\nA\n+\nI\n\n\n\n\n@b\nAC\n+b\nII\n",
            "data.not_fastq",
            "record 2, line 5: the header of a read",
        ),
        (
            b"@a\nA\n+\nI\n@b\nA\n+CANARY\nI\n",
            "data.not_fastq",
            "record 2, line 7: the third line of a read rep",
        ),
        (b"@a\nA\n+\nI\n@b\nA \n+\nII\n", "data.not_fastq", "record 2, line 6: a character"),
        (b"@a\nA\n+\nI\n@b\nAA\n+\nI \n", "data.not_fastq", "record 2, line 8: a quality mark"),
        (b"@a b\r\nA\r\n+\r\nI\r\n@b\nAA\n+\nI\r\r\n", "data.not_fastq", "record 2, line 8: a quality mark"),
        (b"@a\nA\n+\n~\n@b\nA\n+\n\x7f\n", "data.not_fastq", "record 2, line 8: a quality mark"),
        ("@é\nAA\n+\n~!\n@b\nAA\n+é\né\n".encode(), "data.not_fastq", "record 2, line 7: the third line"),
        ("@é\nAA\n+é\n~!\n@b\nAA\n+\né\n".encode(), "data.not_fastq", "record 2, line 8: a quality mark"),
    ],
)
def test_what_is_no_fastq_file(tmp_path: Path, content: bytes, code: str, what: str) -> None:
    refused(tmp_path, read_fastq, content, code, what)


def refused(folder: Path, read: Callable[[Path], Any], content: bytes, code: str, what: str) -> None:
    with pytest.raises(DataError) as caught:
        rows(read(write(folder, content)))
    assert caught.value.code == code
    assert what in caught.value.message
    assert "CANARY" not in "".join(traceback.format_exception(caught.value))


def test_a_damaged_or_absent_file(tmp_path: Path) -> None:
    packed = gzip.compress(UNIPROT)
    for content in (packed[:-9], packed[:30] + b"\xff\xff" + packed[32:]):
        refused(tmp_path, read_fasta, content, "data.gzip_damaged", "damaged or cut off")
    with pytest.raises(DataError, match="there is no such file"):
        rows(read_fasta(tmp_path / "absent"))
    with pytest.raises(DataError, match="not a regular file"):
        rows(read_fasta(tmp_path))


def test_a_record_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "MAX_RECORD_LINES", 1000)
    path = write(
        tmp_path, gzip.compress(b">a\nA\n>b\n" + b"A" * (blocks.MAX_RECORD_BYTES + blocks.BLOCK_BYTES))
    )
    with pytest.raises(DataError, match="which begins at line 3") as caught:
        rows(read_fasta(path))
    assert caught.value.code == "data.record_too_long"
    path = write(tmp_path, b">a\n" + b"A\n" * 2 * blocks.BLOCK_BYTES)
    with pytest.raises(DataError, match="or 1,000 lines"):
        rows(read_fasta(path))


@pytest.mark.parametrize("columns", [["id", "id"], ["OS", "OS"], ["a b"], ["a.*"], [""]])
def test_a_column_that_cannot_be_one(tmp_path: Path, columns: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        rows(read_fasta(write(tmp_path, UNIPROT), columns=columns))
    assert caught.value.code == "data.source_table"
