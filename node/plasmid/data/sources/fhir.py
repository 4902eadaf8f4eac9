"""FHIR R4 as a source: what :mod:`plasmid.data.fhir` reads, in the tables of :mod:`plasmid.recipes.declared`.

Rules
-----
1. Everything is read and settled on opening. That is the snapshot of files; a server that changes while it
   is read page by page can show one resource before the change and another after it.
2. Beside the declared columns each table has ``resource``, the number of the resource that the row is from,
   and an event's ``event``: rows of one event differ in their coding only, so events are counted by
   ``event``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
from sqlglot import exp

from plasmid.core.errors import DataError
from plasmid.data.fhir.loading import TYPES, Deadline, Loader
from plasmid.data.fhir.reading import read_files
from plasmid.data.fhir.server import Server, base_of, read_token
from plasmid.data.fhir.store import TABLES, Store
from plasmid.data.fhir.tally import Tally
from plasmid.data.settings import FhirConnection
from plasmid.data.source import BATCH_ROWS, LocalTable, Trouble


def open_fhir(
    connection: FhirConnection,
    folder: Path,
    *,
    limit_s: float,
    scratch: Path | None = None,
    leaves_out: bool = False,
) -> FhirSource:
    """Read everything that *connection* shows.

    Parameters
    ----------
    folder
        The site's; the connection's paths are relative to it.
    limit_s
        How long reading may take, in seconds, and each query after it.
    scratch
        As :class:`plasmid.data.fhir.store.Store`.
    leaves_out
        What is wrong with a resource leaves it out; False refuses all for one.

    Raises
    ------
    DataError
        ``data.source_down``, ``data.source_denied``, ``data.source_timeout``, and the problems of
        :meth:`plasmid.data.fhir.loading.Loader.load`.
    """
    deadline, tally, store = Deadline(limit_s), Tally(), Store(scratch)
    broken = ""
    try:
        if connection.url is None:
            path = folder / str(connection.path)
            loader = Loader(store, tally, connection.profiles, leaves_out=leaves_out)
            loader.load(read_files(path, tally), deadline, str(connection.path))
        else:
            base = base_of(connection.url)
            token = read_token(folder / connection.token_file) if connection.token_file else None
            with Server(base, token, deadline) as server:
                loader = Loader(store, tally, connection.profiles, base.lower(), leaves_out=leaves_out)
                loader.load(server.read(TYPES, tally), deadline, base)
    except duckdb.Error as error:
        broken = type(error).__name__  # its text may quote a cell
    except BaseException:
        store.close()
        raise
    if broken:
        store.close()
        what = f"The rows could not be stored for the time of the query ({broken})."
        raise DataError("data.source_down", what, "Make room in the folder for temporary files.")
    return FhirSource(store, tally, limit_s, leaves_out=leaves_out)


class FhirSource:
    """An open connection; see :class:`plasmid.data.source.Source`."""

    dialect = "duckdb"

    def __init__(self, store: Store, tally: Tally, limit_s: float, *, leaves_out: bool = False) -> None:
        self._leaves_out = leaves_out
        self._store = store
        self._tally = tally
        self._limit_s = limit_s

    def tables(self) -> Mapping[str, LocalTable]:
        """Return the declared tables, also those without rows."""
        found = {}
        for table in TABLES:
            relation = self._store.database.table(table)
            columns = zip(relation.columns, (str(one) for one in relation.types), strict=True)
            found[table] = LocalTable(dict(columns), len(relation))
        return found

    def check_role(self, tables: Sequence[str]) -> None:
        """Do nothing: it is opened for reading only."""

    def select(self, query: exp.Select) -> Iterator[pa.RecordBatch]:
        """Yield the rows of *query*. Raises DataError as the protocol says."""
        cursor = self._store.database.cursor()
        timer = threading.Timer(self._limit_s, cursor.interrupt)
        timer.daemon = True
        timer.start()
        try:
            yield from cursor.sql(query.sql(dialect=self.dialect)).to_arrow_reader(BATCH_ROWS)
            return
        except (duckdb.Error, pa.ArrowException) as error:
            # Its text may quote a cell: the kind of it is all that is kept.
            problem, kind = _problem(error), type(error).__name__
        finally:
            timer.cancel()
            cursor.close()
        raise problem or DataError(
            "data.source_down", f"The query ended with {kind}.", "Check the view's mapping of this table."
        )

    def troubles(self) -> list[Trouble]:
        """Return what was left out or is partial, counted."""
        return self._tally.troubles(errors=self._leaves_out)

    def locate(self, table: str, row: int) -> str:
        """Return ``resource 17 (Observation.ndjson, line 17)``; resources are counted from 0."""
        if table not in TABLES:
            raise DataError("data.source_table", f"There is no table {table!r}.", "Check the view's mapping.")
        query = f"SELECT resource FROM {table} LIMIT 1 OFFSET {int(row)}"  # noqa: S608 - checked above
        found = self._store.database.execute(query).fetchone()
        return f"resource {found[0]} ({self._store.place(found[0])})" if found else f"row {row}"

    def close(self) -> None:
        """Remove the store; calling it again does nothing."""
        self._store.close()


def _problem(error: Exception) -> DataError | None:
    if isinstance(error, duckdb.CatalogException | duckdb.BinderException):
        return DataError(
            "data.source_table",
            "A table or column of the query is not among this connection's tables.",
            "Compare the view's mapping with the tables of the connection.",
        )
    if isinstance(error, duckdb.InterruptException) or "INTERRUPT" in str(error).upper():
        return DataError(
            "data.source_timeout", "The query took too long.", "Raise limit_s of the view, or select less."
        )
    return None
