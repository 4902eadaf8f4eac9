"""Statistics asked of a federation in memory, one after the other, with each site's own worker code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from plasmid.computations import api
from plasmid.data.table import Table
from plasmid.disclosure.rules import layout_of, people_key
from plasmid.gateway.gateway import Summed
from plasmid.gateway.open_view import Opened
from plasmid.secagg.ring import decode_sum
from plasmid.worker.contributors import evidence_of
from support.federation.attacks import BUDGET, FOUR, as_csv
from support.federation.bundle_recipes import computed
from support.federation.in_memory import Federation, document_of

OFF: dict[str, Any] = {
    "min_cell": None,
    "dominance": None,
    "max_parameters_share": None,
    "rounding": None,
    "overlap": False,
}
"""A policy's ``disclosure`` with every rule turned off."""


def summed(document: Any, table: Table, *, data_key: bytes) -> Any:
    """Return what a site's worker tells its gateway about *table*."""
    vector, layout = computed(document, table), layout_of(document)
    if layout is None:
        return vector
    computation: Any = api.load(document.computation)
    key = people_key(data_key)
    return Summed(vector, evidence_of(computation, document, layout, table.records(), key=key))


@contextmanager
def rows_in_hand(rows: Mapping[str, int]) -> Iterator[None]:
    """Stand for the readers' processes: each site's view has so many rows, in hand already."""

    def opened(home: Any, *_: Any, **__: Any) -> Opened:
        number = rows[home.folder.name]
        home.data_key()  # as opening draws it
        return Opened(descriptor=None, digest=None, rows=number, people=number)

    with mock.patch("plasmid.gateway.admission.open_view", opened):
        yield


class Questions:
    """Sites whose owners answer every document; *disclosure* is of their policies."""

    def __init__(self, root: Path, *, disclosure: Mapping[str, Any] | None = None) -> None:
        self._root, self._asked = root, 0
        self._require = {} if disclosure is None else {"disclosure": dict(disclosure)}
        self.federation: Federation | None = None

    def ask(self, document: Any, tables: Mapping[str, Table] | Table) -> dict[str, Any]:
        """Return the answer to *document* over each site's table, or the one of all; raises a refusal."""
        by_site = dict.fromkeys(FOUR, tables) if isinstance(tables, Table) else dict(tables)
        texts = {site: as_csv(table) for site, table in by_site.items()}
        if self.federation is None:
            self.federation = Federation(
                self._root,
                document=document,
                sites=FOUR,
                tables=texts,
                public_size=1000,
                budgets={"default": BUDGET},
                require=self._require,
            )
        at = self.federation
        at.document, (at.values, at.digest) = document, document_of(document)
        for site, text in texts.items():
            at.allow(site, [at.digest], **self._require)
            (at.home(site).folder / "data" / "table.csv").write_text(text, encoding="utf-8")
        self._asked += 1
        at.new_run(f"question-{self._asked}")
        with rows_in_hand({site: table.rows for site, table in by_site.items()}):
            at.set_up()
        manifest = at.manifest()
        answers = at.answers(manifest, {site: self._made(site, by_site[site]) for site in FOUR})
        total = decode_sum(at.open_sum(list(answers.values()), manifest), manifest.encoding(), len(FOUR))
        computation: Any = api.load(document.computation)
        shape = computation.shape(document, None)
        state = computation.advance(
            document, shape, computation.initial(document, shape), api.Sum(total, len(FOUR), 1)
        )
        return dict(computation.result(document, state, len(FOUR)))

    def _made(self, site: str, table: Table) -> Any:
        assert self.federation is not None
        return summed(self.federation.document, table, data_key=self.federation.home(site).data_key())
