"""Connect a site to the data that its owner has: connections, mappings, and whether a view is ready."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from plasmid.cli.output import Format, FormatOption, plain, reply
from plasmid.cli.site_home import HomeOption, site_at
from plasmid.core.errors import DataError, UsageError
from plasmid.core.files import write_atomic
from plasmid.core.settings import dump_settings, read_settings
from plasmid.data.settings import (
    Connection,
    Connections,
    FhirConnection,
    FilesConnection,
    SqlConnection,
    table_kind,
)
from plasmid.gateway.home import SiteHome
from plasmid.gateway.views import described, slice_of
from plasmid.recipes.load import load_recipe

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

RecipeArgument = Annotated[str, typer.Argument(help="A recipe's name or file")]
LimitOption = Annotated[
    float, typer.Option("--limit-s", help="How long reaching it may take, in seconds", min=1)
]
SHOWN_COLUMNS = 12


@app.command()
def connect(
    name: Annotated[str, typer.Argument(help="What to call it: lower case, digits, - and _")],
    target: Annotated[str, typer.Argument(help="A file or folder, a database URL, or a FHIR server's URL")],
    schema: Annotated[str | None, typer.Option(help="The database schema that holds the tables")] = None,
    password_file: Annotated[
        str | None, typer.Option(help="A file of the password, in the site's folder; nobody else may read it")
    ] = None,
    ask_password: Annotated[
        bool, typer.Option("--ask-password", help="Ask for the password and keep it in secrets/NAME")
    ] = False,
    token_file: Annotated[str | None, typer.Option(help="A file of a FHIR server's bearer token")] = None,
    profile: Annotated[
        list[str] | None, typer.Option(help="A FHIR profile that is accepted; may be repeated")
    ] = None,
    allow_writable_role: Annotated[
        bool, typer.Option("--allow-writable-role", help="Accept a role that may write to the tables")
    ] = False,
    limit_s: LimitOption = 600.0,
    home: HomeOption = None,
    form: FormatOption = Format.text,
) -> None:
    """Try a connection, list its tables, and keep it under NAME. Of FHIR all is read, else no row.

    TARGET is a file, a folder, a database's URL or a FHIR server's. A
    connection of that name is replaced.
    """
    with reply(form, extra="worker") as answer:
        site = site_at(home)
        site.config()
        known = _connections(site)
        _check_name(name)
        if ask_password:
            password_file = f"secrets/{name}"
        given: dict[str, Any] = {
            "schema_name": schema,
            "password_file": password_file,
            "token_file": token_file,
            "profiles": profile or [],
            "writable_role": "allow" if allow_writable_role else "refuse",
        }
        connection = _connection(site, target, given)
        if ask_password:
            secret = getpass.getpass(f"Password for {name}: ").encode() + b"\n"
            write_atomic(site.folder / f"secrets/{name}", secret, mode=0o600)
        with _opened(site, connection, limit_s) as source:
            tables = source.tables()
            source.check_role(list(tables))
        kept = Connections(connections={**known.connections, name: connection})
        write_atomic(site.connections, dump_settings(kept.model_dump(exclude_defaults=True, mode="json")))
        answer.data |= {
            "connection": name,
            "kind": connection.kind,
            "tables": {
                table: {"columns": dict(one.columns), "rows": one.rows} for table, one in tables.items()
            },
        }
        answer.say(plain(f"{name}: {len(tables)} {'table' if len(tables) == 1 else 'tables'}"))
        for table, one in tables.items():
            columns = list(one.columns)
            more = f" and {len(columns) - SHOWN_COLUMNS} more" if len(columns) > SHOWN_COLUMNS else ""
            rows = "" if one.rows is None else f", {one.rows:,} rows"
            answer.say(plain(f"  {table}{rows}: {', '.join(columns[:SHOWN_COLUMNS])}{more}"))
        answer.say(plain(f"Next: plasmid data map RECIPE --source {name}"))


@app.command("map")
def map_(
    recipe: RecipeArgument,
    source: Annotated[
        str | None, typer.Option(help="A connection; default: the table in the site's data folder")
    ] = None,
    table: Annotated[str | None, typer.Option(help="The local table of the rows")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a view that is there")] = False,
    limit_s: LimitOption = 600.0,
    home: HomeOption = None,
    form: FormatOption = Format.text,
) -> None:
    """Propose how local tables, columns and codes become the recipe's, in views/RECIPE.yaml.

    What is only near is marked '# check', what is missing '# missing':
    correct it.
    """
    with reply(form, extra="worker") as answer:
        from plasmid.data.views.proposing import propose

        site, document = site_at(home), load_recipe(recipe).parsed
        path = site.views / f"{document.name}.yaml"
        if path.exists() and not force:
            raise UsageError(
                "usage.view_exists",
                f"there is a view already in {path}.",
                "Correct it, or replace it with --force.",
            )
        known = _connections(site).connections
        if source is not None and source not in known:
            raise DataError(
                "data.connection_unknown",
                f"there is no connection {source!r}; there are {', '.join(known) or 'none'}.",
                "Make it with 'plasmid data connect'.",
            )
        connection = (
            known[source] if source else FilesConnection(kind="files", path=str(site.table(document.name)))
        )
        with _opened(site, connection, limit_s) as opened:
            proposal = propose(opened, recipe, source, document, table=table)
        write_atomic(path, proposal.text.encode())
        answer.data |= {"view": str(path), "doubtful": proposal.doubtful}
        answer.say(*map(plain, proposal.text.splitlines()))
        doubt = f"{proposal.doubtful} lines to look at" if proposal.doubtful else "nothing is in doubt"
        answer.say(plain(f"{path}: {doubt}. Next: plasmid data check {recipe}"))


@app.command()
def check(
    recipe: RecipeArgument,
    home: HomeOption = None,
    form: FormatOption = Format.text,
) -> None:
    """Read the recipe's view, and say whether it is ready, and why not. Exit status 1: it is not.

    The report has the view's digest, the counts of each transform, and counts
    that are masked below 11 people and rounded. Nothing leaves the site.
    """
    with reply(form, extra="worker") as answer:
        from plasmid.data.readiness.checking import check_view

        site, document = site_at(home), load_recipe(recipe).parsed
        part = slice_of(site, document)
        if part.source is None:
            site.table(document.name)  # says why there is none
        today = datetime.now(UTC).date()
        checked = check_view(
            part.file,
            part.connections,
            document,
            folder=site.folder,
            path=part.path,
            scratch=site.scratch,
            key=site.data_key(),
            today=today,
            progress=lambda rows: answer.note(plain(f"{rows:,} rows read")),
        )
        view = described(part, document).digest()
        answer.data |= {
            "view": view,
            "population": part.population,
            "public_size": part.public_size,
            "transforms": [{"does": does, "counts": counts} for does, counts in checked.steps],
            **checked.report.as_json(),
        }
        answer.say(plain(f"View {view} of {part.source}, population {part.population}"))
        for does, counts in checked.steps:
            answer.say(plain(f"  {does} ({', '.join(f'{what}: {count}' for what, count in counts.items())})"))
        answer.say(*[plain(f"  {sentence}") for sentence in checked.report.sentences])
        answer.say(*[plain(f"  - {reason}") for reason in (*checked.report.reasons, *checked.notices)])
        answer.say(plain(checked.report.verdict.capitalize() + "."))
        if checked.problem is not None:
            raise checked.problem
        if checked.report.verdict == "not ready":
            raise DataError(
                "data.not_ready",
                "the view is not ready.",
                "The reasons are listed above; correct the data or the view.",
            )


@app.command("ls")
def ls(home: HomeOption = None, form: FormatOption = Format.text) -> None:
    """List connections and views."""
    with reply(form) as answer:
        site = site_at(home)
        config, known = site.config(), _connections(site).connections
        views = sorted(path.stem for path in site.views.glob("*.yaml"))
        answer.data |= {
            "connections": {name: one.model_dump(mode="json") for name, one in known.items()},
            "views": views,
            "population": config.population,
            "public_size": config.public_size,
        }
        for name, one in known.items():
            where = getattr(one, "url", None) or getattr(one, "path", "")
            answer.say(plain(f"connection {name}: {one.kind}, {where}"))
        for view in views:
            answer.say(plain(f"view {view}"))
        if not known and not views:
            answer.say(plain(f"No connections and no views: tables are looked for in {config.data}."))


def _check_name(name: str) -> None:
    try:
        Connections(connections={name: FilesConnection(kind="files", path=".")})
    except ValidationError:
        good = False
    else:
        good = True
    if not good:
        raise UsageError("usage.name", f"{name!r} cannot be a connection's name.", "Use a-z, 0-9, - and _.")


def _connection(site: SiteHome, target: str, given: dict[str, Any]) -> Connection:
    def used(*names: str) -> dict[str, Any]:
        strange = [
            name for name, value in given.items() if value not in (None, [], "refuse") and name not in names
        ]
        if strange:
            raise UsageError(
                "usage.option",
                f"{', '.join(strange)} has no meaning for {target}.",
                "Leave it out.",
            )
        return {name: given[name] for name in names}

    if target.startswith(("http://", "https://")):
        return FhirConnection(kind="fhir", url=target, **used("token_file", "profiles"))
    if "://" in target:
        return SqlConnection(kind="sql", url=target, **used("schema_name", "password_file", "writable_role"))
    path = (Path.cwd() / target).resolve()
    inside = (
        str(path.relative_to(site.folder.resolve()))
        if path.is_relative_to(site.folder.resolve())
        else str(path)
    )
    if _is_fhir(path):
        return FhirConnection(kind="fhir", path=inside, **used("profiles"))
    used()
    return FilesConnection(kind="files", path=inside)


def _is_fhir(path: Path) -> bool:
    files = list(path.iterdir())[:1000] if path.is_dir() else [path]
    if any(map(table_kind, files)):
        return False  # a folder of tables with a note in JSON beside them
    return any(file.name.lower().removesuffix(".gz").endswith((".ndjson", ".json")) for file in files)


@contextmanager
def _opened(site: SiteHome, connection: Connection, limit_s: float) -> Iterator[Any]:
    from plasmid.data.views.viewing import connect as open_connection

    source = open_connection(connection, site.folder, scratch=site.scratch, limit_s=limit_s)
    try:
        yield source
    finally:
        source.close()


def _connections(site: SiteHome) -> Connections:
    return read_settings(site.connections, Connections) if site.connections.is_file() else Connections()
