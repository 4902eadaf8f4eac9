"""The one exception tree. Only these cross a boundary between packages or processes.

    PlasmidError
    ├── UsageError        an option or argument cannot be used as given            usage.*
    ├── RecipeError       a recipe is unknown, malformed or contradicts itself      recipe.*
    ├── DataError         a data file does not meet the contract                    data.*
    ├── ModelError        a base model or adapter is missing, changed or unusable   model.*
    ├── PolicyRefused     a site's policy says no                                   policy.*
    ├── ProjectRefused    a project does not allow it, or is not in force           project.*
    ├── ProtocolError     a message, signature or vector breaks the protocol        protocol.*
    ├── LinkError         the other end cannot be reached, or refuses               link.*
    ├── RunFailed         a run ended without a result                              run.*
    ├── SiteFailed        a site's own process failed                               site.*
    ├── StorageError      the state folder cannot be read or written                storage.*
    ├── HubError          the hub has not got it, or refuses                        hub.*
    └── KeysError         private keys are absent, locked or not to be opened       keys.*

Rules
-----
1. ``code`` is stable, dotted and never reused; tools match on it, people read ``message``.
2. ``message`` says what is wrong and with which values; ``hint`` says what to do next.
3. Neither ever holds a value from a site's rows. File names, column names and counts are allowed
   locally; what crosses the link is a code and a sentence fixed in the source.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import ClassVar


class PlasmidError(Exception):
    """A problem that a person can act on.

    Parameters
    ----------
    code
        Stable dotted name, for example ``"data.column_missing"``.
    message
        What is wrong, with the values concerned.
    hint
        What to do next.
    """

    family: ClassVar[str] = "plasmid"

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.code, self.message, self.hint))

    def as_dict(self) -> dict[str, str]:
        """Return ``{"code", "message", "hint"}``, the shape of the machine interface."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class UsageError(PlasmidError):
    """The command cannot be carried out as given. Exit status 2 for the command line itself, else 1."""

    family = "usage"


class RecipeError(PlasmidError):
    """A recipe, a query or a small YAML file is unknown, malformed or contradicts itself."""

    family = "recipe"


class DataError(PlasmidError):
    """A site's data cannot be reached, or do not meet the contract.

    All problems of a view are reported at once, with counts and the place of the first of each kind.
    The code is that of the first problem.
    """

    family = "data"


class ModelError(PlasmidError):
    """A base model or adapter is missing, changed or unusable."""

    family = "model"


class PolicyRefused(PlasmidError):
    """A site's policy refuses a run. All of these codes may leave the site."""

    family = "policy"


class ProjectRefused(PlasmidError):
    """A project does not allow it, or is not in force."""

    family = "project"


class ProtocolError(PlasmidError):
    """A message, signature or vector breaks the protocol. None of these errors says anything of rows."""

    family = "protocol"


class LinkError(PlasmidError):
    """The other end cannot be reached, or refuses."""

    family = "link"


class RunFailed(PlasmidError):
    """A run ended without a result, or a command about a run cannot be carried out."""

    family = "run"


class SiteFailed(PlasmidError):
    """A site's own process failed."""

    family = "site"


class StorageError(PlasmidError):
    """The state folder cannot be read or written. Files and folders appear whole or not at all."""

    family = "storage"


class HubError(PlasmidError):
    """A hub refuses, or a client cannot use it. Hugging Face clients show the same sentences."""

    family = "hub"


class KeysError(PlasmidError):
    """Private keys are absent, locked or cannot be opened. No message holds a passphrase."""

    family = "keys"


def sentence(text: str) -> str:
    """Return *text* with a full stop, so that another sentence can follow."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def place(error: BaseException) -> str:
    """Return the type of *error* and where it was raised. Its text is left out: it may quote a cell."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-6:]))
    return f"{type(error).__name__} at {where}"


_FAMILIES: dict[str, type[PlasmidError]] = {
    kind.family: kind
    for kind in (
        UsageError,
        RecipeError,
        DataError,
        ModelError,
        PolicyRefused,
        ProjectRefused,
        ProtocolError,
        LinkError,
        RunFailed,
        SiteFailed,
        StorageError,
        HubError,
        KeysError,
    )
}


def from_dict(error: dict[str, str]) -> PlasmidError:
    """Rebuild the error that :meth:`PlasmidError.as_dict` described."""
    code = error["code"]
    kind = _FAMILIES.get(code.split(".", 1)[0], PlasmidError)
    return kind(code, error["message"], error.get("hint", ""))
