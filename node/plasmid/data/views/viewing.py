"""From what the owner wrote about a view to an open source, a query and its transforms.

A connector's module is imported only where a view needs it, so that a site installs what it uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from plasmid.core import extras
from plasmid.core.errors import DataError
from plasmid.data.cohort.compile import compile_cohort
from plasmid.data.cohort.declared_tables import Check
from plasmid.data.cohort.omop import omop_tables, with_own
from plasmid.data.fhir.preset import fhir_tables
from plasmid.data.findings import WHAT, Tally, counted
from plasmid.data.settings import (
    Connection,
    Connections,
    FhirConnection,
    FilesConnection,
    SqlConnection,
    TableMap,
    ViewFile,
    table_name,
)
from plasmid.data.source import Source
from plasmid.data.transforms.base import Chain, Place, load_all
from plasmid.data.views.rows import Query, flat_query
from plasmid.recipes.columns import AnyColumn
from plasmid.recipes.protection import Unit


def open_source(
    view: ViewFile,
    connections: Connections,
    folder: Path,
    *,
    path: Path | None,
    scratch: Path,
    leaves_out: bool = False,
) -> Source:
    """Return the source that *view* names, or the one of the data folder's file *path*.

    Parameters
    ----------
    leaves_out
        What is wrong with single records leaves these out; False refuses all for one.

    Raises
    ------
    DataError
        ``data.connection_unknown``; what the connector raises.
    """
    if view.source is None:
        from plasmid.data.sources.files import open_file

        assert path is not None, "the caller has looked for the file"
        return open_file(path, table_name(path), scratch, leaves_out=leaves_out)
    if view.source not in connections.connections:
        raise DataError(
            "data.connection_unknown",
            f"the view names the connection {view.source!r}, which connections.yaml does not hold.",
            "Add it with 'plasmid data connect'.",
        )
    connection = connections.connections[view.source]
    return connect(connection, folder, scratch=scratch, limit_s=view.limit_s, leaves_out=leaves_out)


def connect(
    connection: Connection, folder: Path, *, scratch: Path, limit_s: float, leaves_out: bool = False
) -> Source:
    """Return an open *connection*; relative paths are below the site's *folder*.

    Raises
    ------
    DataError
        ``data.library_missing``: the connector's packages are not installed; what the connector raises.
    """
    with extras.told():
        return _connected(connection, folder, scratch=scratch, limit_s=limit_s, leaves_out=leaves_out)


def _connected(
    connection: Connection, folder: Path, *, scratch: Path, limit_s: float, leaves_out: bool
) -> Source:
    match connection:
        case FilesConnection():
            from plasmid.data.sources.files import open_files

            return open_files(folder / connection.path, scratch, leaves_out=leaves_out)
        case SqlConnection():
            from plasmid.data.sources.sql import open_sql

            return open_sql(connection, folder, limit_s=limit_s)
        case FhirConnection():
            from plasmid.data.sources.fhir import open_fhir

            return open_fhir(connection, folder, limit_s=limit_s, scratch=scratch, leaves_out=leaves_out)


def query_of(
    source: Source,
    view: ViewFile,
    document: Any,
    wanted: Mapping[str, AnyColumn],
    tally: Tally,
    *,
    today: date,
) -> Query:
    """Return what is asked of *source* for *document*; what a cohort's checks count is told to *tally*.

    Raises
    ------
    DataError
        As :func:`plasmid.data.views.rows.flat_query` and :func:`plasmid.data.cohort.compile.compile_cohort`;
        ``data.mapping_missing``: the view does not say which table the rows are in.
    """
    cohort = getattr(getattr(document, "data", None), "cohort", None)
    if cohort is None:
        mapped = view.tables.get("rows")
        return flat_query(source, mapped or TableMap(table=_only_table(source)), wanted, tally)
    tables = tables_of(source, view)
    compiled = compile_cohort(cohort, wanted, tables, source.dialect, today, leaves_out=tally.leaves_out)
    for check in compiled.checks:
        counts = [
            int(batch.column(0)[0].as_py() or 0) for batch in source.select(check.query) if batch.num_rows
        ]
        if sum(counts):
            tally.problem_of_rows(check.code, _counted(check, sum(counts), tables))
    return Query(compiled.select, compiled.conversions)


def tables_of(source: Source, view: ViewFile) -> dict[str, TableMap]:
    """Return how the declared tables are found: the view's preset, and what the view says itself."""
    match view.model:
        case "omop-5.4":
            return with_own(omop_tables(source.tables()), view.tables)
        case "fhir-r4":
            return with_own(fhir_tables(source.tables()), view.tables)
        case _:
            return dict(view.tables)


def _counted(check: Check, count: int, tables: Mapping[str, TableMap]) -> str:
    local = tables[check.table]
    mapped = local.column(check.column)
    column = f"column {mapped.column!r}" if mapped else f"the declared column {check.column!r}"
    return f"table {local.table!r}, {column}: {counted(count, 'row')} {WHAT[check.code]}"


def _only_table(source: Source) -> str:
    tables = list(source.tables())
    if len(tables) == 1:
        return tables[0]
    raise DataError(
        "data.mapping_missing",
        f"the connection has {len(tables)} tables, and the view does not say which one is 'rows'.",
        "Write it with 'plasmid data map', or add 'tables: {rows: {table: NAME}}' to the view.",
    )


def transforms_of(
    view: ViewFile,
    wanted: Mapping[str, AnyColumn],
    folder: Path,
    *,
    key: bytes,
    patient: str | None,
    unit: Unit = "none",
) -> Chain:
    """Return the view's transforms, ready, in order. Raises DataError with the problems of all of them."""
    chain = load_all(view.transforms)
    chain.prepare(Place(columns=wanted, patient=patient, folder=folder, key=key, unit=unit))
    return chain
