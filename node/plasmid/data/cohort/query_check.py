"""The last look at a query before a source sees it: what its text says, not what was meant.

Rules
-----
1. The text is read back in its dialect. It must be one statement, a SELECT, of the kinds of nodes listed here
   and no other: neither a function nor a statement that isn't listed can be in it.
2. It reads the local tables that it is for and its own expressions, nothing else: no file, no schema, no
   function in the place of a table.
3. Its literals are those that were put in. An engine's quoting that sqlglot got wrong would show here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from functools import lru_cache

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

_PARTS = (
    "Select With CTE TableAlias Identifier Var Table From Join Where Group Order Ordered Distinct Subquery "
    "Alias Column Star Literal National Null Paren Neg Tuple Boolean "
    "And Or Not EQ NEQ GT GTE LT LTE Is In Between Case If Coalesce Nullif "
    "Add Sub Mul Div Mod Cast TryCast Convert DataType DataTypeParam Collate "
    "Trim Replace Translate Substring Length Upper RegexpLike Typeof "
    "Count Min Max RowNumber Window"
)
_ALLOWED = frozenset(getattr(exp, part) for part in _PARTS.split())
_READ_BACK_AS = frozenset(("NULLIF", "TRANSLATE", "TYPEOF", "COLLATE"))
"""Functions that a dialect of sqlglot keeps by name."""


class UnsafeQueryError(Exception):
    """A query is not what it should be: a fault of this package, which nobody can act on but its authors."""


def verify(query: exp.Select, dialect: str, tables: Collection[str]) -> None:
    """Raise UnsafeQueryError unless the text of *query* is one SELECT that reads only *tables*."""
    literals = frozenset(_literals(query).items())
    _verify_text(query.sql(dialect), dialect, frozenset(tables), literals)


@lru_cache(maxsize=256)
def _verify_text(
    written: str, dialect: str, tables: frozenset[str], literals: frozenset[tuple[str, int]]
) -> None:
    """Verify a text. One that passed passes again."""
    try:
        statements = sqlglot.parse(written, dialect=dialect)
    except (SqlglotError, RecursionError):
        raise UnsafeQueryError(f"a query does not read back in {dialect}") from None
    if len(statements) != 1 or not isinstance(statements[0], exp.Select):
        raise UnsafeQueryError(f"a query of {len(statements)} statements, or not a SELECT, in {dialect}")
    _verify_tree(statements[0], dialect, tables)
    if frozenset(_literals(statements[0]).items()) != literals:
        raise UnsafeQueryError(f"the literals of a query read back as others in {dialect}")


def _verify_tree(read: exp.Select, dialect: str, tables: Collection[str]) -> None:
    own = {part.alias for part in read.find_all(exp.CTE)}
    if own & set(tables):
        raise UnsafeQueryError("an expression of a query has the name of a local table")
    for node in read.dfs():
        kind = type(node)
        if kind is exp.Anonymous and str(node.this).upper() in _READ_BACK_AS:
            continue
        if kind not in _ALLOWED:
            raise UnsafeQueryError(f"a query holds {kind.__name__} in {dialect}")
        if isinstance(node, exp.Table):
            plain = isinstance(node.this, exp.Identifier) and _args(node.this) == {"this", "quoted"}
            if not plain or not _args(node) <= {"this", "alias"}:
                raise UnsafeQueryError(f"a table of a query is not a name in {dialect}")
            if node.name not in own and node.name not in tables:
                raise UnsafeQueryError(f"a query reads a table that it is not for, in {dialect}")


def _args(node: exp.Expression) -> set[str]:
    return {key for key, value in node.args.items() if value}


def _literals(tree: exp.Expression) -> Counter[str]:
    """Return how often each text is in *tree*; numbers are left out, for dialects rewrite them."""
    found: Counter[str] = Counter()
    for node in tree.dfs():
        if isinstance(node, exp.National) or (isinstance(node, exp.Literal) and node.is_string):
            found[str(node.this)] += 1
    return found
