"""Checks of the way out: the coordinator, its clock, TLS, certificates; and of what is installed."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, distribution, version

import httpx
from cryptography import x509

from plasmid.core.extras import lacking
from plasmid.owner.doctor.report import Finding, Subject, fail, ok, warn
from plasmid.protocol.enrolment import CoordinatorCard
from plasmid.uplink.enrol import Credential, stranger
from plasmid.uplink.link import answered_json, issued_by
from plasmid.uplink.membership import Validity, validity

SKEW_WARN = timedelta(seconds=60)
SKEW_FAIL = timedelta(minutes=5)
"""What a run request may be ahead of this site's clock."""


def way_out(subject: Subject) -> Iterator[Finding]:
    """The coordinator answers, through a set proxy, under its pinned CA and key; its clock agrees."""
    if subject.offline:
        yield warn("the coordinator was left alone (--offline).", "Run it again without --offline.")
        return
    credential = Credential(subject.home.folder)
    url, key = credential.coordinator()
    network, pinned = credential.network(), subject.home.folder / "ca.pem"
    shown: list[bytes | None] = []
    try:
        with stranger(network.context(pinned), network, subject.home.folder) as client:
            client.event_hooks = {"response": [lambda response: shown.append(_certificate(response))]}
            response = client.get(f"{url}/v1/card")
    except httpx.TransportError as error:
        through = f" through {network.proxy}" if network.proxy else ""
        yield fail(
            f"the coordinator at {url} cannot be reached{through} ({type(error).__name__}).",
            "Check the address, the proxy in site.yaml, and that the coordinator runs.",
        )
        return
    card = CoordinatorCard.model_validate(answered_json(response))
    card.check()
    if card.key != key:
        yield fail(f"another coordinator answers at {url}.", "Nothing is sent to it; ask its operator.")
        return
    yield ok(f"{url} answers{f' through {network.proxy}' if network.proxy else ''}, with the pinned key.")
    yield from _clock(subject, response.headers.get("date"))
    found = shown[-1]
    if found is not None and issued_by(found, x509.load_pem_x509_certificate(pinned.read_bytes())):
        yield ok("TLS ends at the coordinator.")
    else:
        yield warn(
            "TLS ends at a proxy in between, which sees what is sent; it cannot change what is signed.",
            "Have the coordinator's address taken out of inspection, if that is not wanted.",
        )


def _certificate(response: httpx.Response) -> bytes | None:
    """Return the certificate at the other end; while the connection is open, so before the body is read."""
    tls = response.extensions["network_stream"].get_extra_info("ssl_object")
    return None if tls is None else tls.getpeercert(True)


def _clock(subject: Subject, date: str | None) -> Iterator[Finding]:
    if date is None:
        yield warn("the coordinator does not say what time it is.", "Compare the clocks by hand.")
        return
    skew = abs(subject.clock() - parsedate_to_datetime(date))
    what = f"this clock and the coordinator's differ by {skew.total_seconds():.0f} s."
    if skew > SKEW_FAIL:
        yield fail(what, "Set the clock right: requests and approvals are judged by it.")
    elif skew > SKEW_WARN:
        yield warn(what, "Set the clock right.")
    else:
        yield ok(what)


def member(subject: Subject) -> Iterator[Finding]:
    """The coordinator lets this site in. Needs the keys."""
    if subject.offline or subject.keys is None:
        yield warn(
            "whether the coordinator lets this site in was not tried, for its keys are closed.",
            "Give --passphrase-file, and leave out --offline.",
        )
        return
    link = Credential(subject.home.folder).connect(subject.keys, patience_s=0.0)
    try:
        link.request("GET", "/v1/roster")
    finally:
        link.close()
    yield ok("the coordinator lets this site in.")


def certificates(subject: Subject) -> Iterator[Finding]:
    """The certificates are valid, and for how long."""
    for name in ("tls.pem", "ca.pem"):
        path = subject.home.folder / name
        if path.exists():
            yield _lifetime(name, subject.clock(), validity(path))
        else:
            yield fail(f"there is no {name}: the site is not enrolled.", "Run 'plasmid site join'.")


def _lifetime(name: str, present: datetime, valid: Validity) -> Finding:
    if not valid.begins <= present < valid.ends:
        what = f"{name} is valid from {valid.begins:%Y-%m-%d} to {valid.ends:%Y-%m-%d} only."
        return fail(what, "Run 'plasmid site rotate'.")
    what = f"{name} is valid until {valid.ends:%Y-%m-%d} ({(valid.ends - present).days} days)."
    if valid.is_due(present):
        return warn(what, "A running node renews it by itself; run 'plasmid site rotate' if none runs.")
    return ok(what)


def versions(_subject: Subject) -> Iterator[Finding]:
    """The installed packages are of versions that this release supports."""
    from packaging.requirements import Requirement

    yield ok(f"Plasmid {version('plasmid')}, Python {platform.python_version()}, {platform.platform()}.")
    whole = not lacking("worker")
    if not whole:
        yield warn(
            "the packages of a worker are not installed: 'plasmid site start' runs nothing from here.",
            "Where the site itself runs: pip install 'plasmid[worker]'.",
        )
    parts = ("", "worker", "page") if whole else ("",)
    found = 0
    for text in distribution("plasmid").requires or []:
        wanted = Requirement(text)
        asked = wanted.marker is None or any(wanted.marker.evaluate({"extra": part}) for part in parts)
        if wanted.name == "plasmid" or not asked:
            continue
        try:
            have = version(wanted.name)
        except PackageNotFoundError:
            yield fail(f"{wanted.name} is not installed.", "pip install plasmid")
            continue
        found += 1
        if have not in wanted.specifier:
            yield fail(f"{wanted.name} {have} is not {wanted.specifier}.", f"pip install '{wanted}'")
    yield ok(f"{found} packages have the versions that this release asks for.")
