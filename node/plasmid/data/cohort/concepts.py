"""Which rows of a table a concept set means, in the code systems that the table is coded in.

Rules
-----
1. A set's codes of a system are compared with a table's codes of the same system, and with no other.
2. Codes of icd10, icd9 and atc are compared without dots and in upper case, and their descendants are those
   that begin alike. Descendants in other systems are looked up in the mapped table ``ancestor``.
3. Where rows say their own system, a system whose descendants cannot be looked up may still be left out, if
   no row is of it: that is counted first, as a check of the query.
4. Long lists are cut into pieces of 1,000, the most that Oracle takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlglot import exp

from plasmid.core.errors import DataError
from plasmid.data.cohort.dialects import both, case, column, either, integer, is_null, query, table_as, text
from plasmid.data.settings import TableMap
from plasmid.recipes.cohort import ConceptSet

HIERARCHICAL = ("icd10", "icd9", "atc")
_PIECE = 1000


@dataclass(frozen=True)
class CodedTable:
    """A table whose codes are to be matched.

    Attributes
    ----------
    declared, mapping
        Its declared name and its mapping.
    ancestors
        The common table expression of ``ancestor`` (columns ``ancestor``, ``descendant``), or None.
    """

    declared: str
    mapping: TableMap
    dialect: str
    ancestors: tuple[str, TableMap] | None = None

    @property
    def by_row(self) -> bool:
        """Whether a local column says row by row which code system a code is of."""
        return self.mapping.column("system") is not None

    @property
    def systems(self) -> set[str] | None:
        """The code systems that may be in the table; None where only the rows know."""
        mapped = self.mapping.column("system")
        if mapped is None:
            return {self.mapping.system} if self.mapping.system else set()
        if mapped.codes is None:
            return None
        return set(mapped.codes.values()) | ({mapped.other} if mapped.other else set())

    def lacks_hierarchy(self, system: str, concepts: ConceptSet) -> bool:
        """Return whether *concepts* asks for descendants in *system* that nothing here tells."""
        if not concepts.descendants or system in HIERARCHICAL:
            return False
        return self.ancestors is None or self.ancestors[1].system not in (None, system)


def fitting(coded: CodedTable, concepts: ConceptSet) -> list[str]:
    """Return the systems of *concepts* that the table may be coded in, sorted."""
    known = coded.systems
    return [system for system in sorted(concepts.codes) if known is None or system in known]


def unresolved(coded: CodedTable, concepts: ConceptSet) -> list[str]:
    """Return the systems of which no row may be, since :func:`matches` leaves them out."""
    systems = fitting(coded, concepts)
    lacking = [system for system in systems if coded.lacks_hierarchy(system, concepts)]
    return lacking if coded.by_row and len(lacking) < len(systems) else []


def matches(coded: CodedTable, name: str, concepts: ConceptSet, alias: str) -> exp.Expression:
    """Return the condition that the row *alias* (columns ``code``, ``system``) is of the set called *name*.

    Raises
    ------
    DataError
        ``data.code_system_unmapped``: the table is coded in none of the set's systems;
        ``data.hierarchy_missing``: descendants are asked for, and nothing says which they are.
    """
    systems = fitting(coded, concepts)
    if not systems:
        has = ", ".join(sorted(coded.systems or ())) or "no stated system"
        raise DataError(
            "data.code_system_unmapped",
            f"the table {coded.declared} is coded in {has}, the concept set {name} in "
            f"{', '.join(sorted(concepts.codes))}.",
            "Name the table's system in the view (system), or ask for a recipe with codes of yours.",
        )
    conditions = []
    left_out = unresolved(coded, concepts)
    for system in systems:
        if system in left_out:
            continue
        condition = _of_system(coded, name, system, concepts, alias)
        if coded.by_row:
            own = exp.EQ(this=column(alias, "system"), expression=text(system, coded.dialect))
            condition = both(own, condition)
        conditions.append(condition)
    return either(*conditions)


def _of_system(coded: CodedTable, name: str, system: str, concepts: ConceptSet, alias: str) -> exp.Expression:
    codes, dialect = concepts.codes[system], coded.dialect
    code = column(alias, "code")
    if system in HIERARCHICAL:
        dotless = exp.Replace(
            this=code, expression=exp.Literal.string("."), replacement=exp.Literal.string("")
        )
        normal = exp.Upper(this=dotless)
        wanted = sorted({given.replace(".", "").upper() for given in codes} - {""})
        if not concepts.descendants:
            return _one_of(normal, wanted, dialect)
        lengths: dict[int, list[str]] = {}
        for given in wanted:
            lengths.setdefault(len(given), []).append(given)
        heads = [
            _one_of(exp.Substring(this=normal, start=integer(1), length=integer(size)), group, dialect)
            for size, group in sorted(lengths.items())
        ]
        return either(*heads) if heads else _one_of(normal, [], dialect)
    listed = _one_of(code, sorted(set(codes)), dialect)
    if not concepts.descendants:
        return listed
    if coded.ancestors is None or coded.lacks_hierarchy(system, concepts):
        raise DataError(
            "data.hierarchy_missing",
            f"the concept set {name} counts descendants of {system} codes, and no mapped table says which "
            f"they are (table {coded.declared}).",
            "Map the table ancestor (OMOP: concept_ancestor), or ask for a recipe that lists the codes.",
        )
    listed_above = _one_of(column("a", "ancestor"), sorted(set(codes)), dialect)
    below = query([column("a", "descendant")], table_as(coded.ancestors[0], "a"), where=[listed_above])
    return either(listed, exp.In(this=code, query=exp.Subquery(this=below)))


def _one_of(value: exp.Expression, listed: Iterable[str], dialect: str) -> exp.Expression:
    given = list(listed)
    if not given:  # a code of dots alone
        return exp.EQ(this=integer(1), expression=integer(0))
    pieces = [
        exp.In(this=value, expressions=[text(code, dialect) for code in given[start : start + _PIECE]])
        for start in range(0, len(given), _PIECE)
    ]
    return either(*pieces)


def mapped(
    value: exp.Expression, codes: Mapping[str, str], other: str | None, dialect: str
) -> exp.Expression:
    """Return what *codes* make of the text *value*; *other*, or NULL, where they do not list it."""
    if not codes and other is None:
        return exp.Null()
    pairs = [
        (exp.EQ(this=value, expression=text(local.strip(), dialect)), text(meaning, dialect))
        for local, meaning in codes.items()
    ]
    if other is None:
        return case(*pairs)
    return case((is_null(value), exp.Null()), *pairs, otherwise=text(other, dialect))
