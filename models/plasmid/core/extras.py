"""Which extra brings what a connector, a transform, a report, a covariate or a recipe needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from plasmid.core.errors import DataError

_EXTRAS = {
    "fhir": "fhir",
    "flwr": "flower",
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


def is_installed(module: str) -> bool:
    """Return whether *module*, of the top level, is installed: looked up, not imported."""
    return importlib.util.find_spec(module) is not None


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
    raise missing_error(missing)


def check_installed(module: str) -> None:
    """Raise DataError (``data.library_missing``) where *module* is not installed."""
    if not is_installed(module):
        raise missing_error(module)


def missing_error(module: str) -> DataError:
    """Return the error that says which extra brings *module*."""
    return DataError(
        "data.library_missing",
        f"what was asked for needs the package {module}, which is not installed.",
        f"Install it: {install(module)}.",
    )


def install(module: str) -> str:
    """Return the command that installs *module*."""
    return f"pip install 'plasmid[{_EXTRAS[module]}]'"
