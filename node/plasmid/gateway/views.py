"""A view: which slice of a site's data a document may see, and whose data it is.

Rules
-----
1. A view's digest is what approvals and policies name beside the recipe's: an approval for one view opens no
   other.
2. It covers the population, the connection, the mapping, the transforms, the columns with their checks, the
   patient column and the public size. It doesn't cover the rows, which may grow, nor any secret.
3. ``views/<document name>.yaml`` describes it. Where there is none, the view is the table of the data folder
   that is called like the document, or the only one there, with every column under its own name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from plasmid.core.canonical import digest_json
from plasmid.core.errors import DataError
from plasmid.core.settings import read_settings
from plasmid.data.settings import Connections, ViewFile
from plasmid.gateway.home import SiteHome
from plasmid.recipes.documents import patient_of

_SECRETS = {"password_file", "token_file"}


class View(BaseModel):
    """The public description of a view.

    Attributes
    ----------
    source
        The file's name within the site's data folder, or the connection's; None where no data are read, or
        there are none.
    connection
        What ``connections.yaml`` says of it, but for where its secret is; None for the data folder.
    mapping
        The view file's ``model`` and ``tables``.
    transforms
        What is done to rows before any computation, in order.
    columns
        The contract's columns by name, as JSON values. No other column is read.
    patient
        The column whose equal cells are one person.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[2] = 2
    population: str
    source: str | None
    connection: dict[str, Any] | None = None
    mapping: dict[str, Any] = {}
    transforms: list[dict[str, Any]] = []
    columns: dict[str, dict[str, Any]]
    patient: str | None
    public_size: int | None

    def digest(self) -> str:
        """Return the digest of the canonical JSON."""
        return digest_json(self.model_dump(mode="json"))


@dataclass(frozen=True)
class Slice:
    """What the owner wrote about the view of one document.

    Attributes
    ----------
    file
        The view file's contents; all defaults where there is none.
    path
        The data folder's table, where the view names no connection; None if there is none that fits.
    population, public_size
        Whose data they are, and how many people are said to be in it.
    """

    file: ViewFile
    connections: Connections
    path: Path | None
    population: str
    public_size: int | None

    @property
    def source(self) -> str | None:
        """What the owner calls where the rows come from."""
        return self.file.source or (None if self.path is None else self.path.name)


def slice_of(home: SiteHome, document: Any) -> Slice:
    """Return the slice of a parsed *document* at this site, as its files are now.

    Raises
    ------
    RecipeError
        ``recipe.invalid``: a view file or ``connections.yaml`` is none.
    """
    config, name = home.config(), getattr(document, "name", "")
    written = home.views / f"{name}.yaml"
    file = read_settings(written, ViewFile) if name and written.is_file() else ViewFile()
    known = read_settings(home.connections, Connections) if home.connections.is_file() else Connections()
    return Slice(
        file=file,
        connections=known,
        path=_table(home, name) if file.source is None and hasattr(document, "contract") else None,
        population=file.population or config.population,
        public_size=file.public_size or config.public_size,
    )


def view_of(home: SiteHome, document: Any) -> View:
    """Return the view of *document* at this site. Raises as :func:`slice_of`."""
    return described(slice_of(home, document), document)


def described(part: Slice, document: Any) -> View:
    """Return the public description of what *document* may see of *part*."""
    contract = getattr(document, "contract", None)
    columns = {} if contract is None else contract.columns
    connection = None if part.file.source is None else part.connections.connections.get(part.file.source)
    return View(
        population=part.population,
        source=None if contract is None else part.source,
        connection=None if connection is None else connection.model_dump(mode="json", exclude=_SECRETS),
        mapping={}
        if contract is None
        else part.file.model_dump(mode="json", include={"model", "tables"}, exclude_defaults=True),
        transforms=[] if contract is None else part.file.transforms,
        columns={name: column.model_dump(mode="json") for name, column in columns.items()},
        patient=patient_of(document),
        public_size=part.public_size,
    )


def view_digest(home: SiteHome, document: Any) -> str:
    """Return the digest of :func:`view_of`."""
    return view_of(home, document).digest()


def _table(home: SiteHome, name: str) -> Path | None:
    try:
        return home.table(name)
    except DataError:  # told by whoever opens it, once the policy lets it
        return None
