"""Users, organisations, roles and tokens of a hub on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from plasmid.cli.output import Format, FormatOption, plain, reply
from plasmid.core.clock import stamp
from plasmid.hub.accounts.accounts import Accounts, Token
from plasmid.hub.settings import HubSettings
from plasmid.hub.store.records import Account
from plasmid.hub.verb import HomeOption

user = typer.Typer(add_completion=False, no_args_is_help=True, help="Make and list a hub's users.")
organisation = typer.Typer(add_completion=False, no_args_is_help=True, help="Make a hub's organisations.")
member = typer.Typer(add_completion=False, no_args_is_help=True, help="Give users roles in organisations.")
token = typer.Typer(add_completion=False, no_args_is_help=True, help="Make, list and revoke users' tokens.")

Name = Annotated[str, typer.Argument(help="Letters, digits, '.', '_' and '-'; at most 96")]
Organisation = Annotated[str, typer.Argument(help="The organisation's name")]
User = Annotated[str, typer.Argument(help="The user's name")]


class Level(StrEnum):
    """What a role or a token allows; each includes those before it."""

    read = "read"
    write = "write"
    admin = "admin"


@contextmanager
def _accounts(home: Path | None) -> Iterator[Accounts]:
    with HubSettings.from_environment(home).open() as hub:
        yield hub.accounts


def _said(account: Account) -> dict[str, Any]:
    return {
        "name": account.name,
        "kind": account.kind,
        "email": account.email,
        "organisations": dict(account.organisations),
    }


def _token(known: Token) -> dict[str, Any]:
    times = {name: getattr(known, name) for name in ("created", "expires", "used")}
    return asdict(known) | {name: time and stamp(time) for name, time in times.items()}


@user.command("add")
def add_user(
    name: Name,
    email: Annotated[str | None, typer.Option(help="Shown to whoever lets people into gated models")] = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Make a user."""
    with reply(format) as answer, _accounts(home) as accounts:
        made = accounts.create_user(name, email=email)
        answer.data["account"] = _said(made)
        following = f"plasmid hub token create {made.name} --name laptop --scope write"
        answer.say(f"Made the user {made.name}.", f"Next: {following}")


@user.command("ls")
def list_users(home: HomeOption = None, format: FormatOption = Format.text) -> None:  # noqa: A002 - the option's name
    """List users and organisations."""
    with reply(format) as answer, _accounts(home) as accounts:
        found = accounts.all()
        answer.data["accounts"] = [_said(known) for known in found]
        for known in found:
            roles = ", ".join(f"{role} in {name}" for name, role in known.organisations.items())
            answer.say(f"  {known.kind} {known.name}{f': {roles}' if roles else ''}")
        if not found:
            answer.say("There are no users; 'plasmid hub user add NAME' makes one.")


@organisation.command("add")
def add_organisation(
    name: Name,
    admin: Annotated[str | None, typer.Option(help="A user who administers it")] = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Make an organisation."""
    with reply(format) as answer, _accounts(home) as accounts:
        if admin is not None:
            accounts.get(admin)  # before anything is made
        made = accounts.create_organisation(name)
        if admin is not None:
            accounts.join(made.name, admin, "admin")
        answer.data |= {"account": _said(made), "members": accounts.members(made.name)}
        answer.say(f"Made the organisation {made.name}.")


@organisation.command("ls")
def list_organisations(
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """List organisations and who has a role in them."""
    with reply(format) as answer, _accounts(home) as accounts:
        names = [known.name for known in accounts.all() if known.kind == "organisation"]
        answer.data["organisations"] = {name: accounts.members(name) for name in names}
        for name, roles in answer.data["organisations"].items():
            answer.say(f"  {name}: {', '.join(f'{who} ({role})' for who, role in roles.items()) or 'nobody'}")


@member.command("add")
def add_member(
    organisation: Organisation,
    user: User,
    role: Annotated[Level, typer.Option(help="What the user may do there")] = Level.read,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Give a user a role in an organisation, instead of the present one."""
    with reply(format) as answer, _accounts(home) as accounts:
        accounts.join(organisation, user, role.value)
        answer.data["members"] = accounts.members(organisation)
        answer.say(f"{user} has the role {role.value} in {organisation}.")


@member.command("remove")
def remove_member(
    organisation: Organisation,
    user: User,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Take a user's role in an organisation away."""
    with reply(format) as answer, _accounts(home) as accounts:
        accounts.leave(organisation, user)
        answer.data["members"] = accounts.members(organisation)
        answer.say(f"{user} has no role in {organisation} any more.")


@member.command("ls")
def list_members(
    organisation: Organisation,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """List who has a role in an organisation."""
    with reply(format) as answer, _accounts(home) as accounts:
        answer.data["members"] = accounts.members(organisation)
        for name, role in answer.data["members"].items():
            answer.say(f"  {name}: {role}")


@token.command("create")
def create_token(
    user: User,
    name: Annotated[str, typer.Option(help="What it is for, 'laptop' for instance")],
    scope: Annotated[
        Level, typer.Option(help="The most that it allows, whatever the user's roles")
    ] = Level.read,
    days: Annotated[float | None, typer.Option(help="Until it expires; default: never", min=0)] = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Make a token of a user, and show it: this once."""
    with reply(format) as answer, _accounts(home) as accounts:
        made, secret = accounts.create_token(user, name, scope=scope.value, days=days)
        answer.data |= {"token": _token(made), "secret": secret}
        answer.say(
            f"Token {made.id} of {made.account}, scope {made.scope}: {secret}",
            "It is not shown again. The user keeps it with 'hf auth login'.",
        )


@token.command("ls")
def list_tokens(
    user: Annotated[str | None, typer.Argument(help="Whose; default: everybody's")] = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """List tokens, without their secrets."""
    with reply(format) as answer, _accounts(home) as accounts:
        found = accounts.tokens(user)
        answer.data["tokens"] = [_token(known) for known in found]
        for known in found:
            used = stamp(known.used) if known.used else "never"
            until = stamp(known.expires) if known.expires else "for good"
            what = f"{known.account}: {plain(known.name)}, {known.scope}"
            answer.say(f"  {known.id}  {what}, until {until}, used {used}")
        if not found:
            answer.say("There are no tokens.")


@token.command("revoke")
def revoke_token(
    token: Annotated[str, typer.Argument(help="Its id ('token ls' lists them), or its beginning")],
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Revoke a token, at once and for good."""
    with reply(format) as answer, _accounts(home) as accounts:
        gone = accounts.revoke(token)
        answer.data["token"] = _token(gone)
        answer.say(f"The token {gone.id} of {gone.account} ({plain(gone.name)}) opens nothing any more.")
