"""What a check says, and how checks are run.

Rules
-----
1. A check yields lines; a line is OK, WARN (it works, somebody should look) or FAIL (nothing should run
   before it is settled). WARN and FAIL say what to do.
2. A check changes nothing. One that cannot be carried out fails; it never passes by being skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from plasmid.core.clock import Clock, now
from plasmid.core.errors import PlasmidError, place
from plasmid.gateway.home import SiteHome
from plasmid.gateway.keys.keystore import KeyStore


class State(StrEnum):
    """How a line came out."""

    ok = "OK"
    warn = "WARN"
    fail = "FAIL"


@dataclass(frozen=True)
class Line:
    """One finding. ``do`` says what to do, empty where nothing is to be done."""

    check: str
    state: State
    what: str
    do: str = ""

    def as_json(self) -> dict[str, str]:
        """Return the JSON values of the machine interface."""
        return {"check": self.check, "state": self.state.value, "what": self.what, "do": self.do}


@dataclass(frozen=True)
class Subject:
    """The site that is looked at.

    Attributes
    ----------
    keys
        Its opened keys; None where no passphrase was given, so that only what is public is checked.
    offline
        Whether to leave the coordinator alone.
    """

    home: SiteHome
    keys: KeyStore | None = None
    offline: bool = False
    clock: Clock = now


Finding = tuple[State, str, str]
Check = Callable[[Subject], Iterable[Finding]]


def ok(what: str) -> Finding:
    """Return a finding that is as it should be."""
    return State.ok, what, ""


def warn(what: str, do: str) -> Finding:
    """Return a finding that somebody should look at."""
    return State.warn, what, do


def fail(what: str, do: str) -> Finding:
    """Return a finding before whose settling nothing should run."""
    return State.fail, what, do


def examine(subject: Subject, checks: Iterable[tuple[str, Check]]) -> Iterator[Line]:
    """Yield the lines of *checks*, each of which is a name and a function."""
    for name, check in checks:
        try:
            for state, what, do in check(subject):
                yield Line(name, state, what, do)
        except PlasmidError as error:
            yield Line(name, State.fail, error.message, error.hint or f"See docs/errors.md on {error.code}.")
        except Exception as error:  # noqa: BLE001 - a check that breaks has found something
            yield Line(
                name, State.fail, f"the check itself broke: {place(error)}", "Report it with this line."
            )
