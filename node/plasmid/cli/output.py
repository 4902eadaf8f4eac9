"""What every verb prints: text for people, or one JSON object, last, on stdout.

Rules
-----
1. ``--format json`` prints ``{"schema": "plasmid.cli/1", "status", "data", "error"}`` and nothing
   after it; everything else goes to stderr.
2. The exit status is 0 with status "ok", else non-zero (1 for a known problem, 130 for Ctrl-C).
3. A verb fills ``reply.data`` and, for people, calls ``reply.say``; it never prints.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import typer

from plasmid.core.answers import envelope, known, log_to_stderr
from plasmid.core.errors import PlasmidError
from plasmid.core.extras import need

_WIDTH = 10_000


class Format(StrEnum):
    """How a verb answers."""

    text = "text"
    json = "json"


FormatOption = Annotated[
    Format, typer.Option("--format", help="text for people, json for programs (one object, last, on stdout)")
]


class Reply:
    """The answer of one verb.

    Attributes
    ----------
    data
        The ``data`` object of the machine interface. Kept when the verb fails, so that what was
        learned before the failure (a run id, say) is not lost.
    """

    def __init__(self, form: Format) -> None:
        self.format = form
        self.data: dict[str, Any] = {}

    @property
    def is_json(self) -> bool:
        """True when the answer is read by a program."""
        return self.format is Format.json

    def say(self, *lines: Any) -> None:
        """Print *lines* (text or rich renderables) for people; silent with ``--format json``."""
        if not self.is_json:
            console = _console(stderr=False)
            for line in lines:
                console.print(line)

    def note(self, line: Any) -> None:
        """Print *line* on stderr in either format: progress, notices."""
        _console(stderr=True).print(line)


def _console(*, stderr: bool) -> Any:
    from rich.console import Console

    # No cell of a table is cut: a row is as long as it is, and the terminal wraps it like any other line.
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=_WIDTH)


@contextmanager
def reply(form: Format, *, extra: str | None = None) -> Iterator[Reply]:
    """Run a verb's body and print its answer or its error. Raises ``typer.Exit`` on failure.

    Parameters
    ----------
    extra
        What the body needs beside the base install; None: nothing.
    """
    log_to_stderr()
    answer = Reply(form)
    error: PlasmidError | None = None
    status = 0
    try:
        if extra is not None:
            need(extra)
        yield answer
    except (Exception, KeyboardInterrupt) as problem:
        found = known(problem)
        if found is None:
            raise
        error, status = found
    print_envelope(answer, error)
    if status:
        raise typer.Exit(status)


def plain(text: str) -> str:
    """Return *text* so that :meth:`Reply.say` shows it and does nothing else: others may have chosen it."""
    from rich.markup import escape

    return escape("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text))


def print_envelope(answer: Reply, error: PlasmidError | None) -> None:
    """Print the machine envelope on stdout, or the error for people on stderr."""
    if answer.is_json:
        sys.stdout.write(envelope(answer.data, error) + "\n")
        sys.stdout.flush()
    elif error:
        from rich.text import Text

        console = _console(stderr=True)
        console.print(Text.assemble((f"error [{error.code}] ", "bold red"), error.message))
        if error.hint:
            console.print(Text(error.hint))
