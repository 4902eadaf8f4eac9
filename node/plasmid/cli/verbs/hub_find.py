"""Look through a hub: ls, search, show, history."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from plasmid.cli.output import Format, FormatOption, Reply, plain, reply
from plasmid.cli.verbs.hub_options import EndpointOption, RepoArgument, TokenOption, hub_of

LimitOption = Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many")]
_SORTS = {"updated": "lastModified", "created": "createdAt"}


def ls(
    owner: Annotated[str | None, typer.Argument(help="Only this user's or organisation's")] = None,
    limit: LimitOption = 100,
    endpoint: EndpointOption = None,
    token_file: TokenOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """List what a hub has, the newest first."""
    with reply(format) as answer:
        hub = hub_of(endpoint, token_file)
        _list(answer, hub.models(author=owner, limit=limit, cardData="true"))


def search(
    words: Annotated[
        list[str] | None, typer.Argument(help="Parts of names, words of titles, or tags")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="What fits this base: OWNER/NAME or a short id")
    ] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="An SPDX name: mit")] = None,
    task: Annotated[str | None, typer.Option("--task", help="As cards say it")] = None,
    domain: Annotated[str | None, typer.Option("--domain", help="As cards say it: antibodies")] = None,
    organism: Annotated[str | None, typer.Option("--organism", help="As cards say it: homo-sapiens")] = None,
    unit: Annotated[str | None, typer.Option("--unit", help="Of privacy: record, patient, site")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A whole tag, as often as needed")] = None,
    metric: Annotated[float | None, typer.Option("--metric", help="Measured at least so")] = None,
    epsilon: Annotated[float | None, typer.Option("--epsilon", help="Charged at most so")] = None,
    sort: Annotated[
        str, typer.Option("--sort", help="updated, created, downloads, metric, epsilon or name")
    ] = "updated",
    limit: LimitOption = 50,
    endpoint: EndpointOption = None,
    token_file: TokenOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Search a hub: by words, base, task, licence, metric, epsilon. Figures are the publishers' own."""
    with reply(format) as answer:
        hub = hub_of(endpoint, token_file)
        if base is not None and "/" not in base:
            base = f"plasmid/{base}"
        named = {"base_model": base, "license": licence, "task": task, "domain": domain, "organism": organism}
        tags = [f"{kind}:{value}" for kind, value in (named | {"unit": unit}).items() if value is not None]
        found = hub.models(
            search=" ".join(words or []) or None,
            filter=[*tags, *(tag or [])] or None,
            metric=metric,
            epsilon=epsilon,
            sort=_SORTS.get(sort, sort),
            limit=limit,
            cardData="true",
        )
        _list(answer, found)


def _list(answer: Reply, found: list[dict[str, Any]]) -> None:
    from rich.table import Table

    answer.data["models"] = [_row(one) for one in found]
    table = Table("repository", "licence", "base", "metric", "epsilon", "updated", box=None, pad_edge=False)
    for row in answer.data["models"]:
        name = plain(row["id"]) + (" [red]retired[/red]" if row["retired"] else "")
        figures = ["" if row[key] is None else f"{row[key]:g}" for key in ("metric", "epsilon")]
        table.add_row(name, plain(row["licence"]), plain(row["base"]), *figures, row["updated"][:10])
    answer.say(table)
    if not found:
        answer.say("Nothing that you may see.")


def _row(one: dict[str, Any]) -> dict[str, Any]:
    tags = [tag for tag in one.get("tags") or () if isinstance(tag, str)]
    said = {
        kind: [rest for tag in tags if (rest := tag.removeprefix(f"{kind}:")) != tag and ":" not in rest]
        for kind in ("license", "base_model")
    }
    # What was merged is no base, where a base is named beside it.
    bases = [name for name in said["base_model"] if f"base_model:merge:{name}" not in tags]
    numbers = {
        key: one[key] if isinstance(one.get(key), int | float) else None
        for key in ("metric", "epsilon", "downloads")
    }
    return {
        "id": one["id"],
        "commit": one.get("sha"),
        "licence": next(iter(said["license"]), ""),
        "base": next(iter(bases or said["base_model"]), ""),
        "private": bool(one.get("private")),
        "gated": one.get("gated") or False,
        "retired": one.get("retired") if isinstance(one.get("retired"), str) else None,
        "updated": str(one.get("lastModified") or ""),
        "tags": tags,
        **numbers,
    }


def show(
    repository: RepoArgument,
    endpoint: EndpointOption = None,
    token_file: TokenOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Show a repository: card, privacy, base, licence, lineage both ways, and commands to paste."""
    with reply(format) as answer, tempfile.TemporaryDirectory() as folder:
        from plasmid.exchange.description import describe, lines
        from plasmid.exchange.sharing import split_name

        hub = hub_of(endpoint, token_file)
        name, revision = split_name(repository)
        found = describe(hub, name, revision, Path(folder))
        answer.data |= found
        if found["retired"]:
            answer.note(f"[red]retired[/red]: {plain(found['retired'])}")
        answer.say(*(plain(line) for line in lines(found)))


def history(
    repository: RepoArgument,
    limit: LimitOption = 50,
    endpoint: EndpointOption = None,
    token_file: TokenOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """List a repository's revisions, the newest first, with their tags and branches."""
    with reply(format) as answer:
        from plasmid.exchange.sharing import split_name
        from plasmid.hubclient.errors import told

        hub = hub_of(endpoint, token_file)
        name, revision = split_name(repository)
        with told():
            commits = hub.api().list_repo_commits(name, revision=revision)[:limit]
            refs = hub.api().list_repo_refs(name)
        called: dict[str, list[str]] = {}
        for ref in (*refs.branches, *refs.tags):
            called.setdefault(ref.target_commit, []).append(ref.name)
        answer.data["commits"] = [
            {
                "id": one.commit_id,
                "title": one.title,
                "authors": list(one.authors),
                "date": one.created_at.isoformat(),
                "refs": called.get(one.commit_id, []),
            }
            for one in commits
        ]
        for one in answer.data["commits"]:
            names = f"  ({', '.join(one['refs'])})" if one["refs"] else ""
            authors = ", ".join(one["authors"])
            answer.say(plain(f"{one['id'][:12]}  {one['date'][:16]}  {authors}: {one['title']}{names}"))
