"""List, show, stop and read the logs of runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from plasmid.cli.output import Format, FormatOption, reply
from plasmid.core.errors import RunFailed
from plasmid.core.files import home

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
UrlOption = Annotated[
    str | None, typer.Option("--coordinator", help="Its URL; default: this host's embedded one")
]


@contextmanager
def _at(url: str | None) -> Iterator[Any]:
    """Yield the coordinator at *url*, or the embedded one, or None if that isn't running."""
    from plasmid.client.api import Coordinator, person_credential
    from plasmid.controller.coordinator import CoordinatorHome
    from plasmid.site.enrol import Credential

    credential = person_credential()
    embedded = CoordinatorHome(home() / "coordinator")
    if url is None and (embedded.exists or not credential.enrolled):
        url, credential = embedded.endpoint(), Credential(embedded.folder / "launcher")
        if url is None or not credential.enrolled:
            yield None
            return
    coordinator = Coordinator(url, credential=credential)
    try:
        yield coordinator
    finally:
        coordinator.close()


class _Unattended:
    """The embedded coordinator's runs, read where they lie while no coordinator answers for them."""

    def __init__(self) -> None:
        from plasmid.controller.coordinator import CoordinatorHome
        from plasmid.controller.database import Runs
        from plasmid.link.engine import open_engine

        embedded = CoordinatorHome(home() / "coordinator")
        embedded.identity()
        self._abandoned = not embedded.locked()
        self._runs = Runs(open_engine(embedded.database_url))

    def all(self) -> list[dict[str, Any]]:
        return [self._as_it_is(run) for run in self._runs.all()]

    def show(self, run: str) -> dict[str, Any]:
        return self._as_it_is(self._runs.show(run))

    def log(self, run: str) -> list[dict[str, Any]]:
        return self._runs.log(run)

    def _as_it_is(self, run: dict[str, Any]) -> dict[str, Any]:
        from plasmid.controller.states import RunState

        left = self._abandoned and not RunState(run["state"]).final
        return {**run, "state": RunState.INTERRUPTED} if left else run


@app.command()
def ls(url: UrlOption = None, format: FormatOption = Format.text) -> None:  # noqa: A002 - the option's name
    """List all runs, newest first."""
    with reply(format) as answer, _at(url) as coordinator:
        found = coordinator.runs() if coordinator else _Unattended().all()
        answer.data["runs"] = found
        for run in found:
            answer.say(f"{run['run_id']}  {run['state']}  {run['created']}")
        if not found:
            answer.say("No runs yet. Start one: plasmid run tcr-covid")


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="The run's id")],
    url: UrlOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Show one run: state, sites, rounds, error."""
    with reply(format) as answer, _at(url) as coordinator:
        shown = coordinator.get(run).show() if coordinator else _Unattended().show(run)
        answer.data |= shown
        answer.say(
            f"{shown['run_id']}  [bold]{shown['state']}[/bold]",
            f"  digest {shown['digest']}",
            f"  {shown['rounds_done']} of {shown['rounds']} rounds, asked for by {shown['requester']}",
        )
        for site, said in shown["sites"].items():
            answer.say(f"  {site}: {'accepts' if said['accepted'] else 'refuses: ' + said['sentence']}")
        if shown["error"]:
            answer.say(
                f"  {shown['error']['message']} [{shown['error']['code']}]", f"  {shown['error']['hint']}"
            )


@app.command()
def stop(
    run: Annotated[str, typer.Argument(help="The run's id")],
    url: UrlOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Stop a run. Sites end training at their next step."""
    with reply(format) as answer, _at(url) as coordinator:
        if coordinator is None:
            shown = _Unattended().show(run)
            raise RunFailed(
                "run.not_running", f"the run {run} is {shown['state']}.", "There is nothing to stop."
            )
        found = coordinator.get(run)
        found.stop()
        answer.data["run_id"] = run
        answer.say(f"{run} is being stopped.")


@app.command()
def logs(
    run: Annotated[str, typer.Argument(help="The run's id")],
    url: UrlOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Print a run's log."""
    with reply(format) as answer, _at(url) as coordinator:
        lines = coordinator.get(run).log() if coordinator else _Unattended().log(run)
        answer.data["lines"] = lines
        for line in lines:
            answer.say(f"{line['time']}  {line['text']}")
