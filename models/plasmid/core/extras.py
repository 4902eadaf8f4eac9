"""Which extra brings what a verb, a connector, a transform, a report, a covariate or a recipe needs.

Rules
-----
1. The table names the top-level modules that Plasmid imports of each extra; a test compares it with
   ``pyproject.toml``.
2. A verb whose work needs an extra asks :func:`need` first, so that one sentence names all that is missing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from plasmid.core.errors import DataError, UsageError

EXTRAS: dict[str, tuple[str, ...]] = {
    "page": ("jinja2", "markupsafe", "starlette", "uvicorn"),
    "worker": ("accelerate", "duckdb", "huggingface_hub", "opacus", "peft", "pyarrow", "safetensors",
               "sqlglot", "torch", "transformers"),
    "flower": ("flwr",),
    "sql": ("psycopg", "pymysql", "sqlalchemy"),
    "fhir": ("fhir",),
    "molecules": ("rdkit",),
    "units": ("pint", "ucumvert"),
    "deidentify": ("presidio_analyzer", "regex"),
    "readiness": ("rensa",),
    "s3": ("s3fs",),
    "plots": ("matplotlib",),
    "platform": ("alembic", "fastapi", "fsspec", "httptools", "markdown_it", "ray", "sklearn", "sqlalchemy"),
}  # fmt: skip
"""Extra -> top-level modules. Of two extras that bring a module, an error names the one that comes first."""
INCLUDES = {"worker": ("page",), "platform": ("flower", "worker")}
"""Extra -> the extras that it installs, too."""


def is_installed(module: str) -> bool:
    """Return whether *module*, of the top level, is installed: looked up, not imported."""
    return importlib.util.find_spec(module) is not None


def lacking(extra: str) -> list[str]:
    """Return the modules of *extra*, and of the extras that it includes, that are not installed."""
    own = [module for module in EXTRAS[extra] if not is_installed(module)]
    return own + [module for other in INCLUDES.get(extra, ()) for module in lacking(other)]


def need(extra: str) -> None:
    """Raise UsageError (``usage.extra_missing``) unless all of *extra* is installed."""
    missing = lacking(extra)
    if missing:
        named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise UsageError(
            "usage.extra_missing",
            f"this command needs the extra {extra}, of which is not installed: {named}.",
            f"Install it: pip install 'plasmid[{extra}]'.",
        )


def not_importable(error: ModuleNotFoundError) -> UsageError:
    """Return the error of a verb that met a missing module: the extra that brings it, if one does."""
    module = (error.name or "").partition(".")[0]
    known = any(module in modules for modules in EXTRAS.values())
    return UsageError(
        "usage.extra_missing",
        f"this command needs the package {error.name}, which is not installed.",
        f"Install it: {install(module)}." if known else "Run 'pip check', and install what it names.",
    )


@contextmanager
def told() -> Iterator[None]:
    """Turn a missing module of an extra into DataError (``data.library_missing``): what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not any(missing in modules for modules in EXTRAS.values()):
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
    return f"pip install 'plasmid[{next(extra for extra, modules in EXTRAS.items() if module in modules)}]'"
