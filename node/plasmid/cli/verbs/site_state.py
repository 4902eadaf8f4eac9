"""What a site is doing, and the owner's stop: status, pause, resume."""

from __future__ import annotations

import getpass
from typing import Annotated, Any

import typer

from plasmid.cli.output import Format, FormatOption, plain, reply
from plasmid.cli.site_home import HomeOption, site_at
from plasmid.gateway import pause as owner
from plasmid.gateway.status import is_up, site_status

ByOption = Annotated[
    str | None, typer.Option("--by", help="Who you are, for the log; default: your login name")
]


def status(home: HomeOption = None, format: FormatOption = Format.text) -> None:  # noqa: A002 - the option's name
    """Say whether the site is up, what runs, what is left of its budgets, and what it last did."""
    with reply(format) as answer:
        found = site_status(site_at(home))
        answer.data |= found
        answer.say(*_lines(found))


def _lines(found: dict[str, Any]) -> list[str]:
    up = "[bold]up[/bold]" if found["up"] else "[bold]not running[/bold]"
    lines = [f"{found['site']} of {plain(found['organisation'])}: {up}"]
    paused = found["paused"]
    if paused:
        said = f"PAUSED by {paused['by']} since {paused['time'] or 'unknown'}: {paused['reason']}"
        lines.append(plain(said))
    at = found["coordinator"]
    if at is None:
        lines.append("Coordinator: not enrolled")
    else:
        heard = f", last heard {at['heard']}" if at["heard"] else ""
        via = ", through a proxy that reads TLS" if at["end_to_end"] is False else ""
        lines.append(
            f"Coordinator: {at['url']}, {'reachable' if at['reachable'] else 'NOT reachable'}{heard}{via}"
        )
    if found["certificate_ends"]:
        lines.append(f"Certificate until {found['certificate_ends']}")
    if found["isolation"]:
        lines.append(f"Workers are kept in: {found['isolation']}")
    for run, at_ in found["runs"].items():
        lines.append(f"  run {run}: round {at_['round']}, step {at_['step']} of {at_['steps']}")
    if found["up"] and not found["runs"]:
        lines.append("No run is under way.")
    for row in found["budgets"]:
        left = row["epsilon"]["left"]
        rest = "no budget" if left is None else f"epsilon {left:g} left of {row['epsilon']['budget']:g}"
        lines.append(f"  population {row['population']}: {rest}")
    last = found["last_entry"]
    lines.append(
        f"Last in the log: {last['time']} {last['action']} ({last['result']})"
        if last
        else "The log is empty."
    )
    lines += [f"Not known: {plain(problem)}" for problem in found["problems"]]
    return lines


def pause(
    reason: Annotated[str, typer.Option(help="Why, for the log")],
    by: ByOption = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Stop everything at this site now: every run ends here, nothing leaves, until 'resume'.

    Nothing leaves and nothing is admitted, through restarts. Needs no
    passphrase and no coordinator.
    """
    with reply(format) as answer:
        site = site_at(home)
        site.config()
        made = owner.pause(site, by=by or getpass.getuser(), reason=reason)
        answer.data |= {"by": made.by, "time": made.time, "reason": made.reason, "running": is_up(site)}
        answer.say(f"Paused by {plain(made.by)} since {made.time}: {plain(made.reason)}")


def resume(
    by: ByOption = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """End the pause. Runs that ended do not come back by themselves."""
    with reply(format) as answer:
        site = site_at(home)
        site.config()
        ended = owner.resume(site, by=by or getpass.getuser())
        answer.data["was_paused"] = ended is not None
        answer.say("The pause is over." if ended else "The site was not paused.")
