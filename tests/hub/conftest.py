"""A hub that runs; and its parts on a fresh database: SQLite, and PostgreSQL where its wheel is installed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from plasmid.hub.settings import Hub, HubSettings
from support.hub.hub_requests import client, new_repo
from support.hub.hub_server import LiveHub, served
from support.servers.postgres_server import Postgres


def settings_in(folder: Path, database_url: str | None = None) -> HubSettings:
    """Return the settings of a hub in *folder*; None: with SQLite there."""
    return HubSettings(
        folder=folder,
        database_url=database_url or f"sqlite:///{folder / 'hub.db'}",
        blobs_url=str(folder / "blobs"),
    )


@pytest.fixture(scope="session")
def postgres_url(postgres: Postgres) -> str:
    """A database of PostgreSQL, one for all tests of the hub."""
    return postgres.database("hub")


def empty_database(kind: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty database; of PostgreSQL a schema, which is made ten times faster."""
    if kind == "sqlite":
        return f"sqlite:///{folder / 'hub.db'}"
    url, schema = request.getfixturevalue("postgres_url"), f"hub_{secrets.token_hex(6)}"
    request.getfixturevalue("postgres").run(f"CREATE SCHEMA {schema}", database="hub")
    return f"{url}&options=-csearch_path%3D{schema}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once of each kind."""
    return empty_database(request.param, tmp_path, request)


@contextmanager
def opened(folder: Path, database_url: str) -> Iterator[Hub]:
    """Yield a hub with the users ann, bob and eve, and the organisation lab in which ann is admin."""
    with settings_in(folder, database_url).open() as hub:
        for name in ("ann", "bob", "eve"):
            hub.accounts.create_user(name)
        hub.accounts.create_organisation("lab")
        hub.accounts.join("lab", "ann", "admin")
        yield hub


@pytest.fixture
def hub(tmp_path: Path, database_url: str) -> Iterator[Hub]:
    """A fresh hub; see :func:`opened`."""
    with opened(tmp_path, database_url) as fresh:
        yield fresh


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_hub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub that a module's tests share; see :func:`opened`."""
    folder = tmp_path_factory.mktemp("hub")
    with opened(folder, empty_database(request.param, folder, request)) as fresh:
        yield fresh


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHub]:
    """A hub with Ada and Eve."""
    with served(tmp_path_factory.mktemp("hub")) as one:
        one.user("ada")
        one.user("eve")
        yield one


@pytest.fixture
def web(live: LiveHub) -> Iterator[httpx.Client]:
    """Ada's requests."""
    with client(live, "ada") as one:
        yield one


@pytest.fixture
def repo(web: httpx.Client) -> str:
    """A new repository of Ada's with a card and weights."""
    return new_repo(web)
