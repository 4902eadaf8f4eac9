"""A view: which slice of a site's data a document may see, and whose data it is.

Rules
-----
1. A view's digest is what approvals and policies name beside the recipe's: an approval for one view opens no
   other.
2. It covers the population, the file, the columns with their checks, the patient column and the public size.
   It doesn't cover the rows, which may grow.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from plasmid.core.canonical import digest_json
from plasmid.core.errors import DataError
from plasmid.gateway.home import SiteHome


class View(BaseModel):
    """The public description of a view.

    Attributes
    ----------
    source
        The file's name within the site's data folder; None where no data are read, or there are none.
    columns
        The contract's columns by name, as JSON values. No other column is read.
    patient
        The column whose equal cells are one person.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1
    population: str
    source: str | None
    columns: dict[str, dict[str, Any]]
    patient: str | None
    public_size: int | None

    def digest(self) -> str:
        """Return the digest of the canonical JSON."""
        return digest_json(self.model_dump(mode="json"))


def view_of(home: SiteHome, document: Any) -> View:
    """Return the view of *document* at this site, as its ``site.yaml`` and data folder are now."""
    config, contract = home.config(), getattr(document, "contract", None)
    columns = {} if contract is None else contract.columns
    return View(
        population=config.population,
        source=None if contract is None else _source(home, document.name),
        columns={name: column.model_dump(mode="json") for name, column in columns.items()},
        patient=getattr(getattr(document, "data", None), "patient", None),
        public_size=config.public_size,
    )


def view_digest(home: SiteHome, document: Any) -> str:
    """Return the digest of :func:`view_of`."""
    return view_of(home, document).digest()


def _source(home: SiteHome, name: str) -> str | None:
    try:
        return home.view(name).name
    except DataError:  # told by whoever reads it, once the policy lets it
        return None
