"""What an owner writes about his data: connections, and views with their mapping. Pure, and small to import.

Rules
-----
1. ``connections.yaml`` says where data are and how to reach them. It holds no secret: a password is in a file
   of its own that only the site's user may read.
2. ``views/<name>.yaml`` says which people a view shows, where its rows come from, how local tables, columns,
   codes and units become the contract's, and what is done to rows before any computation. It is part of the
   view's digest, and so of what people approve.
3. A mapping holds names and values, never SQL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Local = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""Name of a table or column as its owner has it."""


NAMED_IN = ("SSL_CERT_FILE", "SSL_CERT_DIR", "TNS_ADMIN", "ODBCINI", "ODBCSYSINI", "KRB5_CONFIG",
            "KRB5CCNAME", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY")  # fmt: skip
"""Variables of the environment by which an owner tells a client of a server where such files are."""

ENDINGS = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".fasta": "fasta",
    ".fa": "fasta",
    ".faa": "fasta",
    ".fna": "fasta",
    ".fastq": "fastq",
    ".fq": "fastq",
    ".sdf": "sd",
    ".sd": "sd",
}
"""What a file's ending says it is; sequence and molecule files may be packed (``.gz``)."""

_PACKED = ("fasta", "fastq", "sd")


def table_kind(path: Path) -> str | None:
    """Return what kind of table the file *path* is by its ending, or None if it is none."""
    name = path.name.lower()
    kind = ENDINGS.get(Path(name.removesuffix(".gz")).suffix)
    return None if name.endswith(".gz") and kind not in _PACKED else kind


def table_name(path: Path) -> str:
    """Return what a file is called as a table."""
    return Path(path.name.removesuffix(".gz")).stem


class Strict(BaseModel):
    """A frozen model that refuses unknown keys, NaN, infinities and values of another type."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class FilesConnection(Strict):
    """A file, or a folder of files: CSV, Parquet, Arrow, FASTA, FASTQ, SD, by their endings.

    Every file is a table called by its name without the ending. ``path`` is relative to the site's folder.
    """

    kind: Literal["files"]
    path: Annotated[str, Field(min_length=1, max_length=4096)]


class SqlConnection(Strict):
    """A database by SQLAlchemy URL, without a password.

    Attributes
    ----------
    password_file
        Relative to the site's folder; its first line is the password. Nobody else may read it.
    schema_name
        Where tables are looked for; None is the role's default.
    writable_role
        ``refuse`` a role that may write to the tables that a view reads, or ``allow`` it.
    """

    kind: Literal["sql"]
    url: Annotated[str, Field(min_length=1, max_length=2000)]
    password_file: str | None = None
    schema_name: str | None = None
    writable_role: Literal["refuse", "allow"] = "refuse"


class FhirConnection(Strict):
    """FHIR R4: a file or folder of bundles or NDJSON (``path``), or the base URL of a server (``url``).

    Attributes
    ----------
    token_file
        Relative to the site's folder; its first line is sent as a bearer token.
    profiles
        Canonical URLs of ``meta.profile`` that are accepted beside the base specification's.
    """

    kind: Literal["fhir"]
    path: str | None = None
    url: str | None = None
    token_file: str | None = None
    profiles: list[str] = []

    @model_validator(mode="after")
    def _one(self) -> FhirConnection:
        if (self.path is None) == (self.url is None):
            raise ValueError("give either path or url")
        return self


Connection = Annotated[FilesConnection | SqlConnection | FhirConnection, Field(discriminator="kind")]


class Connections(Strict):
    """The contents of ``connections.yaml``."""

    connections: dict[Name, Connection] = {}


class ColumnMap(Strict):
    """How a local column becomes a declared one.

    Attributes
    ----------
    column
        The local column.
    codes
        Local value -> the contract's value. A value that is not listed is unmapped, which is an error unless
        ``other`` says what it becomes.
    other
        What a value that ``codes`` does not list becomes; None refuses it.
    unit
        UCUM unit of the local values, converted to the contract's ``unit``.
    factor, offset
        ``value * factor + offset`` instead, where units alone do not tell (mass to amount of substance).
    date_format
        ``strptime`` format of local dates that are text; None is ISO 8601.
    """

    column: Local
    codes: dict[str, str] | None = None
    other: str | None = None
    unit: str | None = None
    factor: float | None = None
    offset: float = 0.0
    date_format: str | None = None


class TableMap(Strict):
    """How a local table becomes a declared one (:mod:`plasmid.recipes.declared`).

    Attributes
    ----------
    table
        The local table.
    columns
        Declared column -> local column, or more about it.
    system
        The code system of the declared column ``code``, where no local column says it row by row.
    units
        For measurements in several units: local unit -> UCUM unit.
    """

    table: Local
    columns: dict[str, Local | ColumnMap] = {}
    system: str | None = None
    units: dict[str, str] = {}

    def column(self, declared: str) -> ColumnMap | None:
        """Return how *declared* is found, or None where it is not mapped."""
        found = self.columns.get(declared)
        return ColumnMap(column=found) if isinstance(found, str) else found


class ViewFile(Strict):
    """The contents of ``views/<name>.yaml``.

    Attributes
    ----------
    source
        Name of a connection; None is the site's data folder.
    population, public_size
        Override those of ``site.yaml``.
    model
        A preset of tables (``omop-5.4``, ``fhir-r4``) that ``tables`` adds to or overrides.
    tables
        Declared table -> local table. ``rows`` is the one of contracts without a cohort.
    transforms
        In order; each is ``{name: settings}``.
    limit_s
        How long opening the view may take.
    """

    source: Name | None = None
    population: Name | None = None
    public_size: Annotated[int, Field(ge=1, le=10**12)] | None = None
    model: Literal["omop-5.4", "fhir-r4"] | None = None
    tables: dict[Name, TableMap] = {}
    transforms: Annotated[list[dict[Name, dict[str, Any]]], Field(max_length=20)] = []
    limit_s: Annotated[float, Field(gt=0, le=86_400)] = 3600.0

    @model_validator(mode="after")
    def _single(self) -> ViewFile:
        if any(len(step) != 1 for step in self.transforms):
            raise ValueError("a transform is a map of one name to its settings")
        return self
