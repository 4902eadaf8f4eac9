"""A first mapping for an owner to correct: which local table and column may be which of the contract's.

Rules
-----
1. Names are compared without case, blanks and signs, values without case and with a sign like any other;
   what is only near is marked ``# check``.
2. Local values are named only where a column is to be one of few values and at least :data:`LEAST` rows have
   them: a view's file is shown to approvers. Rarer ones are counted in a comment.
3. What nothing fits is left as a comment: a proposal is never complete by guessing.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from plasmid.core.errors import DataError
from plasmid.data.cohort.dialects import table_as
from plasmid.data.findings import counted
from plasmid.data.parsing import to_text
from plasmid.data.source import LocalTable, Source
from plasmid.recipes.cohort import SEXES
from plasmid.recipes.columns import AnyColumn, CategoryColumn, LabelColumn, NumberColumn
from plasmid.recipes.declared import TABLES

LEAST = 11
MOST_VALUES = 40
MOST_OWN = 200
_NEAR = 0.72

_TABLE_NAMES = {
    "person": "person persons patient patients demographics subject subjects",
    "condition": "condition conditions condition_occurrence diagnosis diagnoses dx diagnosen",
    "drug": "drug drugs drug_exposure medication medications prescription prescriptions rx",
    "procedure": "procedure procedures procedure_occurrence operations",
    "measurement": "measurement measurements lab labs laboratory labor observation_values vitals results",
    "observation": "observation observations findings",
    "visit": "visit visits visit_occurrence encounter encounters stay stays admission admissions",
    "note": "note notes letter letters report reports documents",
    "ancestor": "concept_ancestor ancestor",
}
_COLUMN_NAMES = {
    "person": "person person_id patient patient_id patientid subject subject_id pat_id pid mrn nr",
    "birth_date": "birth_date birth_datetime date_of_birth dob birthdate born birth geburtsdatum geburt",
    "sex": "sex gender gender_concept_id gender_source_value geschlecht",
    "death_date": "death_date date_of_death death_datetime",
    "date": "date start_date event_date admission_date admitted onset recorded written taken_on datum von",
    "end_date": "end_date discharge_date discharged stop_date",
    "code": "code concept_id icd icd10 icd_code loinc atc type kind",
    "system": "system code_system vocabulary",
    "value": "value value_as_number result numeric_value wert",
    "unit": "unit units unit_source_value einheit",
    "text": "text note_text content body",
    "ancestor": "ancestor_concept_id ancestor",
    "descendant": "descendant_concept_id descendant",
}
_SYNONYMS = [
    ("male", "m", "man", "8507"),
    ("female", "f", "w", "woman", "8532"),
    ("yes", "y", "1", "true", "t", "ja", "j", "oui", "si"),
    ("no", "n", "0", "false", "nein", "non"),
]


@dataclass(frozen=True)
class Proposal:
    """The text of a view's file, and how many lines the owner must look at."""

    text: str
    doubtful: int


def propose(
    source: Source, recipe: str, connection: str | None, document: Any, *, table: str | None = None
) -> Proposal:
    """Return a view for *document*.

    Parameters
    ----------
    recipe
        What the owner calls it on the command line.
    table
        The local table of the rows; None chooses the one whose columns fit best.

    Raises
    ------
    DataError
        ``data.source_table``: there is no such table; what the source raises.
    """
    cohort = getattr(getattr(document, "data", None), "cohort", None)
    lines = [
        f"# The view of {document.name}. A proposal: read every line, correct it, then run",
        f"#   plasmid data check {recipe}",
    ]
    if connection is not None:
        lines.append(f"source: {connection}")
    tables = source.tables()
    if cohort is None:
        lines += _flat(source, tables, document.contract, table)
    elif (model := preset(tables)) is not None:
        lines.append(f"model: {model}")
    else:
        lines += _events(tables, cohort)
    lines += ["# population: default       # whose data these are, if not site.yaml's",
              "# public_size: 1000         # how many people, rounded; public from now on",
              "# transforms:", "#   - opt_out: {file: optout.txt}"]  # fmt: skip
    text = "\n".join(lines) + "\n"
    return Proposal(text, sum("# check" in line or "# missing" in line for line in lines))


def preset(tables: Mapping[str, LocalTable]) -> str | None:
    """Return the preset that the local *tables* look like."""
    names = {name.casefold() for name in tables}
    if {"person", "condition_occurrence", "visit_occurrence"} <= names:
        return "omop-5.4"
    if {"person", "condition", "visit", "measurement"} <= names:
        return "fhir-r4"
    return None


def _flat(
    source: Source, tables: Mapping[str, LocalTable], contract: Any, table: str | None
) -> Iterator[str]:
    if table is None:
        table = max(tables, key=lambda one: _fit(tables[one], contract.columns), default=None)
    if table is None or table not in tables:
        raise DataError(
            "data.source_table",
            f"there is no table {table!r}; there are {', '.join(map(repr, list(tables)[:20])) or 'none'}.",
            "Name one of them with --table.",
        )
    yield from ("tables:", "  rows:", f"    table: {_quoted(table)}", "    columns:")
    for name, column in contract.columns.items():
        local, sure = _nearest(name, tables[table].columns, _also(name))
        if local is None:
            yield f"      # {_quoted(name)}: ...    # missing: no local column is called like it"
            continue
        doubt = "" if sure else "    # check"
        details = list(_details(source, table, local, column, contract.labels))
        if not details:
            yield f"      {_quoted(name)}: {_quoted(local)}{doubt}"
            continue
        yield f"      {_quoted(name)}:{doubt}"
        yield f"        column: {_quoted(local)}"
        yield from (f"        {line}" for line in details)


def _details(
    source: Source, table: str, local: str, column: AnyColumn, labels: Iterable[str]
) -> Iterator[str]:
    """Yield what is to be said of a column beside its name: codes, or a unit."""
    if isinstance(column, NumberColumn) and column.unit is not None:
        yield f"# unit: {_quoted(column.unit)}    # say your unit (UCUM) if it is another one"
    if isinstance(column, LabelColumn | CategoryColumn):
        wanted = list(labels) if isinstance(column, LabelColumn) else list(column.vocabulary)
        values, rare = _values(source, table, local)
        strange = sum(value not in wanted for value in rare)
        if any(value not in wanted for value in values):
            yield "codes:"
            yield from (f"  {line}" for line in _codes(values, wanted))
            own = [value for value in wanted if value not in values]  # whether a row has them or not
            if len(own) <= MOST_OWN:
                yield from (f"  {_quoted(value)}: {_quoted(value)}" for value in own)
            else:
                yield f"  # {len(own)} other values of the contract: list those that you have    # check"
        if strange:
            some = counted(strange, "value")
            yield f"# {some} on fewer than {LEAST} rows each, and none of the contract's    # check"


def _codes(values: Iterable[str], wanted: list[str]) -> Iterator[str]:
    for value in values:
        fits = [one for one in wanted if _same(value, one)]
        if fits:
            yield f"{_quoted(value)}: {_quoted(fits[0])}"
        else:
            yield f"# {_quoted(value)}: ...    # missing: no value of the contract is like it"


def _values(source: Source, table: str, local: str) -> tuple[list[str], list[str]]:
    """Return the values that enough rows have, the commonest first, and the others, not to be shown."""
    column = exp.column(local, "t", quoted=True)
    rows = exp.Alias(this=exp.Count(this=exp.Star()), alias=exp.to_identifier("rows_", quoted=True))
    value = exp.Alias(this=column, alias=exp.to_identifier("value_", quoted=True))
    query = exp.select(value, rows).from_(table_as(table, "t")).group_by(column.copy())
    counts: dict[str, int] = {}
    for batch in source.select(query):
        cells = to_text(batch.column(0)).to_pylist()  # as the mapping compares them
        for cell, number in zip(cells, batch.column(1).to_pylist(), strict=True):
            if cell and len(counts) <= 10_000:
                counts[cell] = counts.get(cell, 0) + int(number)
    enough = (one for one, number in counts.items() if number >= LEAST)
    common = sorted(enough, key=lambda one: (-counts[one], one))
    shown = common[:MOST_VALUES]
    return shown, [one for one in counts if one not in shown]


def _events(tables: Mapping[str, LocalTable], cohort: Any) -> Iterator[str]:
    yield "tables:"
    values = cohort.model_dump(mode="json", exclude_none=True)
    wanted = _wanted(values)
    for declared in sorted(_asked(values) | {"person"}):
        if declared not in TABLES:
            continue
        local, sure = _nearest(declared, tables, _TABLE_NAMES[declared].split())
        if local is None:
            yield f"  # {declared}: ...    # missing: no local table is called like it"
            continue
        yield f"  {declared}:{'' if sure else '    # check'}"
        yield f"    table: {_quoted(local)}"
        if "code" in TABLES[declared]:
            yield "    # system: icd10    # check: the code system of the column code"
        yield "    columns:"
        for column, needed in TABLES[declared].items():
            found, exact = _nearest(column, tables[local].columns, _COLUMN_NAMES[column].split())
            if found is None:
                if needed or (declared, column) in wanted:
                    yield f"      # {column}: ...    # missing: no local column is called like it"
                continue
            yield f"      {column}: {_quoted(found)}{'' if exact else '    # check'}"
            if column == "sex":
                yield f"      # with codes: sex: {{column: ..., codes: {{...}}}} to {', '.join(SEXES)}"


def _wanted(value: Any) -> set[tuple[str, str]]:
    """Return the (table, column) pairs that a cohort's JSON needs beside those that every mapping gives."""
    found: set[tuple[str, str]] = set()
    if isinstance(value, Mapping):
        if value.get("take") == "age" or "age" in value:
            found.add(("person", "birth_date"))
        if value.get("take") == "sex" or "sex" in value:
            found.add(("person", "sex"))
        if value.get("table") == "death":
            found.add(("person", "death_date"))
        if value.get("take") == "value" or "value" in value:
            found.add((str(value.get("table")), "value"))
        value = list(value.values())
    return found.union(*(_wanted(one) for one in value)) if isinstance(value, list) else found


def _asked(value: Any) -> set[str]:
    """Return the declared tables that a cohort's JSON names."""
    if isinstance(value, Mapping):
        own = {value["table"]} if isinstance(value.get("table"), str) else set()
        return own.union(*(_asked(one) for one in value.values()))
    if isinstance(value, list):
        return set().union(*(_asked(one) for one in value))
    return set()


def _fit(table: LocalTable, columns: Mapping[str, AnyColumn]) -> float:
    found = [_nearest(name, table.columns, _also(name)) for name in columns]
    return sum(1.0 if sure else 0.4 for local, sure in found if local is not None)


def _nearest(name: str, local: Iterable[str], names: Iterable[str]) -> tuple[str | None, bool]:
    """Return the local name for *name* (or what else it is called), and whether it is exactly that."""
    plain = {_plain(one): one for one in reversed(list(local))}
    for each in (name, *names):
        if _plain(each) in plain:
            return plain[_plain(each)], True
    for each in (name, *names):
        inside = [one for one in plain if _plain(each) in one and len(_plain(each)) > 3]
        close = difflib.get_close_matches(_plain(each), plain, 1, cutoff=_NEAR) or inside[:1]
        if close:
            return plain[close[0]], False
    return None, False


def _also(name: str) -> list[str]:
    """Return what else a column of a contract may be called."""
    known = (names.split() for names in _COLUMN_NAMES.values())
    return next((names for names in known if _plain(name) in map(_plain, names)), [])


def _same(one: str, other: str) -> bool:
    a, b = (re.sub(r"[\W_]+", " ", value).strip().casefold() for value in (one, other))  # V20-1 is not V2*01
    return a == b or any(a in words and b in words for words in _SYNONYMS)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def _quoted(text: str) -> str:
    return (
        text
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", text) and text.casefold() not in _WORDS
        else json.dumps(text)
    )


_WORDS = {"yes", "no", "true", "false", "null", "on", "off", "y", "n"}
