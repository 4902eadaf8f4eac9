"""Files and settings of a data owner's systems: whoever fills those systems may write anything into them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fuzz.registry import maker, scratch
from fuzz.runner import Target
from plasmid.core.settings import read_settings
from plasmid.data.fhir.loading import Deadline, Loader
from plasmid.data.fhir.reading import read_document
from plasmid.data.fhir.tally import Tally
from plasmid.data.settings import Connections, ViewFile
from plasmid.data.sources.molecules import read_sd
from plasmid.data.sources.sequences import read_fasta, read_fastq
from plasmid.data.views.reading import read_table
from plasmid.recipes.columns import CategoryColumn, Contract, LabelColumn, NumberColumn, TextColumn
from support.hospital.fhir_data import bundle, condition, observation, patient

FASTA = b">sp|Q1 a protein OS=Homo sapiens label=1\r\nMKVL\nAAC*\n\n>two\nWW\n"
FASTQ = b"@r1 lane=3\nACGT\n+\n!~5I\n@r2\nAC\n+r2\nII\n"
SD = b"""water
  made up

  1  0  0  0  0  0            999 V2000
    0.0000    0.0000    0.0000 O   0  0
M  END
> <name>
water

$$$$
"""
CSV = b'note,age,sex,label\n"a, ""b""\nc",41,F,yes\nplain,7.5,,no\n'
CONTRACT = Contract(
    {
        "note": TextColumn(type="text", max_length=64),
        "age": NumberColumn(type="number", bounds=(0.0, 120.0)),
        "sex": CategoryColumn(type="category", vocabulary=("F", "M"), missing="allowed"),
        "label": LabelColumn(type="label"),
    },
    ("no", "yes"),
)
CONNECTIONS = b"""connections:
  warehouse: {kind: sql, url: "postgresql://reader@db.example.org/clinic", password_file: secret}
  exports: {kind: files, path: exports}
  store: {kind: fhir, path: bulk}
"""
VIEW = b"""source: warehouse
public_size: 1000
model: omop-5.4
tables:
  rows:
    table: admissions
    columns:
      age: {column: age_months, unit: mo}
transforms:
  - opt_out: {file: opt-out.csv}
"""


def through(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    """Return a function that writes its input to a file and reads that."""
    path = scratch() / name

    def run(data: bytes) -> None:
        path.write_bytes(data)
        read(path)

    return run


def drained(read: Callable[[Path], Iterator[Any]]) -> Callable[[Path], None]:
    """Return a function that reads a file to its end."""

    def run(path: Path) -> None:
        for _ in read(path):
            pass

    return run


@maker
def _files() -> Iterator[Target]:
    yield Target("FASTA file", [FASTA], through("a.fasta", drained(read_fasta)), structured=False, cost=10)
    yield Target("FASTQ file", [FASTQ], through("a.fastq", drained(read_fastq)), structured=False, cost=10)
    yield Target("SD file", [SD], through("a.sdf", drained(read_sd)), structured=False, cost=20)
    yield Target(
        "CSV file",
        [CSV],
        through("a.csv", lambda path: read_table(path, CONTRACT)),
        structured=False,
        cost=40,
    )


class Nowhere:
    """A store that looks at all rows and keeps none."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        def take(*parts: Any) -> None:
            for part in parts:
                if isinstance(part, Iterator):
                    list(part)

        return take


@maker
def _fhir() -> Iterator[Target]:
    store: Any = Nowhere()

    def document(data: bytes) -> None:
        tally = Tally()
        loader = Loader(store, tally, ())
        loader.load(read_document(data, "x.json", tally), Deadline(60.0), "x.json")

    whole = bundle(patient(), observation(), condition())
    seeds = [json.dumps(found).encode() for found in (whole, patient())]
    yield Target("FHIR document", seeds, document, cost=20)


@maker
def _settings() -> Iterator[Target]:
    yield Target(
        "connections",
        [CONNECTIONS],
        through("connections.yaml", lambda path: read_settings(path, Connections)),
        structured=False,
        cost=40,
    )
    yield Target(
        "view file",
        [VIEW],
        through("view.yaml", lambda path: read_settings(path, ViewFile)),
        structured=False,
        cost=40,
    )
