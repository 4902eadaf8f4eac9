"""Small typed YAML files (policy, peers, site): strict, all problems at once, with file and line.

YAML 1.2: ``1e-3`` is a number, ``NO`` is a string, a key that appears twice is an error.
"""

from __future__ import annotations

import difflib
import io
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from plasmid.core.errors import RecipeError

MAX_BYTES = 1024 * 1024
T = TypeVar("T", bound=BaseModel)


def parse_yaml(text: str, name: str) -> Any:
    """Return the round-trip tree of *text*; nodes carry their lines. Raises RecipeError ``recipe.yaml``."""
    try:
        return YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError("recipe.yaml", f"{name}{line}: not valid YAML: {error.problem}.") from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise RecipeError("recipe.yaml", f"{name}: not valid YAML.") from error


def read_text(path: Path) -> str:
    """Return the text of a settings file. Raises RecipeError ``recipe.unreadable``."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError("recipe.unreadable", f"{path} is larger than {MAX_BYTES} bytes.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError("recipe.unreadable", f"cannot read {path} as UTF-8 text.") from error


def plain(node: Any) -> Any:
    """Return a YAML tree as plain dicts, lists and scalars."""
    if isinstance(node, dict):
        return {str(key): plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [plain(value) for value in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def line_of(tree: Any, location: tuple[int | str, ...]) -> int | None:
    """Return the 1-based line of *location* in a round-trip tree, or of its nearest parent."""
    line: int | None = None
    for key in location:
        try:
            position = tree.lc.key(key) if isinstance(tree, dict) else tree.lc.item(key)
            line, tree = position[0] + 1, tree[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line


def explain(error: ValidationError, tree: Any, name: str, model: type[BaseModel]) -> list[str]:
    """Return one line per problem: ``file:line: path: what (did you mean ...?)``."""
    lines = []
    for problem in error.errors(include_url=False, include_context=False):
        location = problem["loc"]
        line = line_of(tree, location)
        path = ".".join(str(part) for part in location)
        what = problem["msg"]
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(location[-1]), _field_names(model), n=1)
            what = "unknown key" + (f" (did you mean '{near[0]}'?)" if near else "")
        lines.append(f"{name}{f':{line}' if line else ''}: {path}: {what}")
    return lines


def _field_names(model: type[BaseModel]) -> set[str]:
    """Return the field names of *model* and of every model that it holds."""
    names: set[str] = set()
    waiting: list[Any] = [model]
    seen: set[int] = set()
    while waiting:
        kind = waiting.pop()
        if id(kind) in seen:
            continue
        seen.add(id(kind))
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names |= set(kind.model_fields)
            waiting.extend(field.annotation for field in kind.model_fields.values())
        waiting.extend(getattr(kind, "__args__", ()))
    return names


def read_settings(path: Path, model: type[T]) -> T:
    """Return the contents of *path* as *model*.

    Raises
    ------
    RecipeError
        ``recipe.unreadable``, ``recipe.yaml`` or ``recipe.invalid``, naming file and line.
    """
    tree = parse_yaml(read_text(path), str(path))
    try:
        return model.model_validate(plain(tree) if tree is not None else {})
    except ValidationError as error:
        problems = explain(error, tree, str(path), model)
        raise RecipeError("recipe.invalid", "\n".join(problems), "Correct the lines named above.") from error


def dump_settings(values: dict[str, Any]) -> bytes:
    """Return *values* as YAML."""
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.dump(values, stream)
    return stream.getvalue().encode()
