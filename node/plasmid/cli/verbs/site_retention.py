"""What a site keeps of past runs: who was in which, and forgetting it."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from plasmid.cli.output import Format, FormatOption, plain, reply
from plasmid.cli.site_home import HomeOption, site_at
from plasmid.cli.verbs.site_state import ByOption
from plasmid.gateway import retention


def purge(
    run: Annotated[str, typer.Argument(help="The run's id")],
    by: ByOption = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Forget who was in a run. Log, ledger and the mark that it ran stay; 'derived' no longer finds it."""
    with reply(format) as answer:
        site = site_at(home)
        site.config()
        known = retention.purge(site, run, by=by or getpass.getuser())
        answer.data |= {"run": run, "purged": known}
        answer.say(
            plain(f"{run}: forgotten who was in it, and logged." if known else f"{run}: nothing is kept.")
        )


def derived(
    person: Annotated[
        str | None,
        typer.Option(help="The identifier, as the patient column has it; asked for if left out"),
    ] = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """List the runs that a person's rows were in, for a request to erase; without rows, nothing is undone.

    Without --person the identifier is asked for, so that it stays out of the
    shell's history.
    """
    with reply(format) as answer:
        site = site_at(home)
        site.config()
        identifier = person if person is not None else getpass.getpass("Identifier: ")
        records = retention.lineage_of(site)
        every = list(records.all())
        found = records.of(identifier, site.data_key())
        answer.data |= {
            "runs": [one.model_dump(mode="json") for one in found],
            "looked_at": len(every),
            "by_row_only": [one.run for one in every if not one.by_patient],
        }
        for one in found:
            answer.say(
                plain(
                    f"{one.admitted}  {one.run}  {one.document}  project {one.project}, for {one.requester}"
                )
            )
        answer.say(plain(f"{len(found)} of {len(every)} runs had rows of this person."))
        unknown = sum(not one.by_patient for one in every)
        if unknown:
            answer.say(plain(f"{unknown} runs had no patient column, so nobody knows whose rows they had."))
