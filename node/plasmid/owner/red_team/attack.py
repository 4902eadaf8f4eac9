"""What an attack is, and how it is judged.

Rules
-----
1. Every attack first does the same thing honestly (its *control*) and must succeed: an attack that fails for
   another reason than the defence proves nothing, and says so.
2. It holds only if the defence that is meant refuses it, by its own code. Anything else did not hold.
3. Payloads are harmless and bounded: nothing is written but in the scratch folder, nothing leaves the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from plasmid.core.errors import PlasmidError, place
from plasmid.protocol.messages import Admission

T = TypeVar("T")


class DidNotHoldError(Exception):
    """The attack worked."""


class ControlFailedError(Exception):
    """What should work without the attack does not: nothing was shown."""


@dataclass(frozen=True)
class Attack(Generic[T]):
    """One attack; ``run`` returns if the defence held.

    ``row`` is the threat's number in docs/threat-model.md, None for a stop of the owner's.
    """

    name: str
    row: int | None
    what: str
    run: Callable[[T], None]


@dataclass(frozen=True)
class Outcome:
    """How an attack came out: held, or why not."""

    name: str
    row: int | None
    what: str
    held: bool
    detail: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the JSON values of the machine interface."""
        return dict(vars(self))


def attacks(*listed: tuple[int | None, Callable[[T], None]]) -> tuple[Attack[T], ...]:
    """Return attacks of their rows and functions; the first line of a function's text says what it does."""
    return tuple(
        Attack(run.__name__.replace("_", " "), row, (run.__doc__ or "").partition("\n")[0], run)
        for row, run in listed
    )


def carry_out(planned: Iterable[Attack[T]], target: Callable[[], T]) -> Iterator[Outcome]:
    """Yield how the *planned* attacks come out, each on a fresh *target*."""
    for attack in planned:
        detail = ""
        try:
            attack.run(target())
        except DidNotHoldError as error:
            detail = f"DID NOT HOLD: {error}"
        except ControlFailedError as error:
            detail = f"not shown: {error}"
        except PlasmidError as error:
            detail = f"not shown: {error.code}: {error.message}"
        except Exception as error:  # noqa: BLE001 - one attack that breaks does not end the others
            detail = f"not shown: {place(error)}"
        yield Outcome(attack.name, attack.row, attack.what, not detail, detail)


def works(done: bool, what: str) -> None:
    """Say whether the control worked; *what* is what should have happened. Raises ControlFailedError."""
    if not done:
        raise ControlFailedError(f"the control failed: {what}")


def refuses(code: str, call: Callable[[], Any]) -> None:
    """Carry out the attack, which must be refused with *code*. Raises DidNotHoldError."""
    try:
        call()
    except PlasmidError as error:
        if error.code != code:
            raise DidNotHoldError(f"it was refused by {error.code}, not by {code}") from None
        return
    raise DidNotHoldError(f"it was not refused ({code})")


def never(_: Any) -> Any:
    """Stand for a computation that must not start. Raises DidNotHoldError."""
    raise DidNotHoldError("the computation was started")


def accepted(answer: Admission) -> None:
    """Say that the control was admitted. Raises ControlFailedError."""
    works(answer.accepted, f"an honest run is refused by {answer.code}")


def turned_away(code: str, answer: Admission) -> None:
    """Say that the attack was not admitted, because of *code*. Raises DidNotHoldError."""
    if answer.accepted:
        raise DidNotHoldError(f"the run was admitted, {code} should refuse it")
    if answer.code != code:
        raise DidNotHoldError(f"it was refused by {answer.code}, not by {code}")
