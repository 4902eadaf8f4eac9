"""Small typed YAML files (policy, peers, site): strict, all problems at once, with file and line."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

from plasmid.core.errors import RecipeError
from plasmid.core.problems import describe
from plasmid.core.yaml12 import Yaml12Error, parse_yaml

T = TypeVar("T", bound=BaseModel)


def read_settings(path: Path, model: type[T]) -> T:
    """Return the contents of *path* as *model*; an empty file is an empty map.

    Raises
    ------
    RecipeError
        ``recipe.invalid``, naming file, line and key of every problem.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _invalid([f"{path}: cannot be read ({error.strerror})"]) from error
    return parse_settings(content, path, model)


def parse_settings(content: bytes, path: Path, model: type[T]) -> T:
    """Return *content*, which was read from *path*, as :func:`read_settings` does, with its errors."""
    try:
        value, lines = parse_yaml(content.decode("utf-8-sig"))
        return model.model_validate({} if value is None else value)
    except ValidationError as error:
        places = [place for problem in error.errors() for place in describe(model, problem)]
        found = sorted((lines.find(where), ".".join(map(str, where)), what) for where, what in places)
        problems = [f"{path}:{line}: {where}: {what}" for line, where, what in found]
    except Yaml12Error as error:
        problems = [f"{path}:{error.line}: {error.what}"]
    except UnicodeDecodeError:
        problems = [f"{path}: is not UTF-8 text"]
    raise _invalid(problems)


def _invalid(problems: list[str]) -> RecipeError:
    return RecipeError("recipe.invalid", "\n".join(problems), "Correct the lines named above.")


def dump_settings(values: dict[str, Any]) -> bytes:
    """Return *values* as YAML."""
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # its stub says None only
    yaml.dump(values, stream)
    return stream.getvalue().encode()
