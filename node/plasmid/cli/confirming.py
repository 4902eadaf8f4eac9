"""How an owner says that a fingerprint is the right one: at the terminal, or by giving it."""

from __future__ import annotations

import sys

import typer

from plasmid.uplink.enrol import Confirm


def ask_owner(what: str, shown: str) -> bool:
    """Ask the owner at the terminal; without one, nothing is confirmed."""
    sys.stderr.write(f"Fingerprint of {what}:\n  {shown}\n")
    if not sys.stdin.isatty():
        return False
    return typer.confirm("Does its owner say the same, word for word?", err=True)


def confirm_with(expected: str | None) -> Confirm:
    """Return a confirmation that compares with *expected*, or asks the owner where it is None."""
    if expected is None:
        return ask_owner
    wanted = "".join(expected.split()).replace("-", "").upper()
    return lambda _, shown: shown.replace("-", "") == wanted
