"""Put things on a hub and fetch them: push, pull, tag, retire."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from plasmid.cli.output import Format, FormatOption, Reply, plain, reply
from plasmid.cli.verbs.hub_options import EndpointOption, RepoArgument, TokenOption, hub_of
from plasmid.core.errors import UsageError, sentence

TrustOption = Annotated[
    Path | None, typer.Option("--trust", help="Keys that you have compared: who may have signed (peers.yaml)")
]


def push(
    what: Annotated[str, typer.Argument(help="An adapter's folder, or the name of a base model")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Made if there is none")],
    private: Annotated[bool, typer.Option("--private", help="For a new repository: who may see it")] = False,
    tag: Annotated[str | None, typer.Option("--tag", help="Call the new revision so")] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Of the commit")] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Of a base model: an SPDX name")] = None,
    endpoint: EndpointOption = None,
    token_file: TokenOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Put an adapter, once it is checked and its signatures hold, or a base model on a hub."""
    with reply(format) as answer:
        from plasmid.exchange import sharing

        hub = hub_of(endpoint, token_file)
        if Path(what).is_dir():
            commit, verified = sharing.push(
                hub, Path(what), repository, private=private, message=message, tag=tag
            )
            answer.data["verified"] = None if verified is None else verified.as_json()
            if verified is None:
                answer.note("It carries no signatures: who fetches it cannot verify where it comes from.")
        else:
            from plasmid.bases.store import ensure_model
            from plasmid.hubclient.bases import push_base

            commit = push_base(hub, ensure_model(what), repository, licence=licence, private=private)
        answer.data |= {"repo": repository, "commit": commit, "url": f"{hub.endpoint}/{repository}"}
        answer.say(plain(f"{repository} is at {commit[:12]}: {hub.endpoint}/{repository}"))


def pull(
    repository: RepoArgument,
    to: Annotated[
        Path | None, typer.Option("--to", help="The new folder; else the repository's name")
    ] = None,
    trust: TrustOption = None,
    endpoint: EndpointOption = None,
    token_file: TokenOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Fetch an adapter or base model into a folder, whole, and verify it; a broken download goes on.

    Every byte is compared with what the hub says, and signatures are
    verified. A broken download continues when the command runs again.
    """
    with reply(format) as answer:
        from plasmid.exchange import sharing
        from plasmid.hubclient.client import retirement_told
        from plasmid.release.folder import read_trust

        hub = hub_of(endpoint, token_file)
        name, revision = sharing.split_name(repository)
        folder = to or Path(name.partition("/")[2])
        keys = None if trust is None else read_trust(trust)
        with retirement_told():
            found = sharing.pull(hub, name, folder, revision=revision, trust=keys)
        answer.data |= {
            "repo": name,
            "commit": found.commit,
            "folder": str(folder),
            "files": found.files,
            "verified": None if found.verified is None else found.verified.as_json(),
            "retired": found.retired,
            "built_on_it": list(found.built_on_it),
        }
        _warn(answer, name, found)
        answer.say(plain(f"{folder}: {found.files} files of {name} at {found.commit[:12]}"))
        if found.verified is None:
            answer.say("Every file is as the hub says. It carries no signatures.")
        else:
            pinned = ", ".join(found.verified.pinned) or "nobody: give --trust"
            signed = f"{len(found.verified.countersigned)} of {len(found.verified.participants)} participants"
            answer.say(plain(f"Verified: countersigned by {signed}; pinned by you: {pinned}."))


def _warn(answer: Reply, name: str, found: Any) -> None:
    if found.retired is None:
        return
    answer.note(
        f"[red]retired[/red]: {plain(name)}: {plain(sentence(found.retired))} Do not use it any more."
    )
    for built in found.built_on_it:
        answer.note(plain(f"  built on it: {built}"))


def tag(
    repository: RepoArgument,
    name: Annotated[str, typer.Argument(help="The tag; it never moves")],
    message: Annotated[str | None, typer.Option("--message", "-m", help="What it stands for")] = None,
    endpoint: EndpointOption = None,
    token_file: TokenOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Give a revision a name that stays."""
    with reply(format) as answer:
        from plasmid.exchange import sharing
        from plasmid.hubclient.errors import told

        hub = hub_of(endpoint, token_file)
        repo, revision = sharing.split_name(repository)
        commit = sharing.commit_of(hub, repo, revision)
        with told():
            hub.api().create_tag(repo, tag=name, revision=commit, tag_message=message)
        answer.data |= {"repo": repo, "tag": name, "commit": commit}
        answer.say(plain(f"{repo}@{name} is {commit[:12]}"))


def retire(
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="What nobody should use any more")],
    reason: Annotated[str, typer.Option("--reason", help="One line; everybody who fetches it reads it")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    endpoint: EndpointOption = None,
    token_file: TokenOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Mark a repository as one to use no more, for good, and list what was built on it; its files stay."""
    with reply(format) as answer:
        from plasmid.exchange import sharing

        hub = hub_of(endpoint, token_file)
        repo, _ = sharing.split_name(repository)
        if not yes and not (sys.stdin.isatty() and typer.confirm(f"Retire {repo}, for good?", err=True)):
            raise UsageError(
                "usage.not_confirmed", f"{repo} is as it was: retiring cannot be undone.", "Give --yes."
            )
        said = hub.ours(repo, "retire", {"reason": reason})
        built = sharing.built_on(said)
        answer.data |= {"repo": repo, "retired": sharing.retired_of(said), "built_on_it": list(built)}
        answer.say(plain(f"{repo} is retired: {reason}"), *(plain(f"  built on it: {one}") for one in built))
