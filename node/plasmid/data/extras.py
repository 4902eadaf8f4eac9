"""Which extra brings what a connector, a transform or a report needs, where it is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from plasmid.core.errors import DataError

_EXTRAS = {
    "fhir": "fhir",
    "pint": "units",
    "presidio_analyzer": "deidentify",
    "psycopg": "sql",
    "pymysql": "sql",
    "rdkit": "molecules",
    "regex": "deidentify",
    "rensa": "readiness",
    "sqlalchemy": "sql",
    "ucumvert": "units",
}
"""Top-level module -> the extra that installs it."""


@contextmanager
def told() -> Iterator[None]:
    """Turn a missing module of an extra into DataError (``data.library_missing``): what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRAS:
            raise
    else:
        return
    raise DataError(
        "data.library_missing",
        f"this view needs the package {missing}, which is not installed.",
        f"Install it: pip install 'plasmid[{_EXTRAS[missing]}]'.",
    )
