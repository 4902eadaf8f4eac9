"""The ``plasmid`` command.

Rules
-----
1. A verb is an entry point of group ``plasmid.verbs`` that names a typer app. It is imported only
   when it is called: ``plasmid --help`` reads the first line of each verb's file instead.
   A verb's own verbs may be such entry points, too (:class:`LazyVerbs`): some are the platform's.
2. A usage error in ``--format json`` is one JSON object like every other answer.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from importlib.metadata import EntryPoint, entry_points, version
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from plasmid.cli.output import Format, Reply, print_envelope
from plasmid.core.errors import UsageError
from plasmid.core.extras import need, not_importable

GROUP = "plasmid.verbs"
NODE = "plasmid.cli."
"""What the module of a node's verb begins with; every other verb is the platform's."""


def installed(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of *group* whose file is installed, by name, sorted."""
    found = {point.name: point for point in entry_points(group=group) if _source(point)}
    return dict(sorted(found.items()))


def verbs() -> dict[str, EntryPoint]:
    """Return the installed verbs by name, in the order in which people meet them."""
    order = (
        "run",
        "runs",
        "query",
        "models",
        "hub",
        "recipes",
        "predict",
        "evaluate",
        "site",
        "doctor",
        "coordinator",
        "login",
    )
    found = installed(GROUP)
    known = [name for name in order if name in found]
    return {name: found[name] for name in known} | found


def _source(point: EntryPoint) -> Path | None:
    """Return the verb's file, None where it is not installed (a wheel of the node alone)."""
    try:
        spec = importlib.util.find_spec(point.module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None


def summary(point: EntryPoint) -> str:
    """Return the first line of the help of a verb's function, app or else file, without running it."""
    source = _source(point)
    if source is None:
        return ""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) if name == point.attr:
                return (ast.get_docstring(node) or "").partition("\n")[0]
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as call) if name == point.attr:
                for keyword in call.keywords:
                    if keyword.arg == "help" and isinstance(keyword.value, ast.Constant):
                        return str(keyword.value.value)
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def load(point: EntryPoint) -> Any:
    """Import a verb, a typer app or a function, and return its command.

    Raises
    ------
    UsageError
        ``usage.extra_missing``: it is the platform's, whose packages are not installed.
    """
    if not point.module.startswith(NODE):
        need("platform")
    try:
        verb = point.load()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("plasmid"):
            raise
        raise not_importable(error) from error
    if not isinstance(verb, typer.Typer):
        function, verb = verb, typer.Typer(add_completion=False)
        verb.command()(function)
    return get_command(verb)


class LazyVerbs(TyperGroup):
    """A group that knows its verbs' names and help without importing them.

    A verb of verbs names another ``points_group`` of entry points; what its app defines itself comes first.
    """

    points_group = GROUP

    def _points(self) -> dict[str, EntryPoint]:
        return verbs() if self.points_group == GROUP else installed(self.points_group)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the verbs' names."""
        return list(dict.fromkeys([*super().list_commands(ctx), *self._points()]))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a stand-in that carries the verb's help, or None for an unknown name."""
        own, point = super().get_command(ctx, cmd_name), self._points().get(cmd_name)
        return own if own is not None or point is None else TyperCommand(cmd_name, help=summary(point))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the verb that *args* names."""
        point = self._points().get(args[0])
        if point is None or super().get_command(ctx, args[0]) is not None:
            return super().resolve_command(ctx, args)
        return point.name, load(point), args[1:]


app = typer.Typer(
    cls=LazyVerbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fine-tune hosted foundation models where the data lives.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(version("plasmid") + "\n")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fine-tune hosted foundation models where the data lives."""


def main() -> None:
    """Run the command and exit with its status."""
    # httpx imports its own command line wherever rich is, which costs each site 2 MB for nothing.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    arguments = sys.argv[1:]
    try:
        status = get_command(app)(args=arguments, prog_name="plasmid", standalone_mode=False)
    except UsageError as error:
        _fail(arguments, error)
    except Exception as error:
        # typer may carry its own copy of click, so its errors are known by their shape, not by a class.
        if hasattr(error, "format_message"):
            where = getattr(error, "ctx", None)
            command = where.command_path if where else "plasmid"
            _fail(
                arguments,
                UsageError("usage.invalid", error.format_message(), f"Try '{command} --help'."),
            )
        if type(error).__name__ == "Abort":
            sys.exit(130)
        raise
    sys.exit(status if isinstance(status, int) else 0)


def _fail(arguments: list[str], error: UsageError) -> None:
    asked = "--format=json" in arguments or ("--format", "json") in pairwise(arguments)
    print_envelope(Reply(Format.json if asked else Format.text), error)
    sys.exit(2)


if __name__ == "__main__":
    main()
