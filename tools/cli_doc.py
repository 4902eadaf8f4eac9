"""The command reference ``docs/cli.md``, written from the command itself: ``make docs``.

Rules
-----
1. A verb's section is its help: the summary, the paragraphs, the examples (paragraphs after ``\\b``).
2. A table has the verb's own arguments and options: name, values, meaning, default.
3. An option with the same names and meaning in many verbs stands once, under "Common options".
4. The line of usage names every argument; the table has those with a meaning of their own.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.main import get_command

from plasmid.cli.main import LazyVerbs, installed, load, verbs

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
HEAD = Path(__file__).with_name("cli_doc.head.md")
"""The beginning of the page, which is written by hand."""
MANY = 8
"""An option in so many verbs is a common one."""


@dataclass(frozen=True)
class Parameter:
    """An argument or option as the reference shows it."""

    names: str
    values: str
    meaning: str
    default: str

    def row(self) -> str:
        """Return its row of a table."""
        told = f"{self.meaning} (default: {self.default})" if self.default else self.meaning
        return f"| {self.names}{self.values} | {_cell(told)} |"


def below(command: Any) -> dict[str, Any] | None:
    """Return the commands of a group by name, entry points included; None where *command* is no group."""
    if not hasattr(command, "commands"):
        return None
    points = installed(command.points_group) if isinstance(command, LazyVerbs) else {}
    named: dict[str, Any] = dict(command.commands)
    return {name: load(point) for name, point in points.items()} | named


def every_command() -> Iterator[tuple[str, Any]]:
    """Yield each command with its words, in the order of ``plasmid --help``; commands within groups too."""
    waiting: list[tuple[str, Any]] = [(name, get_command(point.load())) for name, point in verbs().items()]
    while waiting:
        name, command = waiting.pop(0)
        leaves = below(command)
        if leaves is None:
            yield name, command
        else:
            waiting[:0] = [(f"{name} {word}", leaf) for word, leaf in leaves.items()]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _parameter(one: Any) -> Parameter:
    """Return *one*, a click parameter, as the reference shows it."""
    told = inspect.cleandoc(getattr(one, "help", None) or "").rstrip(".")
    if one.param_type_name == "argument":
        needed = "" if one.required else " (optional)"
        return Parameter(f"`{one.name.upper()}`", needed, told, "")
    names = ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts))
    return Parameter(names, _values(one), told + _repeatable(one), _default(one))


def _usage(one: Any) -> str:
    """Return an argument in a line of usage: in brackets if optional, with dots if it repeats."""
    name = one.name.upper() + ("..." if one.nargs != 1 else "")
    return name if one.required else f"[{name}]"


def _values(one: Any) -> str:
    """Return what an option takes: its choices, else the kind of its value; empty for a switch."""
    if one.is_flag:
        return " (required)" if one.required else ""
    choices = getattr(one.type, "choices", None)
    kind = " or ".join(str(getattr(one, "value", one)) for one in choices) if choices else one.type.name
    return f" *{kind.replace(' range', '')}*" + (" (required)" if one.required else "")


def _repeatable(one: Any) -> str:
    told = (one.help or "").lower()
    return "; repeatable" if one.multiple and "repeat" not in told and "as often" not in told else ""


def _default(one: Any) -> str:
    """Return an option's default as text, empty where it has none or its meaning names it."""
    value = getattr(one.default, "value", one.default)
    if value is None or isinstance(value, bool) or callable(value) or value in ("", [], ()):
        return ""
    return "" if "default" in (one.help or "").lower() else f"`{value}`"


def _prose(help_text: str) -> str:
    """Return a verb's help as Markdown: paragraphs, and blocks after ``\\b`` as code."""
    parts = re.split(r"\n\s*\n", inspect.cleandoc(help_text.replace("\f", "")))
    out = []
    for part in parts:
        lines = part.strip().splitlines()
        if lines and lines[0].strip() == "\b":
            body = [line for line in lines[1:] if line.strip().lower() != "examples:"]
            out.append("\n".join(["```", *(line.strip() for line in body), "```"]))
        else:
            out.append(" ".join(line.strip() for line in lines))
    return "\n\n".join(out)


def _section(name: str, command: Any, common: set[Parameter]) -> str:
    """Return the section on one command."""
    told = [_parameter(one) for one in command.params if "--help" not in one.opts]
    own = [one for one in told if one not in common and one.meaning]
    shared = [one for one in told if one in common]
    arguments = [_usage(one) for one in command.params if one.param_type_name == "argument"]
    usage = " ".join(["plasmid", name, *arguments])
    text = f"### plasmid {name}\n`{usage}`\n\n{_prose(command.help or '')}\n"
    if own:
        text += "\n| argument or option | meaning |\n|---|---|\n" + "".join(f"{one.row()}\n" for one in own)
    if shared:
        names = ", ".join(one.names for one in shared)
        text += f"\n[Common options](#common-options): {names}.\n"
    return text


def _shareable(one: Any) -> bool:
    return one.param_type_name == "option" and "--help" not in one.opts


def page() -> str:
    """Return the whole reference."""
    commands = list(every_command())
    counted = Counter(_parameter(one) for _, command in commands for one in command.params if _shareable(one))
    common = {one for one, times in counted.items() if times >= MANY}
    rows = "".join(f"{one.row()}\n" for one in sorted(common, key=lambda one: (one.names, one.meaning)))
    text = [HEAD.read_text(encoding="utf-8"), f"## Common options\n| option | meaning |\n|---|---|\n{rows}"]
    group = ""
    for name, command in commands:
        if (first := name.partition(" ")[0]) != group:
            group = first
            text.append(f"## {group.capitalize()}\n")
        text.append(_section(name, command, common))
    return "\n".join(text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
