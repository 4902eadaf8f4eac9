"""Cohorts and mappings whose every name, code and value tries to leave its place in a query."""

from __future__ import annotations

import random
from typing import Any

HOSTILE = (
    "; DROP TABLE person",
    "'); DROP TABLE person; --",
    "x' UNION SELECT password FROM users --",
    "') UNION SELECT * FROM read_csv('/etc/passwd') --",
    "read_csv('/etc/passwd')",
    '" FROM read_text("/etc/passwd") --',
    "E11' OR '1'='1",
    "\\' OR 1=1 --",
    "\\",
    "\\\\'",
    "'",
    "''",
    '"',
    '""',
    "`",
    "]",
    "]]; DROP TABLE person --",
    "/* */",
    "*/ ; DELETE FROM person; /*",
    "--",
    "#",
    "$$; SELECT 1; $$",
    "{{ secret }}",
    "{% raw %}",
    "${HOME}",
    ":name",
    "%s",
    "?",
    "@@version",
    "N'x'",
    "E'\\x27'",
    "U&'\\0027'",
    "q'[x]'",
    "\u2019; DROP TABLE person",
    "\uff07 OR 1=1",
    "\u02bc",
    "\u202e'",
    "Äß€",
    "\U0001f600",
    "select",
    "NULL",
    "plasmid_person",
    "PLASMID_index",
    "pg_read_file('/etc/passwd')",
    "COPY person TO '/tmp/x'",
    "ATTACH 'x'",
)
REFUSED = ("a\nb; DROP TABLE person", "a\tb", "a\rb", "a\x00b", "", " ", " E11", "a" * 300)
"""What no name, code or value may be."""
PLAIN = ("E11", "4548-4", "person", "Code", "I21.0", "yes", "no", "mg/dL")
TABLES = ("condition", "drug", "procedure", "measurement", "observation", "visit", "note", "death")
SYSTEMS = ("omop", "icd10", "icd9", "snomed", "loinc", "atc", "rxnorm", "cpt", "local")


class Maker:
    """Random specs by a source of randomness; about half of what it writes is hostile."""

    def __init__(self, source: random.Random, share: float = 0.5) -> None:
        self.source, self.share = source, share
        self.names: list[str] = []
        self.used: set[str] = set()
        self.systems = source.sample(SYSTEMS, source.choice((1, 1, 1, 2)))

    def word(self) -> str:
        if self.source.random() < 0.003:
            return self.source.choice(REFUSED)
        if self.source.random() < self.share:
            return "".join(self.source.choice(HOSTILE) for _ in range(self.source.choice((1, 1, 1, 2))))[:100]
        return self.source.choice(PLAIN)

    def name(self, plain: str) -> str:
        """Return a name that is nearly always a sound one, so that specs get past the schema."""
        return self.word() if self.source.random() < 0.003 else plain

    def some(self, most: int) -> range:
        return range(self.source.randint(1, most))

    def window(self) -> dict[str, Any]:
        kind = self.source.randrange(4)
        if kind == 0:
            return {"since": self.name("2020-01-01"), "until": "2021-12-31"}
        if kind == 1:
            return {"days_before": self.name("ever"), "days_after": self.source.choice((0, 30, "ever"))}
        return {"days_before": self.source.randint(-1, 400), "days_after": self.source.randint(1, 400)}

    def concepts(self) -> str | None:
        if self.source.random() < 0.3:
            return None
        chosen = self.source.choice(self.names)
        self.used.add(chosen)
        return chosen

    def events(self, *tables: str) -> dict[str, Any]:
        table = self.source.choice(tables or TABLES)
        found: dict[str, Any] = {"table": self.name(table), "within": self.window()}
        if table != "death":
            found["concepts"] = self.concepts()
        if table in ("measurement", "observation") and self.source.random() < 0.4:
            unit = self.source.choice(("%", "mg/dL", "'--", "[ppth]")) if self.source.random() < 0.3 else None
            found["value"] = {"at_least": self.source.uniform(-9, 9), "unit": unit}
        return found

    def criterion(self, depth: int) -> dict[str, Any]:
        kind = self.source.choice(("event", "event", "sex", "age", "observed_days", "all", "any", "none"))
        if kind in ("all", "any", "none") and depth < 4:
            return {kind: [self.criterion(depth + 1) for _ in self.some(2)]}
        if kind == "sex":
            return {"sex": [self.name("female")]}
        if kind == "age":
            return {"age": {"at_least": self.source.randint(0, 90)}}
        if kind == "observed_days" and self.source.random() < 0.1:
            return {"observed_days": self.source.randint(0, 400)}
        return {"event": {**self.events(), "at_least": self.source.randint(1, 3)}}

    def definition(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a definition, and the column of the contract that it is of."""
        number = {"type": "number", "bounds": [0, 1]}
        take = self.source.choice(
            ("sex", "age", "index", "value", "count", "days", "present", "code", "text")
        )
        if take == "sex":
            word = self.word()
            return {"take": take, "values": {"female": word}}, {"type": "category", "vocabulary": [word]}
        if take == "age":
            return {"take": take}, number
        if take == "index":
            return {"take": take, "part": "year"}, number
        pick = {"pick": self.source.choice(("first", "last"))}
        if take == "value":
            unit = self.word() if self.source.random() < 0.5 else None
            events = self.events("measurement", "observation")
            return {"take": take, **pick, **events}, {**number, "unit": unit}
        if take == "present":
            yes, no = self.word(), self.word() + "x"
            column = {"type": "category", "vocabulary": [yes, no]}
            return {"take": take, "values": [yes, no], **self.events()}, column
        if take == "text":
            return {"take": take, **pick, **self.events("note")}, {"type": "text", "max_length": 9}
        events = self.events() if take != "code" else self.events("condition", "drug", "visit")
        if take == "code":
            return {"take": take, **pick, **events}, {"type": "category", "vocabulary": [self.word()]}
        return {"take": take, **(pick if take == "days" else {}), **events}, number

    def spec(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a cohort and the contract's columns, both as documents."""
        self.names = [self.name(f"set{number}") for number in self.some(3)]
        concepts = {
            name: {
                "codes": {
                    self.name(self.source.choice(self.systems)): [self.word() for _ in self.some(4)]
                    for _ in self.some(2)
                },
                "descendants": self.source.random() < 0.2,
            }
            for name in self.names
        }
        columns, contract = {}, {}
        for _ in self.some(2):
            called = self.word()
            columns[called], contract[called] = self.definition()
        columns["who"], contract["who"] = {"take": "person"}, {"type": "identifier"}
        index: dict[str, Any] = {"date": "2022-01-01"}
        if self.source.random() < 0.8:
            table = self.source.choice(TABLES[:-1])
            pick = self.source.choice(("first", "last", "every"))
            index = {"table": table, "concepts": self.concepts(), "pick": pick}
        where = [self.criterion(1) for _ in self.some(2)]
        if self.source.random() > 0.01:
            concepts = {name: given for name, given in concepts.items() if name in self.used}
        return {"concepts": concepts, "index": index, "where": where, "columns": columns}, contract

    def column(self) -> str | dict[str, Any]:
        """Return how a column is mapped."""
        if self.source.random() < 0.8:
            return self.word()
        codes = {self.word(): self.word() for _ in self.some(3)}
        return {"column": self.word(), "codes": codes, "other": self.source.choice((None, self.word()))}

    def mapping(self) -> dict[str, Any]:
        """Return a view's tables, as a document."""
        found: dict[str, Any] = {}
        wanted = {
            "person": ("person", "birth_date", "sex", "death_date"),
            "measurement": ("person", "date", "code", "value", "unit"),
            "observation": ("person", "date", "code", "value"),
            "note": ("person", "date", "code", "text"),
            "ancestor": ("ancestor", "descendant"),
        }
        for table in (*TABLES[:-1], "person", "ancestor"):
            columns = wanted.get(table, ("person", "date", "code"))
            mapped: dict[str, Any] = {column: self.word() for column in columns}
            for column in ("code", "sex"):
                if column in mapped:
                    mapped[column] = self.column()
            if self.source.random() < 0.3 and "code" in mapped:
                mapped["system"] = self.column()
            if "date" in mapped and self.source.random() < 0.2:
                mapped["date"] = {"column": self.word(), "date_format": "%d" + self.word() + "%m.%Y"}
            found[table] = {
                "table": self.word(),
                "columns": mapped,
                "system": self.source.choice((*self.systems * 20, self.source.choice(SYSTEMS))),
                "units": {self.word(): self.word() for _ in self.some(2)} if "unit" in mapped else {},
            }
        return found
