"""Schema errors as a person reads them: where, which key, what, and what was probably meant."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

Location = tuple[str | int, ...]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def known_keys(model: type[BaseModel], path: Location) -> list[str]:
    """Return the keys that *model* takes at *path* (union tags included, as pydantic reports them)."""
    annotation: Any = model
    for part in path:
        annotation = _step(annotation, part)
    return list(annotation.model_fields) if _is_model(annotation) else []


def plain_path(model: type[BaseModel], path: Location) -> Location:
    """Return *path* without the union tags that pydantic puts into it: the path in the document."""
    annotation: Any = model
    plain: list[str | int] = []
    for part in path:
        if part not in _tags(annotation):
            plain.append(part)
        annotation = _step(annotation, part)
    return tuple(plain)


def describe(model: type[BaseModel], error: ErrorDetails) -> list[tuple[Location, str]]:
    """Return one or more ``(path in the document, what is wrong)`` for one pydantic *error*."""
    path = plain_path(model, error["loc"])
    context = error.get("ctx", {})
    given = error["input"]
    match error["type"]:
        case "contradiction":
            return [(tuple(place), what) for place, what in context["problems"]]
        case "extra_forbidden":
            key = str(error["loc"][-1])
            return [(path, "unknown key" + did_you_mean(key, known_keys(model, error["loc"][:-1])))]
        case "missing":
            return [(path, "is missing")]
        case "union_tag_not_found":
            return [((*path, str(context["discriminator"]).strip("'")), "is missing")]
        case "union_tag_invalid":
            known = [word.strip("' ") for word in str(context["expected_tags"]).split(",")]
            key = str(context["discriminator"]).strip("'")
            what = f"one of {', '.join(known)}, not {context['tag']!r}"
            return [((*path, key), what + did_you_mean(str(context["tag"]), known))]
        case "literal_error":
            hint = did_you_mean(given, get_literals(context)) if isinstance(given, str) else ""
            return [(path, f"must be {context['expected']}, not {shown(given)}{hint}")]
        case "value_error":
            return [(path, str(context["error"]))]
        case "model_type":
            return [(path, f"should be a map, not {shown(given)}")]
        case "too_short" | "too_long":
            return [(path, f"should have {_size(context)}, not {context['actual_length']}")]
    text = error["msg"].removeprefix("Input ").replace("dictionary", "map").replace("tuple", "list")
    return [(path, f"{text}, not {shown(given)}")]


def without_echoes(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Leave out that a list is too short where the reason is that its items are wrong."""
    places = [error["loc"] for error in errors]
    return [
        error
        for error in errors
        if error["type"] != "too_short"
        or not any(
            len(place) > len(error["loc"]) and place[: len(error["loc"])] == error["loc"] for place in places
        )
    ]


def _size(context: Mapping[str, Any]) -> str:
    if "min_length" in context:
        return f"at least {context['min_length']} items"
    return f"at most {context['max_length']} items"


def get_literals(context: Mapping[str, Any]) -> list[str]:
    """Return the words of pydantic's ``"'a', 'b' or 'c'"``."""
    return [word.strip("' ") for word in str(context["expected"]).replace(" or ", ",").split(",")]


def shown(value: object) -> str:
    """Return *value* as a message quotes it: at most 60 characters, of a map or list its kind alone."""
    if isinstance(value, Mapping):
        return "a map"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _bare(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _members(annotation: Any) -> list[Any]:
    annotation = _bare(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return [_bare(member) for member in get_args(annotation) if member is not type(None)]
    return [annotation]


def _tags(annotation: Any) -> dict[Any, Any]:
    """Return the members of a tagged union by tag."""
    members = _members(annotation)
    tags: dict[Any, Any] = {}
    for member in members if len(members) > 1 else []:
        for key in ("type", "kind"):
            if _is_model(member) and key in member.model_fields:
                field = _bare(member.model_fields[key].annotation)
                if get_origin(field) is Literal:
                    tags.update(dict.fromkeys(get_args(field), member))
    return tags


def _step(annotation: Any, part: str | int) -> Any:
    tags = _tags(annotation)
    if part in tags:
        return tags[part]
    for member in _members(annotation):
        if _is_model(member):
            field = member.model_fields.get(str(part))
            return None if field is None else field.annotation
        arguments = get_args(member)
        if get_origin(member) is dict:
            return arguments[1]
        if get_origin(member) in (list, tuple) and isinstance(part, int):
            return arguments[0]
    return None
