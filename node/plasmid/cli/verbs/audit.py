"""Audit: what this site decided and let out, the proof of it, and what others' logs prove."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from plasmid.cli.keys import PassphraseFd, PassphraseFile, site_keys
from plasmid.cli.output import Format, FormatOption, plain, reply
from plasmid.cli.site_home import HomeOption, site_at
from plasmid.core.errors import UsageError
from plasmid.core.files import write_atomic
from plasmid.gateway.home import SiteHome
from plasmid.gateway.members.peers import read_peers
from plasmid.log.audit_log import AuditLog
from plasmid.log.entries import Entry
from plasmid.log.export import Known, Named, export, prove
from plasmid.log.verify import Proven, compare, parse_export, sentences

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.command()
def ls(
    run: Annotated[str | None, typer.Option(help="Entries of this run only")] = None,
    action: Annotated[str | None, typer.Option(help="Entries of this action only, such as released")] = None,
    since: Annotated[str | None, typer.Option(help="Not older than this, UTC: 2026-11-25T10:00:00Z")] = None,
    refused: Annotated[bool, typer.Option("--refused", help="Only what was refused or failed")] = False,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """List the entries of this site's log."""
    with reply(format) as answer:
        site = site_at(home)
        site.config()
        found = [
            entry
            for entry in AuditLog(site.audit).entries()
            if run in (None, entry["run"])
            and action in (None, entry["action"])
            and (since is None or entry["time"] >= since)
            and (not refused or entry["result"] in ("refused", "failed"))
        ]
        answer.data["entries"] = found
        for entry in found:
            answer.say(*_told(entry))
        if not found:
            answer.say("No such entry.")


@app.command()
def verify(
    file: Annotated[
        list[Path] | None, typer.Argument(help="Exports or proofs; without one, this site's own log")
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(help="NAME=KEY or NAME=FINGERPRINT that you know to be that site's; repeatable"),
    ] = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Verify logs: this site's own, or files that others gave; several are compared with one another.

    Without a file: hashes this site's log, compares it with everything that
    the site signed, and reports up to where each peer has cosigned it. With
    files: checks each with its own content alone, and all against one
    another. A name without --key is reported as named by the file alone.
    Needs no passphrase and no network. Exit status 1 where anything
    contradicts itself.
    """
    with reply(format) as answer:
        given = dict(_given(text) for text in key or ())
        if file:
            files = [parse_export(path.read_bytes(), str(path), given) for path in file]
        else:
            files = [_own(site_at(home), given)]
        compare(files)
        answer.data["files"] = [_as_json(proven) for proven in files]
        for proven in files:
            first, *rest = sentences(proven)
            answer.say(f"[bold]{plain(first)}[/bold]", *(f"  {plain(line)}" for line in rest))
            if proven.entry is not None:
                answer.say(*_told(proven.entry))
        if len(files) > 1:
            answer.say("The files do not contradict one another.")


@app.command(name="export")
def export_log(
    file: Annotated[Path, typer.Argument(help="Where to write it; - for standard output")],
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Write this site's log with its checkpoints, cosignatures and keys to one file.

    Reasons in the file may name files and columns of this site.
    """
    with reply(format) as answer:
        site = site_at(home)
        log = AuditLog(site.audit)
        log.verify()
        data = export(log.files, _named(site))
        _write(file, data)
        answer.data |= {"file": str(file), "bytes": len(data), "entries": data.count(b"\n") - 1}
        count = answer.data["entries"]
        answer.note(f"{count} entries; anybody can read it with 'plasmid audit verify {file}'")


@app.command(name="prove")
def prove_entry(
    entry: Annotated[int, typer.Argument(help="Its number, as 'plasmid audit ls' shows it")],
    file: Annotated[Path, typer.Argument(help="Where to write it; - for standard output")] = Path("-"),
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Write the proof that one entry is in this site's log; the proof shows no other entry."""
    with reply(format) as answer:
        site = site_at(home)
        log = AuditLog(site.audit)
        log.verify()
        data = prove(log.files, _named(site), entry)
        _write(file, data)
        answer.data |= {"file": str(file), "bytes": len(data), "entry": entry}


@app.command()
def restart(
    reason: Annotated[str, typer.Option(help="Why; it is the new log's first entry")],
    yes: Annotated[bool, typer.Option("--yes", help="Confirm")] = False,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Keep a damaged log, or one of a wrong clock, and begin a new one. The other sites see that."""
    with reply(format) as answer:
        site = site_at(home)
        if not yes:
            raise UsageError(
                "usage.not_confirmed",
                "this begins a new audit log; the old one is kept, and the peers see that a new one began.",
                "Restore a sound copy of the folder if there is one; otherwise give --yes.",
            )
        keys = site_keys(site, file=passphrase_file, descriptor=passphrase_fd)
        log = AuditLog(site.audit, keys.identity())
        kept = log.restart(actor="owner", reason=reason)
        generation = log.checkpoint().checkpoint.generation
        answer.data |= {"kept": None if kept is None else str(kept), "generation": generation}
        answer.say(f"A new log has begun, generation {generation}. Kept: {kept or 'nothing was there'}")


def _own(site: SiteHome, given: dict[str, str]) -> Proven:
    log = AuditLog(site.audit)
    log.verify()
    return parse_export(export(log.files, _named(site)), str(log.files.log), given)


def _named(site: SiteHome) -> Named:
    config = site.config()
    peers = read_peers(site.peers).sites if site.peers.exists() else []
    return Named(
        site=Known(name=config.name, organisation=config.organisation, key=site.public),
        peers=[Known(name=peer.name, organisation=peer.organisation, key=peer.key) for peer in peers],
    )


def _write(file: Path, data: bytes) -> None:
    if str(file) == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_atomic(file, data, mode=0o600)


def _given(text: str) -> tuple[str, str]:
    """Return name and key of ``NAME=KEY``: 64 hexadecimal digits, or a fingerprint."""
    name, _, key = text.partition("=")
    letters = key.replace("-", "").strip()
    hexadecimal = len(letters) == 64 and not set(letters.lower()) - set("0123456789abcdef")
    printed = len(letters) == 28 and letters.isascii() and letters.isalnum()
    if not name or not (hexadecimal or printed):
        raise UsageError(
            "usage.audit_key",
            f"{text!r} is not NAME=KEY.",
            "Give a site's name and its key or fingerprint, as 'plasmid site show' prints them there.",
        )
    return name, letters.lower() if hexadecimal else letters.upper()


def _told(entry: Entry) -> list[str]:
    about = [f"{name} {entry[name]}" for name in ("run", "rule") if entry[name]]
    facts = [
        f"{name}={value}" for name, value in entry["facts"].items() if not isinstance(value, list | dict)
    ]
    result = "" if entry["result"] == "ok" else f" {entry['result']}"
    first = f"{entry['time']}  {entry['action']}{result}  {entry['actor']}  {' '.join(about)}"
    lines = [f"{entry['seq']:>6}  {plain(first)}"]
    lines += [f"        {plain(entry['reason'])}"] if entry["reason"] else []
    lines += [f"        {plain(' '.join(facts))}"] if facts else []
    return lines


def _as_json(proven: Proven) -> dict[str, Any]:
    return {
        "file": proven.name,
        "origin": proven.origin,
        "site": proven.site,
        "key": proven.key.public,
        "key_given": proven.key.given,
        "first": proven.first,
        "last": proven.last,
        "signed": proven.signed,
        "cosigned": [
            {
                "site": one.site,
                "last": one.size,
                "time": one.time,
                "key": one.key.public,
                "key_given": one.key.given,
            }
            for one in proven.cosigned
        ],
        "entry": proven.entry,
        "proven": sentences(proven),
    }
