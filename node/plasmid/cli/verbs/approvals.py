"""Read, sign and revoke approvals of recipes at a site, as one of its owner's named people."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from plasmid.cli.output import Format, FormatOption, Reply, plain, reply
from plasmid.cli.verbs.policy import HomeOption, site_home
from plasmid.core.errors import PolicyRefused, UsageError
from plasmid.gateway.approvals.files import Waiting
from plasmid.gateway.approvals.quorum import Signature
from plasmid.gateway.approvals.register import Approvals
from plasmid.gateway.approvals.review import Review, document_name, requester_of, review
from plasmid.gateway.home import SiteHome
from plasmid.gateway.keys.keystore import Passphrase
from plasmid.gateway.keys.passphrase import find
from plasmid.gateway.policy.file import read_policy
from plasmid.gateway.policy.grants import accepting
from plasmid.gateway.policy.rule import Facts
from plasmid.log.audit_log import AuditLog
from plasmid.protocol.approval import Meaning, Subject
from plasmid.protocol.identity import fingerprint

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
Digits = Annotated[str, typer.Argument(help="8 digits or more of its digest, as 'ls' prints them")]
PersonOption = Annotated[
    str, typer.Option("--as", metavar="NAME", help="Who signs; the passphrase is asked for")
]
ReasonOption = Annotated[str, typer.Option(help="Why, in one line; it is signed too")]
FileOption = Annotated[
    Path | None, typer.Option("--passphrase-file", help="A file of mode 0600, instead of the terminal")
]
DescriptorOption = Annotated[
    int | None, typer.Option("--passphrase-fd", help="An inherited descriptor, instead of the terminal")
]


def _asked(name: str, file: Path | None, descriptor: int | None, *, twice: bool = False) -> Passphrase:
    """Return the source of a person's passphrase: never the environment's, which is the site's."""
    return find(name, file=file, descriptor=descriptor, twice=twice, ambient=False)


def _approvals(site: SiteHome) -> Approvals:
    return Approvals(site, AuditLog(site.audit))


@app.command()
def person(
    name: Annotated[str, typer.Argument(help="A short name: lower case, digits, - and _")],
    full_name: Annotated[str, typer.Option(help="As it is printed beside the signature")],
    role: Annotated[str, typer.Option(help="What this person is at the owner, in a few words")],
    passphrase_file: FileOption = None,
    passphrase_fd: DescriptorOption = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Record a named person, with a key under a passphrase that only this person knows.

    PLASMID_PASSPHRASE_FILE does not count here.
    """
    with reply(format) as answer:
        site = site_home(home)
        source = _asked(name, passphrase_file, passphrase_fd, twice=True)
        made = _approvals(site).add_person(name, full_name=full_name, role=role, passphrase=source)
        answer.data |= {"person": made.model_dump(), "fingerprint": fingerprint(made.key)}
        answer.say(
            plain(
                f"{made.full_name} ({made.role}) signs as {made.name}; fingerprint {fingerprint(made.key)}"
            ),
            "Next: name this person under 'approvers' in policy.yaml",
        )


@app.command("ls")
def list_(home: HomeOption = None, format: FormatOption = Format.text) -> None:  # noqa: A002 - the option's name
    """List what waits for approval, every approval that was given, and who has a record."""
    with reply(format) as answer:
        site = site_home(home)
        approvals = _approvals(site)
        waiting, given = approvals.files.all_waiting(), approvals.all_signatures()
        people = approvals.people.all()
        names = {case.subject: document_name(case) for case in approvals.files.cases()}
        answer.data |= {
            "waiting": [
                {**one.model_dump(mode="json"), "name": names.get(one.subject, "")} for one in waiting
            ],
            "approvals": [_as_json(said) for said in given],
            "people": [{**one.model_dump(), "fingerprint": fingerprint(one.key)} for one in people],
        }
        answer.say("Waiting" if waiting else "Nothing waits for approval.")
        for run in waiting:
            far = _how_far(site, approvals, run.subject, [run])
            what = f"{names.get(run.subject, '?')}, for {run.requester} of {run.organisation}: {far}"
            answer.say(plain(f"  {run.subject.recipe[:12]}  {what}; until {run.expires}, run {run.run}"))
        answer.say("Given" if given else "Nobody has approved anything.")
        for said in given:
            subject = said.approval.subject
            what = f"{names.get(subject, '?')} ({subject.recipe[:12]}), {_until(said)}: {said.manifestation}"
            answer.say(plain(f"  {said.digest[:12]}  {what}"))
        answer.say("Who has a record" if people else "Nobody has a record here.")
        for person in people:
            answer.say(
                plain(f"  {person.name}  {person.full_name} ({person.role}), {fingerprint(person.key)}")
            )


def _how_far(site: SiteHome, approvals: Approvals, subject: Subject, waiting: Sequence[Waiting]) -> str:
    """Return how many approvals a subject has, or why nothing can be said of that."""
    try:
        policy, case = read_policy(site.policy), approvals.files.case(subject)
    except PolicyRefused as error:
        return f"unknown how many approvals ({error.code})"
    project = None if case is None else case.opened_project()
    facts = Facts(None, subject.recipe, project, subject.view, approvals.time())
    grants = accepting(policy.allow, facts)
    requester = None if project is None else requester_of(project, waiting)
    standing = approvals.best(grants, subject, requester) if grants else None
    return standing.words if standing else "no approval is asked for, or the policy refuses it now"


def _until(said: Signature) -> str:
    return f"valid until {said.approval.expires}" if said.state == "valid" else said.state


@app.command()
def show(
    digest: Digits,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Show what is to be approved in plain words, and how it differs from the last approved version."""
    with reply(format) as answer:
        site = site_home(home)
        approvals = _approvals(site)
        _tell(review(site, approvals, approvals.find(digest)), answer)


@app.command()
def sign(
    digest: Digits,
    name: PersonOption,
    reason: ReasonOption,
    meaning: Annotated[str, typer.Option(help="approved, reviewed or dp-reviewed")] = "approved",
    days: Annotated[int, typer.Option(help="How long the approval holds", min=1, max=366)] = 90,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before signing")] = False,
    passphrase_file: FileOption = None,
    passphrase_fd: DescriptorOption = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Show what is to be approved, then sign it with your own key."""
    with reply(format) as answer:
        site = site_home(home)
        approvals = _approvals(site)
        case = approvals.find(digest)
        found = review(site, approvals, case)
        _tell(found, answer)
        if not yes and not _confirmed(f"Sign this as {name}, meaning {meaning}?"):
            raise UsageError(
                "usage.not_confirmed", "nothing was signed.", "Answer y at a terminal, or give --yes."
            )
        made = approvals.sign(
            case,
            name,
            meaning=_meaning(meaning),
            reason=reason,
            days=days,
            passphrase=_asked(name, passphrase_file, passphrase_fd),
        )
        answer.data["approval"] = _as_json(made)
        answer.say(
            plain(f"Signed by {made.manifestation}"),
            plain(f"It holds until {made.approval.expires}. Its digest is {made.digest}"),
            plain(_how_far(site, approvals, case.subject, found.waiting)),
        )


@app.command()
def revoke(
    digest: Digits,
    name: PersonOption,
    reason: ReasonOption,
    passphrase_file: FileOption = None,
    passphrase_fd: DescriptorOption = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Take an approval back. Runs that need it stop at their next step."""
    with reply(format) as answer:
        approvals = _approvals(site_home(home))
        source = _asked(name, passphrase_file, passphrase_fd)
        gone = approvals.revoke(digest, name, reason=reason, passphrase=source)
        answer.data["approval"] = _as_json(gone)
        answer.say(
            plain(f"Revoked by {name}: {gone.manifestation}"),
            "A run that needs it stops at its next step; one that waits, waits on.",
        )


def _confirmed(question: str) -> bool:
    return sys.stdin.isatty() and typer.confirm(question, err=True)


def _meaning(text: str) -> Meaning:
    for known in get_args(Meaning):
        if text == known:
            return known  # type: ignore[no-any-return]
    raise UsageError(
        "usage.approval",
        f"{text[:40]!r} is no meaning of a signature.",
        f"Use one of {', '.join(get_args(Meaning))}.",
    )


def _tell(found: Review, answer: Reply) -> None:
    subject, standing = found.case.subject, found.verdict.standing if found.verdict else None
    answer.data |= {
        "name": found.name,
        "subject": subject.model_dump(),
        "facts": [vars(fact) for fact in found.facts],
        "previous": None if found.previous is None else _as_json(found.previous),
        "changed": found.changed,
        "differences": found.differences,
        "waiting": [one.model_dump(mode="json") for one in found.waiting],
        "signatures": [_as_json(said) for said in found.signatures],
        "approvals": {"have": standing.have, "need": standing.need} if standing else None,
        "refused": found.refused,
    }
    lines = [found.name, f"  recipe {subject.recipe}", f"  view   {subject.view}"]
    section = ""
    for fact in found.facts:
        if fact.section != section:
            section = fact.section
            lines += ["", section.capitalize()]
        lines.append(f"  {fact.name}: {fact.value}")
    if found.previous is None:  # later on, what differs is shown
        for name, code in found.python:
            lines += ["", f"Its Python: {name}", *(f"  | {line}" for line in code)]
    lines += ["", *_against_previous(found), ""]
    lines += [f"Run {one.run} waits for it until {one.expires}" for one in found.waiting]
    lines += [f"  {_until(said)}: {said.manifestation}" for said in found.signatures]
    if standing is not None:
        lines.append(standing.words)
    elif found.refused:
        lines += [
            "The policy refuses it:",
            *(f"  {line}" for text in found.refused for line in text.splitlines()),
        ]
    else:
        lines.append("The policy accepts it without an approval")
    answer.say(*map(plain, lines))


def _against_previous(found: Review) -> list[str]:
    if found.previous is None:
        return ["This is the first version of it here."]
    lines = [f"Against the version that was approved by {found.previous.manifestation}"]
    lines += [f"  {line}" for line in found.changed]
    if found.differences:
        lines += ["  Every value that differs:", *(f"    {line}" for line in found.differences)]
    return lines if len(lines) > 1 else [*lines, "  nothing differs but the project or the run"]


def _as_json(said: Signature) -> dict[str, Any]:
    return {
        "digest": said.digest,
        "state": said.state,
        "person": said.person.model_dump(),
        **said.approval.model_dump(mode="json"),
    }
