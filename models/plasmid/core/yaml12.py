"""YAML 1.2 to plain JSON values, with the line of every key.

Rules
-----
1. ``1e-3`` is a number, ``NO`` and ``2024-01-01`` are strings.
2. Only what JSON can say: maps with string keys, lists, strings, numbers, booleans, null. Anchors,
   aliases, merge keys, tags of other kinds and a key given twice are errors with their line.
3. A file is at most :data:`MAX_BYTES` long, its brackets at most :data:`MAX_BRACKETS` deep: the reader takes
   time that grows with the square of that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MAX_BYTES = 1_000_000
MAX_BRACKETS = 64
_TAG = "tag:yaml.org,2002:"

Location = tuple[str | int, ...]


class Yaml12Error(ValueError):
    """The text is not acceptable YAML; ``line`` counts from 1 and is 0 where it is not known."""

    def __init__(self, what: str, line: int) -> None:
        super().__init__(what)
        self.what = what
        self.line = line


@dataclass
class Lines:
    """The line (from 1) of each path of a document."""

    at: dict[Location, int] = field(default_factory=dict)

    def find(self, path: Location) -> int:
        """Return the line of *path*, or of its nearest ancestor that has one."""
        while path not in self.at and path:
            path = path[:-1]
        return self.at.get(path, 1)


def parse_yaml(text: str) -> tuple[Any, Lines]:
    """Return the value of *text* and the lines of its keys and items.

    Raises
    ------
    Yaml12Error
        The text is not YAML, or says more than JSON can.
    """
    if len(text) > MAX_BYTES:
        raise Yaml12Error(f"longer than {MAX_BYTES} characters", 0)
    _check_brackets(text)
    reader = YAML(typ="safe", pure=True)
    try:
        node = reader.compose(text)
        lines = Lines()
        return (None if node is None else _Builder(reader, lines).value(node, ())), lines
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Yaml12Error(error.problem or "not YAML", mark.line + 1 if mark else 0) from None
    except (YAMLError, ValueError) as error:
        if isinstance(error, Yaml12Error):
            raise
        raise Yaml12Error("holds characters that YAML does not allow", 0) from None
    except RecursionError:
        raise Yaml12Error("nested too deeply", 0) from None


def _check_brackets(text: str) -> None:
    """Raise Yaml12Error if brackets may be nested too deeply; one in a text counts, too."""
    depth = 0
    for found in re.finditer(r"[][{}]", text):
        depth = depth + 1 if found[0] in "[{" else max(0, depth - 1)
        if depth > MAX_BRACKETS:
            raise Yaml12Error("nested too deeply", text.count("\n", 0, found.start()) + 1)


class _Builder:
    def __init__(self, reader: Any, lines: Lines) -> None:
        self.constructor = reader.constructor
        self.lines = lines
        self.seen: set[int] = set()

    def value(self, node: Node, path: Location) -> Any:
        line = node.start_mark.line + 1
        self.lines.at.setdefault(path, line)
        if id(node) in self.seen or node.anchor:
            raise Yaml12Error("anchors and aliases are not used here; write the value out", line)
        self.seen.add(id(node))
        if isinstance(node, MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, ScalarNode):
            return self._scalar(node, line)
        raise Yaml12Error(f"the tag {str(node.tag)[:60]!r} is not used here", line)

    def _mapping(self, node: MappingNode, path: Location) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self._scalar(key_node, line) if isinstance(key_node, ScalarNode) else None
            if not isinstance(key, str):
                raise Yaml12Error("a key must be a string (quote it)", line)
            if key in found:
                raise Yaml12Error(f"the key {key[:60]!r} is given twice", line)
            self.lines.at[(*path, key)] = line
            found[key] = self.value(value_node, (*path, key))
        return found

    def _scalar(self, node: ScalarNode, line: int) -> Any:
        match str(node.tag).removeprefix(_TAG):
            case "str" | "timestamp":
                return str(node.value)
            case "int":
                return int(self.constructor.construct_yaml_int(node))
            case "float":
                return float(self.constructor.construct_yaml_float(node))
            case "bool":
                return bool(self.constructor.construct_yaml_bool(node))
            case "null":
                return None
        raise Yaml12Error(f"the tag {str(node.tag)[:60]!r} is not used here", line)
