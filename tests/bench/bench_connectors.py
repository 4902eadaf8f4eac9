"""``connectors``: rows per second of each connector beside pandas, or the library's own reader, on one file.

Rules
-----
1. Ours is what a view takes: from the closed file to record batches under local names, through the source's
   own SELECT. The peer reads the same file, or asks the same query, into whatever it makes of it.
2. Both run in this process, in turn, five times; the fastest of each counts. Wall time.
3. What the contract's checks and the canonical snapshot take on top is told beside, without a goal.
"""

from __future__ import annotations

import csv
import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet

from bench.harness import Result
from plasmid.data.findings import Tally
from plasmid.data.settings import FhirConnection, SqlConnection, TableMap
from plasmid.data.source import Source
from plasmid.data.sources.fhir import open_fhir
from plasmid.data.sources.files import open_file
from plasmid.data.sources.sql import open_sql
from plasmid.data.views.reading import Collector
from plasmid.data.views.rows import Rows, flat_query, wanted_columns
from plasmid.recipes.columns import (
    AnyColumn,
    CategoryColumn,
    Contract,
    IdentifierColumn,
    LabelColumn,
    NumberColumn,
    TextColumn,
)
from support.hospital.sequence_files import write_fasta, write_fastq, write_sd

GOAL = 0.8
TIMES = 5
ROWS = 1_000_000
COLUMNS: dict[str, AnyColumn] = {
    "patient": IdentifierColumn(type="identifier"),
    "age": NumberColumn(type="number", bounds=(0, 120), integer=True),
    "sex": CategoryColumn(type="category", vocabulary=("female", "male")),
    "hba1c": NumberColumn(type="number", bounds=(0, 30)),
    "note": TextColumn(type="text", max_length=64),
    "label": LabelColumn(type="label"),
}
CONTRACT = Contract(COLUMNS, ("no", "yes"), ROWS)


def main() -> list[Result]:
    """Measure every connector that can be measured here."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [*tables(folder), *databases(folder), *sequences(folder), *fhir(folder)]


def frame(rows: int) -> Any:
    """Return made-up records of *rows* patients, a DataFrame."""
    import pandas as pd

    random = Random(0)
    words = ["pain", "in", "the", "left", "arm", "since", "yesterday", "fever", "and", "cough", "at", "night"]
    return pd.DataFrame(
        {
            "patient": [f"P{number:07d}" for number in range(rows)],
            "age": [random.randint(18, 90) for _ in range(rows)],
            "sex": [random.choice(("female", "male")) for _ in range(rows)],
            "hba1c": [round(random.uniform(4, 12), 1) for _ in range(rows)],
            "note": [" ".join(random.choices(words, k=8)) for _ in range(rows)],
            "label": [random.choice(("no", "yes")) for _ in range(rows)],
        }
    )


def tables(folder: Path) -> list[Result]:
    """CSV, Parquet and Arrow files of a million rows; CSV again, with quotes."""
    import pandas as pd

    data = frame(ROWS)
    data.to_csv(folder / "t.csv", index=False)
    quoted = data.assign(
        note=[punctuated(note) if not row % 20 else note for row, note in enumerate(data["note"])]
    )
    quoted.to_csv(folder / "q.csv", index=False, quoting=csv.QUOTE_NONNUMERIC)
    table = pa.Table.from_pandas(data, preserve_index=False)
    pa.parquet.write_table(table, folder / "t.parquet")
    pa.feather.write_feather(table, folder / "t.arrow", compression="uncompressed")
    peers: dict[str, Callable[[Path], Any]] = {
        "csv": pd.read_csv,
        "parquet": pd.read_parquet,
        "arrow": pd.read_feather,
    }
    found = []
    for kind, peer in peers.items():
        path = folder / f"t.{kind}"
        found.append(compared(f"{kind}, pandas", lambda: drained(open_file(path)), lambda: peer(path), ROWS))  # noqa: B023
        told(kind, lambda: open_file(path), folder)  # noqa: B023
    path = folder / "q.csv"
    found.append(
        compared("csv with quotes, pandas", lambda: drained(open_file(path)), lambda: pd.read_csv(path), ROWS)
    )
    return found


def punctuated(note: str) -> str:
    """Return a note with a comma, quotes and a line break."""
    first, second, third, *rest = note.split()
    return f'{first}, "{second}"\n{third} {" ".join(rest)}'


def databases(folder: Path) -> list[Result]:
    """PostgreSQL and SQLite, the same table, by one SELECT."""
    from support.servers.postgres_server import running

    data, found = frame(ROWS // 2), []
    with sqlite3.connect(folder / "t.db") as database:
        data.to_sql("rows", database, index=False)
    lite = SqlConnection(kind="sql", url=f"sqlite:///{folder / 't.db'}")
    found.append(
        _database("SQLite, pandas.read_sql", lite, folder, f"sqlite:///{folder / 't.db'}", len(data))
    )
    with running() as server:
        server.database("bench")
        import sqlalchemy as sa

        types = {"patient": sa.Text, "age": sa.Integer, "hba1c": sa.Numeric(6, 1)}
        engine = sa.create_engine(server.url("bench"))
        data.to_sql("rows", engine, index=False, dtype=types, chunksize=50_000)
        engine.dispose()
        server.run("CREATE ROLE reader LOGIN", "GRANT pg_read_all_data TO reader", database="bench")
        url = server.url("bench", "reader")
        found.append(
            _database(
                "PostgreSQL, pandas.read_sql", SqlConnection(kind="sql", url=url), folder, url, len(data)
            )
        )
    return found


def _database(what: str, connection: SqlConnection, folder: Path, url: str, rows: int) -> Result:
    import pandas as pd
    import sqlalchemy as sa

    def peer() -> None:
        engine = sa.create_engine(url)
        with engine.connect() as opened:
            pd.read_sql(sa.text("SELECT * FROM rows"), opened)
        engine.dispose()

    return compared(what, lambda: drained(open_sql(connection, folder, limit_s=600)), peer, rows)


def sequences(folder: Path) -> list[Result]:
    """FASTA and FASTQ beside dnaio, SD beside RDKit's supplier and its SMILES."""
    import dnaio
    from rdkit import Chem, RDConfig, RDLogger

    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    fasta = write_fasta(folder / "p.fasta", 300_000)
    fastq = write_fastq(folder / "r.fastq", 300_000)
    known = sorted(Path(RDConfig.RDDataDir).rglob("*.sdf"))[:3]
    sd = write_sd(folder / "m.sdf", known, 5_000)

    def iterated(path: Path) -> None:
        with dnaio.open(path) as file:
            for _ in file:
                pass

    def supplied() -> None:
        for molecule in Chem.SDMolSupplier(str(sd)):
            if molecule is not None:
                Chem.MolToSmiles(molecule)

    columns = ["id", "description", "sequence"]
    return [
        compared(
            "FASTA, dnaio", lambda: drained(open_file(fasta), columns), lambda: iterated(fasta), 300_000
        ),
        compared(
            "FASTQ, dnaio", lambda: drained(open_file(fastq), columns), lambda: iterated(fastq), 300_000
        ),
        compared("SD, RDKit", lambda: drained(open_file(sd), ["name", "smiles"]), supplied, 5_000),
    ]


def fhir(folder: Path) -> list[Result]:
    """A bulk export beside fhir.resources reading every line of it."""
    from fhir.resources.R4B import get_fhir_model_class

    from support.hospital.hospital_world import patients, write_fhir

    write_fhir(patients(4_000), folder / "bulk")
    lines = [line for path in sorted((folder / "bulk").iterdir()) for line in path.read_bytes().splitlines()]

    def validated() -> None:
        for line in lines:
            content = json.loads(line)
            get_fhir_model_class(content["resourceType"]).model_validate(content)

    def ours() -> None:
        open_fhir(FhirConnection(kind="fhir", path="bulk"), folder, limit_s=600).close()

    return [compared("FHIR NDJSON, fhir.resources", ours, validated, len(lines))]


def drained(source: Source, columns: Iterable[str] = COLUMNS) -> None:
    """Read all of a source's one table, and close it."""
    from sqlglot import exp

    names = [exp.column(name, quoted=True) for name in columns]
    table = exp.Table(this=exp.to_identifier("rows", quoted=True))
    for batch in source.select(exp.select(*names).from_(table)):
        assert batch.num_columns
    source.close()


def compared(what: str, ours: Callable[[], Any], peer: Callable[[], Any], rows: int) -> Result:
    """Return the fastest of each side, run in turn."""
    best = [float("inf"), float("inf")]
    for _ in range(TIMES):
        for side, run in enumerate((ours, peer)):
            begun = time.perf_counter()
            run()
            best[side] = min(best[side], time.perf_counter() - begun)
    speed = f"{rows / best[0]:,.0f} against {rows / best[1]:,.0f} rows/s"
    return Result.times_better(f"{what}: {speed}", ours=best[0], peer=best[1], unit="s", goal=GOAL)


def told(kind: str, opened: Callable[[], Source], folder: Path) -> None:
    """Say what a whole view takes: checks of the contract, canonical form, order and digest."""
    source, tally = opened(), Tally()
    wanted = wanted_columns(CONTRACT, labels=True)
    begun = time.perf_counter()
    query = flat_query(source, TableMap(table="rows"), wanted, tally)
    rows = Rows(source, query, kind, wanted, CONTRACT, tally=tally)
    collector = Collector(wanted, folder, patient="patient", holdout=None, key=bytes(32))
    for batch in rows:
        collector.add(batch)
    descriptor, figures, _ = collector.finish(())
    os.close(descriptor or -1)
    source.close()
    took = time.perf_counter() - begun
    print(f"{kind}: {figures.rows / took:,.0f} rows/s to the snapshot", file=sys.stderr)
