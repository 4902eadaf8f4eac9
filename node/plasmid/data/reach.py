"""How far a reader must reach for one view: the files of its source, and its server's port.

Rules
-----
1. A file of the data folder, or what ``connections.yaml`` names: a file, a folder, a database, a FHIR server.
2. A folder above the site's own is opened for the names in it and its tables, not for what lies deeper: the
   site's keys, policy and log would be below it.
3. Of a transform's settings, ``file`` and what ends in ``_file`` name lists in the site's folder.
4. A server is its port, on whatever host: the kernel does not judge addresses. Its client also gets what
   names and certificates are looked up in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from plasmid.data.settings import (
    NAMED_IN,
    Connections,
    FhirConnection,
    FilesConnection,
    SqlConnection,
    ViewFile,
    table_kind,
)

PORTS = {
    "postgresql": (5432,), "mysql": (3306,), "mariadb": (3306,), "mssql": (1433,), "oracle": (1521,),
    "snowflake": (443, 80), "https": (443,), "http": (80,),
}  # fmt: skip
"""Where a server listens whose address says no port; Snowflake's certificates are asked after at 80."""

_OF_EVERYBODY = ("/etc/localtime", "/sys/fs/cgroup")
"""DuckDB asks for its share of the processors, and does not take no for an answer."""

_OF_A_CLIENT = (
    "/etc/hosts", "/etc/host.conf", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/gai.conf",
    "/etc/services", "/etc/protocols", "/etc/passwd", "/etc/ssl", "/etc/pki", "/etc/ca-certificates",
    "/usr/share/ca-certificates", "/etc/odbc.ini", "/etc/odbcinst.ini", "/etc/krb5.conf", "~/.postgresql",
)  # fmt: skip


@dataclass(frozen=True)
class Reach:
    """What a reader may open and connect to.

    Attributes
    ----------
    files
        Files and folders that are there.
    shared
        Files that it writes, too: those in which SQLite says who reads a database with a write-ahead log.
    ports
        Of TCP; None where the source is no server.
    """

    files: tuple[Path, ...]
    shared: tuple[Path, ...]
    ports: tuple[int, ...] | None


def reach_of(request: dict[str, Any]) -> Reach:
    """Return what the reader of *request* needs, an ``open`` frame. Raises pydantic's ValidationError."""
    view = ViewFile.model_validate(request["view"])
    connections = Connections.model_validate(request["connections"])
    folder, ports = Path(request["folder"]), None
    shared: list[Path] = []
    found = [*map(Path, _OF_EVERYBODY), *_lists(view, folder)]
    match connections.connections.get(view.source or ""):
        case FilesConnection(path=path):
            found += _source(folder / path, folder)
        case FhirConnection(path=str(path)):
            found += _source(folder / path, folder)
        case FhirConnection(url=str(url), token_file=secret):
            ports = _ports(url)
            found += _client(folder, secret)
        case SqlConnection(url=url) if url.startswith("sqlite"):
            file = folder / urlsplit(url).path.removeprefix("/")
            found += [file, file.with_name(f"{file.name}-journal")]
            shared += [file.with_name(file.name + more) for more in ("-wal", "-shm") if _has_a_log(file)]
        case SqlConnection(url=url, password_file=secret):
            ports = _ports(url)
            found += [*_client(folder, secret), *(Path(value) for _, value in parse_qsl(urlsplit(url).query))]
    if view.source is None and request["path"] is not None:
        found.append(Path(request["path"]))
    there = tuple(path for path in found if path.is_absolute() and path.exists())
    return Reach(there, tuple(shared), ports)


def _has_a_log(database: Path) -> bool:
    """Return whether a SQLite file is read through a write-ahead log, https://sqlite.org/fileformat2.html."""
    try:
        with database.open("rb") as file:
            return file.read(20)[18:] == b"\2\2"
    except OSError:  # told by whoever opens it
        return False


def _source(path: Path, site: Path) -> Iterator[Path]:
    if path.is_dir() and site.resolve().is_relative_to(path.resolve()):
        yield from (one for one in path.iterdir() if one.is_file() and table_kind(one) is not None)
    else:
        yield path


def _lists(view: ViewFile, site: Path) -> Iterator[Path]:
    for step in view.transforms:
        for settings in step.values():
            for key, value in settings.items():
                if isinstance(value, str) and (key == "file" or key.endswith("_file")):
                    path = (site / value).resolve()
                    if path.is_relative_to(site.resolve()) and path.is_file():
                        yield path


def _client(site: Path, secret: str | None) -> Iterator[Path]:
    yield from (Path(name).expanduser() for name in _OF_A_CLIENT)
    yield from (Path(os.environ[name].removeprefix("FILE:")) for name in NAMED_IN if name in os.environ)
    if secret is not None:
        yield site / secret


def _ports(url: str) -> tuple[int, ...]:
    """Return the ports of a URL, those of further hosts in its query included."""
    parts = urlsplit(url)
    said = [unquote(parts.netloc.rpartition("@")[2])]
    said += [
        value if key == "host" else f":{value}"
        for key, value in parse_qsl(parts.query)
        if key in ("host", "port")
    ]
    named = {int(port) for one in said for port in re.findall(r":(\d{1,5})(?=,|$)", one)}
    return tuple(sorted(named)) or PORTS.get(parts.scheme.partition("+")[0], ())
