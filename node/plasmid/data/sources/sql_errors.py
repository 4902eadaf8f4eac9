"""What a database driver's exception means. Its text is looked at for words, never repeated.

PostgreSQL: SQLSTATE, appendix A of its manual. MySQL and MariaDB: server error numbers. SQLite: names of
extended result codes. SQL Server by ODBC: SQLSTATE. Oracle: ORA and DPY numbers. Snowflake: error numbers.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

from plasmid.core.errors import DataError


class Problem(StrEnum):
    """What can go wrong with a database."""

    unreachable = "unreachable"
    unknown_host = "unknown host"
    refused = "refused"
    login = "login"
    database = "database"
    unopened = "unopened"
    lost = "lost"
    busy = "busy"
    missing = "missing"
    denied = "denied"
    timeout = "timeout"
    snapshot = "snapshot"
    value = "value"
    other = "other"


_P = Problem
_POSTGRES = {
    "28": _P.login, "3D000": _P.database, "42P01": _P.missing, "42703": _P.missing, "3F000": _P.missing,
    "42501": _P.denied, "57014": _P.timeout, "25P03": _P.timeout, "08": _P.lost, "57P": _P.lost,
    "53": _P.busy, "22": _P.value,
}  # fmt: skip
_MYSQL = {
    1045: _P.login, 1698: _P.login, 1049: _P.database, 1044: _P.denied, 1142: _P.denied, 1143: _P.denied,
    1146: _P.missing, 1054: _P.missing, 3024: _P.timeout, 1969: _P.timeout, 1317: _P.timeout,
    2003: _P.unreachable, 2002: _P.unreachable, 2005: _P.unreachable, 2006: _P.lost, 2013: _P.lost,
    1053: _P.lost, 1927: _P.lost, 1040: _P.busy, 1205: _P.busy,
}  # fmt: skip
_SQLITE = {
    "SQLITE_INTERRUPT": _P.timeout, "SQLITE_CANTOPEN": _P.unopened,
    "SQLITE_NOTADB": _P.unopened, "SQLITE_CORRUPT": _P.unopened, "SQLITE_BUSY": _P.busy,
    "SQLITE_LOCKED": _P.busy, "SQLITE_PERM": _P.denied, "SQLITE_AUTH": _P.denied,
}  # fmt: skip
_ODBC = {
    "28000": _P.login, "08001": _P.unreachable, "08S01": _P.lost, "4060": _P.database, "42S02": _P.missing,
    "42S22": _P.missing, "HYT": _P.timeout, "22": _P.value,
}  # fmt: skip
_ORACLE = {
    1017: _P.login, 12514: _P.database, 12505: _P.database, 942: _P.missing, 904: _P.missing, 1031: _P.denied,
    1013: _P.timeout, 4024: _P.timeout, 3113: _P.lost, 3114: _P.lost, 3135: _P.lost, 4011: _P.lost,
    6005: _P.unreachable, 12541: _P.unreachable, 1555: _P.snapshot, 1722: _P.value,
}  # fmt: skip
_SNOWFLAKE = {
    250001: _P.login, 390100: _P.login, 2003: _P.missing, 904: _P.missing, 3001: _P.denied, 604: _P.timeout,
    630: _P.timeout, 250003: _P.unreachable,
}  # fmt: skip
_WORDS = (
    ("resolve", _P.unknown_host), ("not known", _P.unknown_host), ("getaddrinfo", _P.unknown_host),
    ("no password supplied", _P.login), ("authentication", _P.login), ("pg_hba", _P.login),
    ("refused", _P.refused), ("timeout", _P.unreachable), ("timed out", _P.unreachable),
)  # fmt: skip
_LOST = ("connection is", "connection already closed", "closed the connection", "consuming input failed")


def problem_of(backend: str, error: BaseException, *, connecting: bool) -> Problem:
    """Return what *error*, raised while *connecting* or by a query, means.

    Parameters
    ----------
    backend
        SQLAlchemy's name of the kind of database.
    """
    error = getattr(error, "orig", None) or error
    found = _by_code(backend, error)
    if found not in (None, Problem.unreachable):
        return found
    text = str(error).lower()
    if connecting:
        if re.search(r'role ".*" does not exist', text):
            return Problem.login
        if re.search(r'database ".*" does not exist', text):
            return Problem.database
        return next((problem for word, problem in _WORDS if word in text), Problem.unreachable)
    if backend == "sqlite" and re.search(r"no such (table|column)", text):
        return Problem.missing
    if backend == "sqlite" and "could not decode" in text:
        return Problem.value
    if backend == "mssql" and "permission was denied" in text:
        return Problem.denied
    if backend == "mssql" and "snapshot isolation" in text:
        return Problem.snapshot
    if isinstance(error, OSError) or any(words in text for words in _LOST):
        return Problem.lost
    return found or (Problem.value if type(error).__name__ == "DataError" else Problem.other)


def _by_code(backend: str, error: Any) -> Problem | None:
    first = error.args[0] if error.args else None
    match backend:
        case "postgresql":
            return _prefixed(_POSTGRES, getattr(error, "sqlstate", None))
        case "mysql" | "mariadb":
            return _MYSQL.get(first) if isinstance(first, int) else None
        case "sqlite":
            name = getattr(error, "sqlite_errorname", "")
            return next((problem for code, problem in _SQLITE.items() if name.startswith(code)), None)
        case "mssql":
            return _prefixed(_ODBC, first if isinstance(first, str) else None)
        case "oracle":
            number = re.search(r"\d+$", str(getattr(first, "full_code", "")))
            return _ORACLE.get(int(number[0])) if number else None
        case _:
            return _SNOWFLAKE.get(getattr(error, "errno", None) or 0)


def _prefixed(table: dict[str, Problem], state: str | None) -> Problem | None:
    return next((problem for code, problem in table.items() if state and state.startswith(code)), None)


_DOWN = {
    Problem.unreachable: ("does not answer", "Check that it runs and that this machine reaches it."),
    Problem.unknown_host: ("is on a host of an unknown name", "Correct the host in the URL."),
    Problem.refused: ("refuses connections", "Check that it runs, and the port in the URL."),
    Problem.login: ("refuses the user or the password", "Check the user in the URL and the password file."),
    Problem.database: ("is not there", "Correct the database's name in the URL."),
    Problem.unopened: (
        "cannot be opened or is damaged",
        "Let the site's user read it and, in WAL mode, write to its folder; try PRAGMA integrity_check.",
    ),
    Problem.lost: ("ended the connection", "Try again; its own log tells why."),
    Problem.busy: ("is locked or has no connection left", "Try again, or let the database take more."),
}


def told(problem: Problem, error: BaseException, where: str, limit_s: float) -> DataError:
    """Return what to raise for *problem* of the database *where*; of *error*, its class and code are told."""
    if problem in _DOWN:
        what, hint = _DOWN[problem]
        return DataError("data.source_down", f"{where} {what}.", hint)
    if problem == Problem.missing:
        return DataError(
            "data.source_table",
            f"{where} lacks a table or column that is asked for.",
            "Compare the view's mapping with the tables that this role sees.",
        )
    if problem == Problem.denied:
        return DataError(
            "data.source_denied",
            f"{where} does not let this role read what the view asks for.",
            "GRANT SELECT on the view's tables to the role.",
        )
    if problem == Problem.timeout:
        return DataError(
            "data.source_timeout",
            f"{where} did not deliver the view within {limit_s:g} s.",
            "Raise limit_s in the view's file, or index the columns that the view is read by.",
        )
    if problem == Problem.snapshot:
        return DataError(
            "data.source_snapshot",
            f"{where} gives no consistent read-only view of its tables.",
            "SQL Server: ALTER DATABASE ... SET ALLOW_SNAPSHOT_ISOLATION ON. Oracle: more undo retention.",
        )
    if problem == Problem.value:
        return DataError(
            "data.source_value",
            f"{where} holds a value that cannot be read or computed with as the view asks.",
            "Correct the rows, or let a view in the database leave them out.",
        )
    error = getattr(error, "orig", None) or error
    number = error.args[0] if error.args and isinstance(error.args[0], int) else None
    state = getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorname", None)
    codes = ", ".join(str(one) for one in (type(error).__name__, number, state) if one)
    return DataError(
        "data.source_failed",
        f"{where} failed ({codes}).",
        "The database's own log has the reason.",
    )
