"""What the owner sees of a site: the outbox, and the page."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from plasmid.cli.output import Format, FormatOption, Reply, reply
from plasmid.cli.site_home import HomeOption, site_at
from plasmid.core.lifetime import end_event
from plasmid.log.audit_log import AuditLog

if TYPE_CHECKING:
    from plasmid.owner.outbox import Refusal, Release
    from plasmid.owner.page.server import PageServer


def outbox(
    run: Annotated[str | None, typer.Option(help="Only of this run")] = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """List every body that left this site, and what was refused by which rule.

    Each body with time, recipient, run, round, project, tensors, norm before
    and after the clip, epsilon, bytes, masks and isolation; each refusal with
    its rule and full reason, which no one else is told.
    """
    with reply(format) as answer:
        from plasmid.owner.outbox import read_outbox  # no part of a site's process

        site = site_at(home)
        site.config()
        found = read_outbox(AuditLog(site.audit).entries(), run=run)
        answer.data |= found.as_json()
        if not found.released:
            answer.say("Nothing has left this site." if run is None else f"Nothing has left in {run}.")
        for release in found.released:
            answer.say(*_release(release))
        if found.released:
            answer.say(f"{len(found.released)} bodies, {found.body_bytes:,} bytes")
        for refusal in found.refused:
            answer.say(_refusal(refusal))


def _release(row: Release) -> list[str]:
    what = "canary audit" if row.phase == "audit" else f"round {row.round}"
    hidden = "masked" if row.masked else "in the clear"
    noise = "" if row.mechanism == "none" else f", noise: {row.mechanism}"
    lines = [f"{row.time}  {row.run}  {what}  {row.body_bytes:,} bytes  {hidden}{noise}  {row.body[:16]}"]
    if row.norm is not None and row.norm_after is not None and row.clip_fraction is not None:
        lines.append(
            f"    norm {row.norm:.4g}, {row.norm_after:.4g} after the clip ({row.clip_fraction:.1%} clipped)"
        )
    if row.epsilon is not None:
        lines.append(
            f"    epsilon {row.epsilon:g} for the run; {row.epsilon_spent:g} spent so far of {row.population}"
        )
    lines.append(f"    to {', '.join(row.roster)}, through the coordinator {row.coordinator[:16]}")
    lines.append(f"    project {row.project or 'none'}; worker kept in: {row.isolation or 'not said'}")
    more = f" and {len(row.tensors) - 4} more" if len(row.tensors) > 4 else ""
    lines.append(f"    {', '.join(row.tensors[:4])}{more}")
    return lines


def _refusal(row: Refusal) -> str:
    from rich.markup import escape

    return f"{row.time}  {row.run or 'no run'}  {row.action}: {row.rule}  {escape(row.reason)}"


def page(
    port: Annotated[int, typer.Option(help="0: any that is free", min=0, max=65535)] = 0,
    until_stdin_closes: Annotated[
        bool, typer.Option(help="End when standard input does (for launchers)")
    ] = False,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Serve the owner's page on this machine, and print a link that opens it once.

    A process of its own serves the page on 127.0.0.1 and holds no key. The
    link opens the page once, within ten minutes; at a terminal, Enter prints
    a new one.
    """
    with reply(format, extra="page") as answer:
        from plasmid.owner.page.server import PageServer

        asked = not until_stdin_closes and sys.stdin.isatty()
        ended = end_event(until_stdin_closes=until_stdin_closes)
        server = PageServer(site_at(home), port=port)
        server.start()
        try:
            answer.note(f"The page, on this machine only (Ctrl-C ends it): {server.link()}")
            if asked:
                answer.note("The link opens it once, within ten minutes. Press Enter for a new one.")
                threading.Thread(target=_more_links, args=(server, answer), daemon=True).start()
            ended.wait()
        finally:
            server.close()
        answer.data["port"] = server.port


def _more_links(server: PageServer, answer: Reply) -> None:
    for _ in sys.stdin:
        answer.note(server.link())
