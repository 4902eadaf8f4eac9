"""The kinds of task that a recipe can train and an adapter can answer: one file each, found by being here.

Rules
-----
1. A kind is a :class:`Task`, the recipe's section, and a :class:`Head`, the adapter's, which says everything
   that is done with it. A new file is a new kind; no list of names is kept anywhere.
2. A head whose ``kind`` is not told is a classification.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Discriminator, Field, Tag

from plasmid.tasks._base import IGNORED, Answers, Head, Task

__all__ = ["IGNORED", "Answers", "AnyHead", "AnyTask", "Head", "Task", "source_of"]

for _found in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_found.name}")


def _kind_of(value: Any) -> str:
    kind = value.get("kind", "classification") if isinstance(value, dict) else getattr(value, "kind", "")
    return str(kind)


def _kind(one: type[Head]) -> str:
    return str(one.model_fields["kind"].default)


def source_of(kind: str) -> Path | None:
    """Return the file that says what *kind* minimises; None where there is no such kind."""
    found = next((one for one in Head.__subclasses__() if _kind(one) == kind), None)
    return None if found is None else Path(str(sys.modules[found.__module__].__file__))


if TYPE_CHECKING:
    AnyTask = Task
    AnyHead = Head
else:
    AnyTask = Annotated[reduce(or_, Task.__subclasses__()), Field(discriminator="kind")]
    AnyHead = Annotated[
        reduce(or_, (Annotated[one, Tag(_kind(one))] for one in Head.__subclasses__())),
        Discriminator(_kind_of),
    ]
