"""The store of one connection: a private DuckDB file in which versions and references are settled.

Rules
-----
1. Rows come in as Arrow, :data:`BATCH_ROWS` at a time; sorting and joining happen in DuckDB, which has
   :data:`MEMORY` and spills to the same folder. The folder is removed on closing.
2. Of several versions of a resource the newest counts (``meta.lastUpdated``, then ``versionId``, then the
   order of reading), even if it was deleted or makes no row.
3. An event is its person's if ``subject`` is a name of a Patient who is in the store. Others are counted and
   left out. A Patient whose record was replaced by another's (``link``) is that other person.
4. Settled, the file is opened again read-only, without external access, its configuration locked.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from plasmid.data.fhir.flattening import Codings, Person, Row
from plasmid.data.fhir.names import Name, person_of
from plasmid.data.fhir.tally import Place, Tally
from plasmid.data.source import BATCH_ROWS

MEMORY = "512MB"

_DAY, _TEXT, _WHOLE = pa.date32(), pa.string(), pa.int64()
_SCHEMAS = {
    "version": pa.schema(
        {
            "n": _WHOLE, "identity": _TEXT, "updated": pa.timestamp("us"), "version": _WHOLE,
            "file": _TEXT, "unit": _TEXT, "number": _WHOLE,
        }
    ),
    "patient": pa.schema(
        {"n": _WHOLE, "person": _TEXT, "birth_date": _DAY, "sex": _TEXT, "death_date": _DAY}
    ),
    "name": pa.schema({"n": _WHOLE, "name": _TEXT}),
    "link": pa.schema({"n": _WHOLE, "old": _TEXT, "new": _TEXT}),
    "medication": pa.schema({"n": _WHOLE, "name": _TEXT, "code": _TEXT, "system": _TEXT}),
    "staged": pa.schema(
        {
            "n": _WHOLE, "base": _TEXT, "kind": _TEXT, "event": _WHOLE, "subject": _TEXT, "date": _DAY,
            "end_date": _DAY, "code": _TEXT, "system": _TEXT, "number": pa.float64(), "word": _TEXT,
            "unit": _TEXT, "text": _TEXT, "medication": _TEXT,
        }
    ),
}  # fmt: skip
_MORE = {
    "condition": "",
    "drug": "end_date,",
    "procedure": "",
    "measurement": "number AS value, unit,",
    "observation": "word AS value,",
    "visit": "end_date,",
    "note": "text,",
}
"""Declared table -> its columns beside person, date, code and system."""
TABLES = ("person", *_MORE)


class Store:
    """Takes rows, then settles them.

    Parameters
    ----------
    scratch
        Where a private folder may be made; None is the system's place for temporary files.

    Attributes
    ----------
    database
        The connection to query: read-only once :meth:`settle` has returned.
    """

    def __init__(self, scratch: Path | None = None) -> None:
        if scratch is not None:
            scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = Path(tempfile.mkdtemp(prefix=".fhir-", dir=scratch))
        self.database = self._connect(read_only=False)
        self.database.begin()
        for table, schema in _SCHEMAS.items():
            self._insert(table, pa.table({one.name: pa.array([], one.type) for one in schema}), create=True)
        self.database.commit()
        self._waiting: dict[str, list[tuple[Any, ...]]] = {table: [] for table in _SCHEMAS}

    def _connect(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": MEMORY,
            "threads": 1,
            "temp_directory": str(self._folder / "spill"),
            "python_enable_replacements": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        return duckdb.connect(str(self._folder / "rows.duckdb"), read_only=read_only, config=config)

    def add_version(
        self, n: int, identity: str | None, updated: datetime | None, version: int, place: Place
    ) -> None:
        """Add resource number *n*, called *identity*; None is like no other."""
        self._add("version", [(n, identity, updated, version, *place)])

    def add_patient(
        self, n: int, known: list[Name], person: Person, links: Iterable[tuple[str, str]]
    ) -> None:
        """Add the person of resource *n*; *links* are (replaced, replacing) names."""
        self._add("patient", [(n, person_of(known[0]), *person)])
        self._add("name", [(n, name.local) for name in known])
        self._add("link", [(n, old, new) for old, new in links])

    def add_medication(self, n: int, known: list[Name], codes: Codings) -> None:
        """Add the codes of a Medication that drugs may refer to."""
        self._add("medication", [(n, name.local, *code) for name in known for code in codes])

    def add_rows(self, n: int, rows: Iterable[Row]) -> None:
        """Add rows of resource *n*."""
        self._add("staged", [(n, *row) for row in rows])

    def _add(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        waiting = self._waiting[table]
        waiting += rows
        if len(waiting) >= BATCH_ROWS:
            self._flush(table)

    def _flush(self, table: str) -> None:
        waiting, schema = self._waiting[table], _SCHEMAS[table]
        if waiting:
            columns = zip(*waiting, strict=True)
            arrays = [pa.array(column, one.type) for column, one in zip(columns, schema, strict=True)]
            self._insert(table, pa.Table.from_arrays(arrays, schema=schema))
            waiting.clear()

    def _insert(self, table: str, rows: pa.Table, *, create: bool = False) -> None:
        self.database.register("incoming", rows)
        into = f"CREATE TABLE {table} AS" if create else f"INSERT INTO {table}"
        self.database.execute(f"{into} SELECT * FROM incoming")  # noqa: S608 - a name of this file
        self.database.unregister("incoming")

    def settle(self, base: str | None, tally: Tally) -> None:
        """Make the declared tables, and lock the store.

        Parameters
        ----------
        base
            The server's base URL, where one was told.
        """
        for table in _SCHEMAS:
            self._flush(table)
        run = self.database.execute
        self.database.begin()
        run("""CREATE TABLE newest AS SELECT n FROM version QUALIFY row_number() OVER (
                 PARTITION BY coalesce(identity, '#' || n)
                 ORDER BY coalesce(updated, '-infinity'::TIMESTAMP) DESC, version DESC, n DESC) = 1""")
        # Every version's names count, of Patients whose newest version is there.
        run("""CREATE TABLE named AS SELECT name, min(person) AS person FROM name JOIN patient USING (n)
                 WHERE person IN (SELECT person FROM patient JOIN newest USING (n)) GROUP BY name""")
        self._merge(tally)
        run("""CREATE TABLE person AS
                 SELECT p.person, any_value(birth_date) AS birth_date, any_value(sex) AS sex,
                        any_value(death_date) AS death_date, max(n) AS resource
                 FROM patient p JOIN newest USING (n)
                 WHERE p.person IN (SELECT person FROM named) GROUP BY p.person ORDER BY resource""")
        run(
            """CREATE TABLE known AS
                 SELECT s.*, person FROM staged s JOIN newest USING (n) JOIN named ON s.subject = named.name
                 WHERE s.base IS NULL OR s.base = coalesce(?, s.base)""",
            [base],
        )
        run(
            "CREATE TABLE named_medication AS SELECT name, code, system FROM medication JOIN newest USING (n)"
        )
        for table, more in _MORE.items():
            run(self._table(table, more), [table])
        self._count(tally)
        for table in (*_SCHEMAS, "newest", "named", "known", "named_medication"):
            if table != "version":  # which tells where a resource stands
                run(f"DROP TABLE {table}")
        self.database.commit()
        self.database.close()
        self.database = self._connect(read_only=True)
        # Open files outlive their names: a reader that is killed from here on leaves no rows behind.
        (self._folder / "rows.duckdb").unlink()
        self.database.execute("SET enable_external_access = false")
        self.database.execute("SET lock_configuration = true")

    @staticmethod
    def _table(table: str, more: str) -> str:
        code = "coalesce(s.code, m.code) AS code, coalesce(s.system, m.system) AS system"
        return f"""CREATE TABLE {table} AS SELECT person, date, {code}, {more} event, n AS resource
                   FROM known s LEFT JOIN named_medication m ON s.medication = m.name
                   WHERE s.kind = ? ORDER BY event, s.rowid"""  # noqa: S608 - names of this file

    def _merge(self, tally: Tally) -> None:
        pairs = self.database.execute(
            """SELECT DISTINCT a.person, b.person FROM link JOIN newest USING (n)
               JOIN named a ON link.old = a.name JOIN named b ON link.new = b.name
               WHERE a.person <> b.person ORDER BY ALL"""
        ).fetchall()
        merged = _roots(pairs)
        if merged:
            what = "Patient records replaced by another of the same person"
            tally.add("notice.fhir_versions", what, count=len(merged))
            pairs = [(new, old) for old, new in merged.items()]
            self.database.executemany("UPDATE named SET person = ? WHERE person = ?", pairs)

    def _count(self, tally: Tally) -> None:
        def first(query: str) -> tuple[int, int | None]:
            found = self.database.execute(query).fetchone()
            return (int(found[0]), found[1]) if found else (0, None)

        for code, what, query in (
            ("notice.fhir_versions", "older or repeated versions of a resource, left out",
             "SELECT count(*), min(n) FROM version ANTI JOIN newest USING (n)"),
            ("notice.fhir_nobody", "events of nobody: their subject is no Patient here, left out",
             """SELECT count(DISTINCT event), min(n) FROM staged JOIN newest USING (n)
                ANTI JOIN known USING (event)"""),
            ("notice.fhir_partial", "drugs whose Medication is not here or has no code",
             "SELECT count(*), min(resource) FROM drug WHERE code IS NULL"),
        ):  # fmt: skip
            count, n = first(query)
            if count:
                tally.add(code, what, self.place(n) if n is not None else None, count)

    def place(self, n: int) -> Place:
        """Return where resource number *n* stands."""
        found = self.database.execute("SELECT file, unit, number FROM version WHERE n = ?", [n]).fetchone()
        return Place(*found) if found else Place("", "", 0)

    def close(self) -> None:
        """Remove everything; calling it again does nothing."""
        self.database.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _roots(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return person -> the person who replaced him in the end, for (replaced, replacing) *pairs*."""
    parent: dict[str, str] = {}

    def root(one: str) -> str:
        while one in parent:
            one = parent[one]
        return one

    for old, new in pairs:
        if root(old) != root(new):  # a circle of links is one person, too
            parent[root(old)] = root(new)
    return {old: root(old) for old in parent}
