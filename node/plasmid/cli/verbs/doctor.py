"""Look whether an installed site is in order, and whether its defences hold."""

from __future__ import annotations

from typing import Annotated

import typer

from plasmid.cli.keys import PassphraseFd, PassphraseFile, site_keys
from plasmid.cli.output import Format, FormatOption, Reply, reply
from plasmid.cli.site_home import HomeOption, site_at
from plasmid.core.errors import SiteFailed
from plasmid.gateway.home import SiteHome
from plasmid.owner.doctor.report import Line, State

app = typer.Typer(add_completion=False, help=__doc__)
_COLOUR = {State.ok: "green", State.warn: "yellow", State.fail: "bold red"}


@app.command()
def doctor(
    red_team: Annotated[
        bool,
        typer.Option("--red-team", help="Also attack a copy of this site, harmlessly, and say what held"),
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Leave the coordinator alone")] = False,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Check keys, rights, isolation, policy, ledger, log, clock, disk, versions and the way out.

    Each line is OK, WARN or FAIL and says what to do; exit status 1 on FAIL.
    Nothing is changed. --red-team also attacks a copy of this site,
    harmlessly, and reports which defences held.
    """
    with reply(format, extra="worker" if red_team else None) as answer:
        from plasmid.owner.doctor import CHECKS
        from plasmid.owner.doctor.report import Subject, examine

        site = site_at(home)
        site.config()
        opened = passphrase_file is not None or passphrase_fd is not None
        keys = site_keys(site, file=passphrase_file, descriptor=passphrase_fd) if opened else None
        lines = []
        for line in examine(Subject(site, keys=keys, offline=offline), CHECKS):
            _say(answer, line)
            lines.append(line)
        answer.data["checks"] = [line.as_json() for line in lines]
        failed = [line.check for line in lines if line.state is State.fail]
        if red_team:
            failed += _red_team(answer, site)
        if failed:
            raise SiteFailed(
                "site.doctor",
                f"not in order: {', '.join(dict.fromkeys(failed))}.",
                "The lines above say what to do.",
            )


def _say(answer: Reply, line: Line) -> None:
    from rich.markup import escape

    answer.say(f"[{_COLOUR[line.state]}]{line.state.value:4}[/]  {line.check:12} {escape(line.what)}")
    if line.do:
        answer.say(f"{'':19}{escape(line.do)}")


def _red_team(answer: Reply, site: SiteHome) -> list[str]:
    """Attack copies of *site*; return the names of attacks that did not hold."""
    from rich.markup import escape

    from plasmid.owner.red_team import rows, run

    outcomes = []
    for outcome in run(site):
        outcomes.append(outcome)
        row = "owner" if outcome.row is None else f"row {outcome.row}"
        word = "[green]HELD[/]" if outcome.held else "[bold red]FAIL[/]"
        answer.say(f"{word}  {row:12} {outcome.name}: {escape(outcome.what)}")
        if not outcome.held:
            answer.say(f"{'':19}{escape(outcome.detail)}")
    held = rows(outcomes)
    answer.data["red_team"] = {
        "attacks": [outcome.as_json() for outcome in outcomes],
        "held": sum(outcome.held for outcome in outcomes),
        "tried": len(outcomes),
        "rows_held": sum(held.values()),
        "rows_tried": len(held),
    }
    answer.say(
        f"{sum(outcome.held for outcome in outcomes)} of {len(outcomes)} attacks held, "
        f"{sum(held.values())} of {len(held)} rows of the list of threats"
    )
    return [outcome.name for outcome in outcomes if not outcome.held]
