"""List, show, stop, fetch and read the logs of runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from plasmid.cli.keys import PassphraseFile
from plasmid.cli.output import Format, FormatOption, reply
from plasmid.client.progress import state_text
from plasmid.client.verbs.run import PublicHubOption, PublishOption
from plasmid.core.errors import RunFailed
from plasmid.core.files import home

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
UrlOption = Annotated[
    str | None, typer.Option("--coordinator", help="Its URL; default: this host's embedded one")
]


@contextmanager
def _at(url: str | None, passphrase_file: Path | None) -> Iterator[Any]:
    """Yield the coordinator at *url*, or the embedded one, or None if that isn't running."""
    from plasmid.client.api import Coordinator, person_credential
    from plasmid.coordinator.coordinator import CoordinatorHome
    from plasmid.gateway.keys.passphrase import drawn_file, from_file
    from plasmid.uplink.enrol import Credential

    credential = person_credential()
    embedded = CoordinatorHome(home() / "coordinator")
    rehearsal = url is None and (embedded.exists or not credential.enrolled)
    if rehearsal:
        url, credential = embedded.endpoint(), Credential(embedded.folder / "launcher")
        passphrase_file = drawn_file(credential.folder)
        if url is None or not credential.enrolled:
            yield None
            return
    passphrase = from_file(passphrase_file) if passphrase_file else None
    coordinator = Coordinator(url, credential=credential, passphrase=passphrase, rehearsal=rehearsal)
    try:
        yield coordinator
    finally:
        coordinator.close()


class _Unattended:
    """The embedded coordinator's runs, read where they lie while no coordinator answers for them."""

    def __init__(self) -> None:
        from plasmid.coordinator.coordinator import CoordinatorHome
        from plasmid.coordinator.database import Runs
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
        from plasmid.coordinator.states import RunState

        left = self._abandoned and not RunState(run["state"]).final
        return {**run, "state": RunState.INTERRUPTED} if left else run


@app.command()
def ls(
    url: UrlOption = None,
    passphrase_file: PassphraseFile = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """List all runs, newest first."""
    with reply(format) as answer, _at(url, passphrase_file) as coordinator:
        found = coordinator.runs() if coordinator else _Unattended().all()
        answer.data["runs"] = found
        for run in found:
            answer.say(f"{run['run_id']}  {state_text(run)}  {run['created']}")
        if not found:
            answer.say("No runs yet. Start one: plasmid run tcr-covid")


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="The run's id")],
    url: UrlOption = None,
    passphrase_file: PassphraseFile = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Show one run: state, sites, rounds, error.

    States: CREATED, ADMITTING, AWAITING_APPROVAL, SETTING_UP, RUNNING,
    FINISHING, and at the end SUCCEEDED, FAILED, STOPPED or INTERRUPTED.
    AWAITING_APPROVAL (3 of 6) counts signatures; the run starts by itself, or
    ends with run.approval_expired. A coordinator that starts again continues
    to wait; every other unfinished run is INTERRUPTED.
    """
    with reply(format) as answer, _at(url, passphrase_file) as coordinator:
        shown = coordinator.get(run).show() if coordinator else _Unattended().show(run)
        answer.data |= shown
        answer.say(
            f"{shown['run_id']}  [bold]{state_text(shown)}[/bold]",
            f"  digest {shown['digest']}",
            f"  {shown['rounds_done']} of {shown['rounds']} rounds, asked for by {shown['requester']} "
            f"in {shown['project']['name']}",
        )
        for site, said in shown["sites"].items():
            answer.say(f"  {site}: {_said(said)}")
        if shown["error"]:
            answer.say(
                f"  {shown['error']['message']} [{shown['error']['code']}]", f"  {shown['error']['hint']}"
            )


def _said(said: dict[str, Any]) -> str:
    approvals = said["approvals"]
    if said["code"] == "policy.awaiting_approval" and approvals:
        return f"waits for approvals ({approvals['have']} of {approvals['need']})"
    return "accepts" if said["accepted"] else f"refuses: {said['sentence'] or said['code']}"


@app.command()
def stop(
    run: Annotated[str, typer.Argument(help="The run's id")],
    url: UrlOption = None,
    passphrase_file: PassphraseFile = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Stop a run. Sites end training at their next step.

    A worker that does not end is killed a few seconds later. The people of
    its project see and stop a run, no one else.
    """
    with reply(format) as answer, _at(url, passphrase_file) as coordinator:
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
    passphrase_file: PassphraseFile = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Print a run's log."""
    with reply(format) as answer, _at(url, passphrase_file) as coordinator:
        lines = coordinator.get(run).log() if coordinator else _Unattended().log(run)
        answer.data["lines"] = lines
        for line in lines:
            answer.say(f"{line['time']}  {line['text']}")


@app.command()
def fetch(
    run: Annotated[str, typer.Argument(help="The id of a run that SUCCEEDED")],
    publish: PublishOption = None,
    public_hub: PublicHubOption = False,
    url: UrlOption = None,
    passphrase_file: PassphraseFile = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Fetch what came of a run that you may receive: its adapter, or a query's answer.

    An adapter goes to PLASMID_HOME/adapters/RUN, trees and sums to
    PLASMID_HOME/results/RUN. There is no test data here, so a recipe with
    release.min_metric is not published.
    """
    with reply(format) as answer, _at(url, passphrase_file) as coordinator:
        from plasmid.client import publish as publishing

        if coordinator is None:
            shown = _Unattended().show(run)
            raise RunFailed(
                "run.not_running",
                f"the coordinator that held the run {run}, {shown['state']}, is not running.",
                "Start it again, or give --coordinator.",
            )
        found = coordinator.get(run)
        result = found.result()["answer"]
        name, adapter = found.document["name"], result is None
        repo = publishing.target(publish, name, public_hub=public_hub, adapter=adapter)
        if found.document["computation"] in ("bundle", "trees"):
            answer.data["folder"] = str(found.save_result())
            answer.say(f"Result: {answer.data['folder']}")
        if result is None:
            answer.data["adapter"] = str(found.save_adapter())
            answer.say(f"Adapter: {answer.data['adapter']}")
            publishing.publish(found, repo, public_hub=public_hub, answer=answer)
        else:
            answer.data["result"] = result
            answer.say(*(f"{name}: {value}" for name, value in result.items()))
