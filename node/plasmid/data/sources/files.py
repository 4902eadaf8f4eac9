"""Files as tables: CSV, Parquet, Arrow, FASTA, FASTQ and SD, by their endings, through a locked DuckDB.

Rules
-----
1. Every file is a table called by its name without the ending (and without ``.gz``). A connection is a file
   or a folder; what lies deeper is not looked at.
2. DuckDB may read exactly those files and spill to one private folder; then external access is switched off
   and the configuration locked. A query can reach nothing else, whatever it says.
3. CSV is UTF-8 text as :mod:`plasmid.recipes.rows` reads it. Arrow or DuckDB reads it first; where they find
   anything amiss, that reader, which is strict and knows lines, goes over the file and has the last word. To
   all of them, empty cells beyond the header's are nothing.
4. DuckDB does not tell names apart by case. Columns that differ in it alone are repeated ones; so are tables.
5. What is neither CSV nor columnar is handed to DuckDB as a stream of batches by its own reader.
6. A query that only picks and names columns of one file needs no engine: it is read straight
   (:mod:`plasmid.data.sources.single_file`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
from sqlglot import exp

from plasmid.core.errors import DataError
from plasmid.data.findings import HINTS, counted
from plasmid.data.settings import ENDINGS, table_kind, table_name
from plasmid.data.source import BATCH_ROWS, LocalTable, Trouble
from plasmid.data.sources.single_file import (
    File,
    described,
    is_straight,
    only_strict,
    sound,
    straight,
    stream,
    strict,
)
from plasmid.recipes.rows import MAX_LINE_CHARACTERS, open_csv

MEMORY_LIMIT = "512MB"


def files_in(path: Path) -> dict[str, File]:
    """Return the tables of a file or a folder by name, sorted.

    Raises
    ------
    DataError
        ``data.source_down``: nothing is there; ``data.source_empty``: no file with a known ending;
        ``data.source_table``: two files are called alike.
    """
    try:
        if not path.exists():
            why = "there is nothing"
        else:
            why, within = "", sorted(path.iterdir()) if path.is_dir() else [path]
    except OSError as error:
        why = f"nothing can be read ({error.strerror})"
    if why:
        raise DataError(
            "data.source_down", f"{why} at {path}.", "Correct the connection's path, or its rights."
        )
    found: dict[str, File] = {}
    for each in within:
        kind = table_kind(each)
        if kind is None or not each.is_file():
            continue
        name = table_name(each)
        twin = next((other for other in found if other.casefold() == name.casefold()), None)
        if twin is not None:
            raise DataError(
                "data.source_table",
                f"{each.name} and {found[twin].path.name} are both the table {name!r}.",
                "Rename one of them, or move it to another folder.",
            )
        found[name] = File(each, kind)
    if not found:
        raise DataError(
            "data.source_empty",
            f"{path} holds no table.",
            f"A table is a file that ends in {', '.join(sorted(ENDINGS))}.",
        )
    return found


def locked(folder: Path, allowed: Sequence[Path]) -> duckdb.DuckDBPyConnection:
    """Return a database in memory that can reach *allowed* files and spill to *folder*, and nothing else."""
    connection = duckdb.connect(":memory:")
    for setting, value in {
        "memory_limit": MEMORY_LIMIT,
        "temp_directory": str(folder),
        "allowed_paths": [str(path) for path in allowed],
        "enable_external_access": False,
        "lock_configuration": True,
    }.items():
        connection.execute(f"SET {setting} = {exp.convert(value).sql('duckdb')}")
    return connection


def open_file(
    path: Path, name: str = "rows", spill: Path | None = None, *, leaves_out: bool = False
) -> FilesSource:
    """Return the source of one file, the table *name*; CSV where its ending says nothing else."""
    return FilesSource({name: File(path, table_kind(path) or "csv")}, spill, leaves_out=leaves_out)


def open_files(path: Path, spill: Path | None = None, *, leaves_out: bool = False) -> FilesSource:
    """Return the source of the file or folder *path*; *spill* is where a private folder may be made."""
    return FilesSource(files_in(path), spill, leaves_out=leaves_out)


class FilesSource:
    """See the module; implements :class:`plasmid.data.source.Source`.

    With *leaves_out*, a molecule that cannot be read leaves its record out, and no other.
    """

    dialect = "duckdb"

    def __init__(
        self, files: Mapping[str, File], spill: Path | None = None, *, leaves_out: bool = False
    ) -> None:
        self._left_out: list[DataError] = []
        self._tell = self._left_out.append if leaves_out else None
        self.files = dict(files)
        self._spill = spill
        self._tables: dict[str, LocalTable] | None = None
        self._ragged: dict[str, tuple[int, int]] = {}
        self._problem: DataError | None = None
        self._folder: Path | None = None
        self._opened: duckdb.DuckDBPyConnection | None = None

    @property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        if self._opened is None:
            if self._spill is not None:
                self._spill.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._folder = Path(tempfile.mkdtemp(prefix=".spill-", dir=self._spill))
            self._opened = locked(self._folder, [one.path for one in self.files.values()])
        return self._opened

    def tables(self) -> Mapping[str, LocalTable]:
        """Return the files' columns; reads headers only."""
        if self._tables is None:
            self._tables = {name: described(file) for name, file in self.files.items()}
        return self._tables

    def check_role(self, tables: Sequence[str]) -> None:
        """Do nothing: it is opened for reading only."""

    def select(self, query: exp.Select) -> Iterator[pa.RecordBatch]:
        """See :meth:`plasmid.data.source.Source.select`."""
        self._problem = None
        names = {one.name for one in query.find_all(exp.Table)} & self.files.keys()
        asked = {one.name for one in query.find_all(exp.Column)}
        for name in sorted(names):
            self._check_told_apart(name, asked)
        # Whether a table is read once is DuckDB's to decide where a part of the query has a name.
        many = query.args.get("with_") is not None or sum(1 for _ in query.find_all(exp.Table)) > 1
        done, plain = 0, _projection(query, self.tables())
        direct = plain is not None and is_straight(self.files[plain[0]], asked)
        doubt = any(
            only_strict(self.files[name], list(self.tables()[name].columns), engine=not direct)
            for name in names
        )
        if not direct:
            for name in names:
                self._offer(name, asked, many=many)
        if not doubt:
            try:
                for batch in self._straight(*plain) if direct and plain else self._run(query):
                    yield batch
                    done += batch.num_rows
            except (duckdb.Error, pa.ArrowException, OSError):
                doubt = True
        if self._problem is not None:
            raise self._problem  # a stream that ends early is no error to DuckDB
        if not doubt:
            return
        csv = [name for name in names if self.files[name].kind == "csv"]
        for name in csv:
            self._offer_carefully(name, many=many)
        if not csv or (done and len(names) > 1):
            raise self._unread(names)
        try:
            yield from self._run(query.offset(done) if done else query)
        except duckdb.Error:
            doubt = False
        if self._problem is not None:
            raise self._problem
        if not doubt:
            raise self._unread(names)

    def troubles(self) -> list[Trouble]:
        """Return the ragged rows of CSV files, and molecules that were left out."""
        lost = [Trouble(one.code, one.message.removesuffix("."), one.hint) for one in self._left_out]
        return lost + [
            Trouble(
                "data.ragged_row",
                f"{f'table {name!r}: ' if len(self.files) > 1 else ''}{counted(count, 'row')} with another"
                f" number of cells than the header (first at line {line})",
                HINTS["data.ragged_row"],
            )
            for name, (count, line) in self._ragged.items()
        ]

    def locate(self, table: str, row: int) -> str:
        """Return the line of a CSV file's row, else the row's number from 1."""
        file = self.files.get(table)
        if file is None or file.kind != "csv":
            return f"row {row + 1}"
        with open_csv(file.path) as content:
            width = len(content.header)
            lines = (line for line, cells in content.rows if sound(cells, width))
            for place, line in enumerate(lines):
                if place == row:
                    return f"line {line}"
        return f"row {row + 1}"

    def close(self) -> None:
        """End DuckDB and remove what it spilled."""
        if self._opened is not None and self._folder is not None:
            self._opened.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._opened = None

    # -- how DuckDB sees each kind of file -----------------------------------------------------------

    def _straight(self, name: str, columns: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        """Yield the local *columns* (by the names that they get) of one file, without DuckDB."""
        for batch in self._watched(
            straight(self.files[name], list(dict.fromkeys(columns.values())), self._tell)
        ):
            chosen = [batch.column(local) for local in columns.values()]
            yield pa.RecordBatch.from_arrays(chosen, names=list(columns))

    def _run(self, query: exp.Select) -> Iterator[pa.RecordBatch]:
        reader = self._connection.sql(query.sql("duckdb")).to_arrow_reader(BATCH_ROWS)
        while True:
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
            except (OSError, pa.ArrowException):
                problem = duckdb.Error()
            else:
                yield batch
                continue
            raise problem

    def _check_told_apart(self, name: str, asked: set[str]) -> None:
        twice = sorted(asked & self.tables()[name].repeated.keys())
        if twice:
            raise DataError(
                "data.column_repeated",
                f"table {name!r} has more than one column {', '.join(map(repr, twice))}, in whatever case.",
                HINTS["data.column_repeated"],
            )

    def _offer(self, name: str, asked: set[str], *, many: bool) -> None:
        """Make table *name* known to DuckDB, with the columns *asked* for; *many* times read, it is kept."""
        file, columns = self.files[name], self.tables()[name].columns
        place, view = (
            exp.convert(str(file.path)).sql("duckdb"),
            exp.to_identifier(name, quoted=True).sql("duckdb"),
        )
        for kind in ("VIEW", "TABLE"):  # of an earlier query; the wrong kind is an error
            with suppress(duckdb.Error):
                self._connection.execute(f"DROP {kind} IF EXISTS {view}")
        if file.kind == "csv":
            with open_csv(file.path) as content:
                header = content.header
            spelled = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(len(header)))
            given = ", ".join(
                f"c{header.index(column)} AS {exp.to_identifier(column, quoted=True).sql('duckdb')}"
                for column in columns
            )
            how = (
                f"auto_detect = false, header = true, columns = {{{spelled}}}, delim = ',', quote = '\"',"
                f" escape = '\"', strict_mode = true, max_line_size = {4 * MAX_LINE_CHARACTERS},"
                " allow_quoted_nulls = false, hive_partitioning = false"
            )
            text = f"SELECT {given} FROM read_csv({place}, {how})"  # noqa: S608 - quoted names only
            self._connection.execute(f"CREATE TEMP VIEW {view} AS {text}")
        elif file.kind == "parquet":
            self._connection.execute(
                f"CREATE TEMP VIEW {view} AS SELECT * FROM"  # noqa: S608 - the same
                f" read_parquet({place}, hive_partitioning = false)"
            )
        else:
            wanted = [column for column in columns if column in asked]
            rows = iter(self._watched(stream(file, wanted, self._tell)))
            first = next(rows, None)
            if self._problem is not None:
                raise self._problem
            if first is None:
                raise DataError(
                    "data.empty", f"the {file.kind} table {name!r} has no rows.", "Give at least one."
                )
            self._offer_stream(name, first.schema, _joined(first, rows), many=many)

    def _offer_stream(
        self, name: str, schema: pa.Schema, rows: Iterator[pa.RecordBatch], *, many: bool
    ) -> None:
        """Make *rows*, which can be read once, the table *name*; *many* times read, they are kept."""
        view = exp.to_identifier(name, quoted=True).sql("duckdb")
        reader = pa.RecordBatchReader.from_batches(schema, rows)
        if not many:
            self._connection.register(name, reader)
            return
        self._connection.register("plasmid stream", reader)
        try:
            self._connection.execute(f'CREATE TEMP TABLE {view} AS SELECT * FROM "plasmid stream"')  # noqa: S608
        except duckdb.Error:
            self._problem = self._problem or self._unread({name})
        if self._problem is not None:
            raise self._problem

    def _offer_carefully(self, name: str, *, many: bool) -> None:
        """Replace a CSV table by what the strict reader says of its file."""
        view = exp.to_identifier(name, quoted=True).sql("duckdb")
        self._connection.execute(f"DROP VIEW IF EXISTS {view}")
        schema = pa.schema([(column, pa.string()) for column in self.tables()[name].columns])
        rows = strict(self.files[name].path, schema, lambda count, line: self._tell_ragged(name, count, line))
        self._offer_stream(name, schema, self._watched(rows), many=many)

    def _tell_ragged(self, name: str, count: int, line: int) -> None:
        self._ragged[name] = (count, line)

    def _watched(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield *batches*; keep what they raise, which DuckDB would turn into an error of its own."""
        try:
            yield from batches
        except DataError as error:
            self._problem = error
            self._problem.__traceback__ = None

    def _unread(self, names: Iterable[str]) -> DataError:
        files = ", ".join(sorted(self.files[name].path.name for name in names)) or "the query"
        return DataError(
            "data.source_damaged", f"{files} cannot be read to the end.", "Check that the files are whole."
        )


def _joined(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def _projection(query: exp.Select, known: Mapping[str, LocalTable]) -> tuple[str, dict[str, str]] | None:
    """Return the table of a query that only picks and names columns of one, and those by name; or None."""
    source = query.args.get("from_")
    given = {name for name, value in query.args.items() if value} - {"expressions", "from_", "kind"}
    if given or source is None or not isinstance(source.this, exp.Table) or source.this.name not in known:
        return None
    if source.this.args.get("joins"):
        return None
    columns = {}
    for one in query.expressions:
        column = one.unalias()
        if not isinstance(column, exp.Column):
            return None
        columns[one.alias_or_name] = column.name
    there = known[source.this.name].columns.keys() >= set(columns.values())
    return (source.this.name, columns) if there and len(columns) == len(query.expressions) else None
