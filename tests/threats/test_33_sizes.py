"""Row 33. Attack: the size of what a site sends tells of its data; so may the time that it takes.

Must hold: every message and body of a site has the same length whatever its rows are. *Claim*: how long a
contribution takes depends on the number of rows; see docs/threat-model.md.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from plasmid.core.errors import PlasmidError
from plasmid.data.views.reading import read_table
from plasmid.gateway.sentences import SENTENCES, public
from plasmid.gateway.site_parameters import sampling
from plasmid.protocol.body import pack
from plasmid.protocol.messages import Failed, Signed, sign, wire
from plasmid.recipes.protection import Protection
from plasmid.worker.worker import Session
from support.federation.attacks import BUDGET, count_document
from support.federation.in_memory import Federation
from support.federation.questions import summed
from support.hospital.snapshots import rows_in

PEERS = "age\n40\n50\n"
"""What the other two sites hold, in every case."""
TABLES = {
    "one row": "age\n1\n",
    "hardly a value": "age,sex\n" + ",f\n" * 5 + "7,m\n",
    "all alike": "age\n" + "60\n" * 900,
    "many": "age\n" + "".join(f"{row % 120}.{row:04}\n" for row in range(999)),
    "extremes": "age\n0\n120\n0\n120\n",
}


def said(root: Path, table: str, *, unit: bool) -> list[tuple[str, int]]:
    """Run one round over *table* at alpha; return (type, length) of all that alpha sends, bodies included."""
    document = count_document()
    if not unit:
        document = document.model_copy(update={"privacy": Protection()})
    federation = Federation(
        root,
        document=document,
        tables={"alpha": table, "beta": PEERS, "gamma": PEERS},
        public_size=1000,
        budgets={"default": BUDGET},
    )
    kept: list[tuple[str, int]] = []

    def keep(signed: Any) -> None:
        message: Signed = (
            signed if isinstance(signed, Signed) else sign(federation.identities["alpha"], signed)
        )
        if message.signer == "alpha":
            kept.append((str(message.payload["type"]), len(wire(message))))

    def keep_all(statements: Sequence[Any]) -> None:
        for statement in statements:
            keep(statement)

    admissions = {site: federation.admit(site) for site in federation.sites}
    assert all(answer.accepted for answer in admissions.values()), admissions
    keep(admissions["alpha"])
    adverts = federation.adverts()
    keep_all(adverts)
    inbox = federation.bundles(adverts)
    for bundles in inbox.values():
        keep_all(bundles)
    blobs = federation.recoveries(inbox)
    keep(blobs["alpha"])
    ready = federation.ready(blobs)
    keep_all(ready)
    federation.seal(ready)
    manifest = federation.manifest()
    answers = federation.answers(
        manifest, {site: contribution(federation, site) for site in federation.sites}
    )
    keep(answers["alpha"].contribution)
    kept.append(("body", len(answers["alpha"].body)))
    consents = federation.consents(list(answers.values()))
    keep_all(consents)
    keep_all(federation.shares(consents))
    return kept


def contribution(federation: Federation, site: str) -> Any:
    """Return what the worker makes of the site's own rows."""
    admitted = federation.gateways[site].run(federation.run)
    assert admitted.opened is not None
    descriptor = admitted.opened.descriptor
    if admitted.terms is None:  # a sum in cells, beside which the worker tells of their people
        return summed(federation.document, rows_in(descriptor), data_key=federation.home(site).data_key())
    header = {"document": federation.values, "base": None, "descriptor": os.dup(descriptor or -1)}
    session = Session(SimpleNamespace(send=None), threading.Event(), (header, b""))  # type: ignore[arg-type]
    order = {"phase": "train", "round": 1, "seed": 1, "sampling": sampling(admitted.document, admitted.terms)}
    state = np.zeros(admitted.shape.schema.size, admitted.shape.dtype)
    return session.compute((order, pack("state", state)))


@pytest.mark.promise("sizes-fixed", "fixed-messages")
@pytest.mark.parametrize("unit", [False, True])
def test_all_that_a_site_sends_has_one_length(tmp_path: Path, unit: bool) -> None:
    sent = {name: said(tmp_path / name, table, unit=unit) for name, table in TABLES.items()}
    first = sent["one row"]
    kinds = ["admission", "advert", "bundle", "bundle", "blobs", "ready", "contribution", "body"]
    assert [kind for kind, _ in first] == [*kinds, "consent", "shares"]
    for name, found in sent.items():
        assert found == first, name
    vectors = {name: json.dumps(numbers(table)) for name, table in TABLES.items()}
    assert len({len(text) for text in vectors.values()}) > 1  # the control: the values as text would differ


def numbers(table: str) -> list[float]:
    """Return (sum, sum of squares, count) of a table: what is summed, without an encoding."""
    cells = [line.split(",")[0] for line in table.splitlines()[1:]]
    values = [float(cell) for cell in cells if cell]
    return [sum(values), sum(value * value for value in values), float(len(values))]


PROBLEMS = {
    "a word": "age\nforty\n",
    "many words": "age\n" + "forty\n" * 500,
    "out of bounds": "age\n40\n1e30\n",
    "no such column": "years\n40\n",
    "too many rows": "age\n" + "40\n" * 1001,
    "ragged": "age,sex\n40\n41,f,g\n",
}


@pytest.mark.promise("constant-errors")
def test_a_failure_says_nothing_of_the_data_that_it_is_about(tmp_path: Path) -> None:
    contract = count_document().contract
    told, left = set(), set()
    for table in PROBLEMS.values():
        (tmp_path / "table.csv").write_text(table)
        with pytest.raises(PlasmidError) as caught:
            read_table(tmp_path / "table.csv", contract)
        told.add(str(caught.value))
        code, sentence = public(caught.value)
        failed = Failed(run="run-1", site="alpha", code=code, sentence=sentence)
        left.add(failed.model_dump_json())
        assert sentence == SENTENCES[code]
    assert len(told) == len(PROBLEMS)  # the control: the owner is told what is wrong
    assert len(left) == 1
