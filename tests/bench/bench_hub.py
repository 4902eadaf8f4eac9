"""``hub``: finding one of 100,000 repositories, each figure beside its limit (the column "peer").

Rules
-----
1. A figure is the 95th percentile of wall times in this process, of one page of 50 with its tags, as the hub
   asks for it; every question is asked again and again with other words, and all of them count alike.
2. The rows are written in bulk, not by commits; they are what commits would have left.
3. What the slowest question takes is told beside, without a goal.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import Engine, insert, text

from bench.harness import Result
from plasmid.hub.store.card_facts import WORD, title_words
from plasmid.hub.store.database import open_hub_engine, writing
from plasmid.hub.store.finding import Finding, Query
from plasmid.hub.store.migrations import upgrade
from plasmid.hub.store.records import Account
from plasmid.hub.store.tables import AccountRow, CommitRow, RefRow, RepoRow, TagRow, TextsRow

LIMIT_MS = 100.0
REPOS = 100_000
OWNERS = 1_000
BASES = 300
TIMES = 12
PAGE = 50
_PART = 5_000
_TASKS = ("tcr", "phenotype", "icd", "binding", "toxicity", "expression", "survival", "triage")
_LICENCES = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "other")
_WORDS = (
    "lora",
    "adapter",
    "federated",
    "small",
    "large",
    "v1",
    "v2",
    "clinical",
    "antibody",
    "protein",
    "multi",
)


def main() -> list[Result]:
    """Measure lists and searches on SQLite and on PostgreSQL."""
    found = []
    for name, opened in (("SQLite", sqlite), ("PostgreSQL", postgresql)):
        with opened() as engine:
            upgrade(engine)
            fill(engine)
            finding = Finding(engine)
            for what, questions in (("list", LISTS), ("search", SEARCHES)):
                took = {title: _times(finding, ask) for title, ask in questions.items()}
                _tell(name, took)
                everything = [ms for times in took.values() for ms in times]
                figure = statistics.quantiles(everything, n=20)[-1]
                found.append(
                    Result.share(
                        f"{name}: {what} among {REPOS:,} repositories, p95",
                        ours=figure,
                        peer=LIMIT_MS,
                        unit="ms",
                        goal=1.0,
                    )
                )
    return found


@contextmanager
def sqlite() -> Iterator[Engine]:
    """Yield an engine of an empty SQLite database."""
    with tempfile.TemporaryDirectory() as folder:
        engine = open_hub_engine(f"sqlite:///{Path(folder) / 'hub.db'}")
        yield engine
        engine.dispose()


@contextmanager
def postgresql() -> Iterator[Engine]:
    """Yield an engine of an empty database of a PostgreSQL with its default settings."""
    from support.servers.postgres_server import running

    with running() as server:
        engine = open_hub_engine(server.database("bench"))
        yield engine
        engine.dispose()


# -- the rows --------------------------------------------------------------------------------------


def fill(engine: Engine, count: int = REPOS) -> None:
    """Write *count* repositories of :data:`OWNERS` organisations."""
    random = Random(0)
    owners = [
        {"key": key, "name": _owner(key), "folded": _owner(key), "kind": "organisation", "created": 0}
        for key in range(1, OWNERS + 1)
    ]
    with writing(engine) as connection:
        connection.execute(insert(AccountRow), owners)
        for first in range(1, count + 1, _PART):
            keys = range(first, min(first + _PART, count + 1))
            tags = {key: _tags(random) for key in keys}
            titles = {key: _title(random) for key in keys}
            connection.execute(insert(RepoRow), [_repo(key, tags[key], random) for key in keys])
            connection.execute(
                insert(TextsRow),
                [{"repo": key, "title": titles[key], "terms": "", "card": "{}"} for key in keys],
            )
            connection.execute(insert(CommitRow), [_commit(key) for key in keys])
            connection.execute(insert(RefRow), [_main(key) for key in keys])
            connection.execute(
                insert(TagRow),
                [
                    {"repo": key, "tag": tag}
                    for key in keys
                    for tag in (*tags[key], *(WORD + word for word in title_words(titles[key])))
                ],
            )
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))  # what its own autovacuum does within a minute


def _owner(key: int) -> str:
    return f"lab{key}"


def _title(random: Random) -> str:
    study = f"cohort{random.randrange(2_000)}"
    return f"A LoRA adapter for {random.choice(_TASKS)}: {random.choice(_WORDS)} samples of {study}"


def _tags(random: Random) -> list[str]:
    base = f"plasmid/base-{int(random.paretovariate(0.6)) % BASES}"
    return sorted(
        {
            "peft",
            "plasmid",
            random.choice(("lora", "federated")),
            f"license:{random.choice(_LICENCES)}",
            f"base_model:{base}",
            f"base_model:adapter:{base}",
            f"task:{random.choice(_TASKS)}",
            f"metric:{random.choice(('auc', 'accuracy'))}",
            f"unit:{random.choice(('record', 'patient', 'site'))}",
            f"study:{random.randrange(20_000)}",
        }
    )


def _repo(key: int, tags: list[str], random: Random) -> dict[str, Any]:
    owner = random.randint(1, OWNERS)
    name = f"{_owner(owner)}/{random.choice(_TASKS)}-{random.choice(_WORDS)}-{random.choice(_WORDS)}-{key}"
    return {
        "key": key,
        "owner": owner,
        "name": name,
        "folded": name,
        "private": random.random() < 0.1,
        "gated": "",
        "created": random.randrange(10**15),
        "updated": random.randrange(10**15),
        "downloads": int(random.paretovariate(0.8)),
        "metric": random.random() if random.random() < 0.8 else None,
        "epsilon": random.uniform(0.1, 16) if random.random() < 0.6 else None,
        "retired": "a site withdrew" if random.random() < 0.02 else None,
        "filled": 1,
    }


def _commit(key: int) -> dict[str, Any]:
    said = {"title": "t", "description": "", "author": "a", "created": 0}
    return {"key": key, "repo": key, "id": f"{key:040x}", "parent": None, **said}


def _main(key: int) -> dict[str, Any]:
    return {"repo": key, "kind": "branch", "name": "main", "commit": key, "message": ""}


# -- the questions ---------------------------------------------------------------------------------

Ask = Callable[[Random], Query]
MEMBER = Account(1, _owner(1), "user", None, "read", {_owner(2): "read", _owner(3): "admin"})

LISTS: dict[str, Ask] = {
    "newest": lambda _: Query(),
    "most downloaded": lambda _: Query(sort="downloads"),
    "best": lambda _: Query(sort="metric"),
    "smallest epsilon": lambda _: Query(sort="epsilon"),
    "by name": lambda _: Query(sort="name"),
    "of an author": lambda random: Query(author=_owner(random.randint(1, OWNERS))),
    "of a frequent base": lambda random: Query(base=f"plasmid/base-{random.randint(1, 5)}", sort="metric"),
    "of a rare base": lambda random: Query(base=f"plasmid/base-{random.randint(100, 290)}"),
    "of a licence, best": lambda random: Query(licence=random.choice(_LICENCES), sort="metric"),
}
SEARCHES: dict[str, Ask] = {
    "a frequent word": lambda random: Query(search=random.choice(_WORDS)),
    "two words": lambda random: Query(search=f"{random.choice(_TASKS)} {random.choice(_WORDS)}"),
    "a name's end": lambda random: Query(search=f"-{random.randint(1, REPOS)}"),
    "a rare word, most downloaded": lambda random: Query(
        search=f"study:{random.randrange(20_000)}", sort="downloads"
    ),
    "a rare word of titles": lambda random: Query(search=f"cohort{random.randrange(2_000)}"),
    "a frequent and a rare word of titles": lambda random: Query(
        search=f"samples cohort{random.randrange(2_000)}", sort="downloads"
    ),
    "nothing": lambda random: Query(search=f"absent{random.random()}"),
    "a rare tag": lambda random: Query(tags=(f"study:{random.randrange(20_000)}",), sort="downloads"),
    "task, licence, unit": lambda random: Query(
        tags=(f"task:{random.choice(_TASKS)}", "unit:patient"), licence="mit", sort="downloads"
    ),
    "base, metric and epsilon": lambda random: Query(
        base=f"plasmid/base-{random.randint(1, 50)}", min_metric=0.9, max_epsilon=2.0, sort="metric"
    ),
    "strict figures": lambda random: Query(min_metric=0.99, max_epsilon=random.uniform(0.2, 0.5)),
    "tags that exclude each other": lambda _: Query(tags=("metric:auc", "metric:accuracy")),
    "a word with an absent tag": lambda _: Query(search="lora", tags=("nobody:has",)),
}


def _times(finding: Finding, ask: Ask) -> list[float]:
    """Return the wall times in ms: of first pages, and each time of the page after it."""
    random, took = Random(1), []
    for turn in range(TIMES):
        query, cursor = ask(random), None
        for _ in range(2):
            begun = time.perf_counter()
            page = finding.search(query, viewer=MEMBER if turn % 2 else None, limit=PAGE, cursor=cursor)
            took.append(1e3 * (time.perf_counter() - begun))
            cursor = page.cursor
            if cursor is None:
                break
    return took


def _tell(name: str, took: dict[str, list[float]]) -> None:
    for title, times in took.items():
        middle, most = statistics.median(times), max(times)
        print(f"{name}: {title}: {middle:.1f} ms, at most {most:.1f} ms", file=sys.stderr)
