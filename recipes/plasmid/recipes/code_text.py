"""Source text less its comments and docstrings: what a digest of a computation covers.

Rules
-----
1. Spans are cut from the text. Neither tokens nor a dumped tree are hashed: both differ between Python
   versions, the text doesn't.
2. A line of which nothing else is left goes whole, with its end.
3. A file that could read its own text (:data:`READERS`), or that isn't plain UTF-8 with line feeds, counts
   as it is: there a comment may be code.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator

READERS = re.compile(
    rb"__doc__|__file__|__loader__|__spec__|\b(inspect|linecache|tokenize|pkgutil|importlib)\b"
)
_COOKIE = re.compile(rb"^[ \t\f]*#.*?coding[:=]")  # PEP 263

Span = tuple[int, int, int, int]
"""First line, first byte, last line, byte after the last; lines count from 1."""


def code_of(source: bytes) -> bytes:
    """Return *source* (Python) without comments and without strings that stand alone as statements.

    Raises
    ------
    SyntaxError
        It is not Python of this interpreter's version.
    """
    cookie = any(_COOKIE.match(line) for line in source.split(b"\n", 2)[:2])
    if b"\r" in source or source.startswith(b"\xef\xbb\xbf") or cookie or READERS.search(source):
        return source
    lines = source.split(b"\n")
    touched: set[int] = set()
    for first, begin, last, end in sorted([*_comments(source), *_strings(source)], reverse=True):
        rest = lines[last - 1][end:]
        lines[first - 1] = lines[first - 1][:begin] + (rest if first == last else b"")
        for between in range(first + 1, last + 1):
            lines[between - 1] = rest if between == last else b""
        touched.update(range(first, last + 1))
    left = [
        line.rstrip() if number in touched else line
        for number, line in enumerate(lines, 1)
        if number not in touched or line.strip()
    ]
    return b"\n".join(left)


def _comments(source: bytes) -> Iterator[Span]:
    text = source.decode("utf-8")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            line, column = token.start
            begin = len(token.line[:column].encode())
            yield line, begin, line, begin + len(token.string.encode())


def _strings(source: bytes) -> Iterator[Span]:
    for node in ast.walk(ast.parse(source)):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(node, ast.Expr) and isinstance(value, ast.Constant) and isinstance(value.value, str):
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            yield node.lineno, node.col_offset, node.end_lineno, node.end_col_offset
