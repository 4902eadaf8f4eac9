"""Row 42. Attack: a transform couples rows of different people, and noise is for one of them.

A view leaves out repeated sequences. A patient is added, first in the table, whose rows repeat those of
everybody else: over all rows, his stay and theirs go. Must hold: one added patient changes one patient, and
the clipped sum by one clip; where that cannot be, the view is refused before anything is answered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from plasmid.bases.store import BaseModel
from plasmid.core.settings import dump_settings
from plasmid.data.table import Table
from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.open_view import open_view
from plasmid.gateway.views import slice_of
from plasmid.recipes.schema import Recipe
from plasmid.worker.dp import UnitSampling
from plasmid.worker.engine import Engine
from support.federation.attacks import FOUR, count_document, private
from support.federation.in_memory import Federation
from support.hospital.snapshots import rows_in
from support.tiny.tiny_task import tiny_recipe, tiny_table

OTHERS = 41
CLIP = 1.0
ALL = UnitSampling("patient", CLIP, 1.0, 16.0, 0.0, max_records=OTHERS)
UNIT = {"unit": "patient", "mechanism": "dp-sgd", "epsilon": 8.0, "delta": 1e-5, "record_clip": CLIP}
VIEW = {"transforms": [{"deduplicate": {"columns": ["sequence"]}}]}


def document(base: BaseModel, privacy: dict[str, Any]) -> Recipe:
    values = tiny_recipe(base).model_dump(mode="json")
    values["data"]["columns"]["who"] = {"type": "identifier"}
    values["data"]["patient"] = "who"
    values["privacy"] |= privacy | {"max_records": OTHERS}
    return Recipe.model_validate(values)


def table(*, added: bool) -> str:
    """Return a row each of 41 patients, and before them the added patient's, who has a row like each."""
    rows = tiny_table(OTHERS).columns
    lines = ["who,sequence,gene,label"]
    if added:
        lines += [
            f"added,{sequence},a,{('no', 'yes')[at % 2]}" for at, sequence in enumerate(rows["sequence"])
        ]
    for at, (sequence, label) in enumerate(zip(rows["sequence"], rows["label"], strict=True)):
        lines.append(f"p{at},{sequence},b,{label}")
    return "\n".join(lines) + "\n"


def read(folder: Path, recipe: Recipe, text: str) -> Table:
    """Return what a site's reader hands on of *text*."""
    home = SiteHome(folder)
    (home.folder / "data").mkdir(parents=True)
    home.views.mkdir()
    home.write_config(SiteConfig(name="alpha", organisation="Alpha", public_size=100))
    (home.views / f"{recipe.name}.yaml").write_bytes(dump_settings(VIEW))
    (home.folder / "data" / "table.csv").write_text(text)
    opened = open_view(home, slice_of(home, recipe), recipe)
    try:
        return rows_in(opened.descriptor)
    finally:
        opened.close()


def clipped_sum(recipe: Recipe, base: BaseModel, rows: Table) -> NDArray[Any]:
    """Return what one step of the node's engine adds noise to, every patient in it."""
    engine = Engine(recipe, base, rows, device="cpu")
    state = np.random.default_rng(7).normal(0, 0.1, engine.schema.size).astype(np.float32)
    return engine.gradient_sum(state, sampling=ALL).astype(np.float64)


def rows_by_patient(rows: Table) -> dict[Any, list[str]]:
    found: dict[Any, list[str]] = {}
    for row in rows.records():
        found.setdefault(row["who"], []).append(repr(row))
    return {who: sorted(each) for who, each in found.items()}


def attack(folder: Path, base: BaseModel, privacy: dict[str, Any]) -> tuple[int, float]:
    """Return how many patients one added patient changes, and by how far the clipped sum moves."""
    recipe = document(base, privacy)
    before, after = (read(folder / str(added), recipe, table(added=added)) for added in (False, True))
    left, right = rows_by_patient(before), rows_by_patient(after)
    changed = sum(left.get(who) != right.get(who) for who in left.keys() | right.keys())
    moved = np.linalg.norm(clipped_sum(recipe, base, after) - clipped_sum(recipe, base, before))
    return changed, float(moved)


def test_control_over_all_rows_an_added_patient_takes_everybody_s_place(
    tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    """Without a unit rows are compared with all others, and no noise is promised."""
    changed, moved = attack(tmp_path, tiny["esm"], {})
    assert changed == OTHERS + 1
    assert moved > 5 * CLIP


def test_one_added_patient_changes_himself_alone_and_the_sum_by_one_clip(
    tiny: dict[str, BaseModel], tmp_path: Path
) -> None:
    changed, moved = attack(tmp_path, tiny["esm"], UNIT)
    assert changed == 1
    assert 0.5 * CLIP < moved <= CLIP * (1 + 1e-4)


def test_a_patient_s_own_repeats_are_left_out(tiny: dict[str, BaseModel], tmp_path: Path) -> None:
    recipe = document(tiny["esm"], UNIT)
    rows = read(tmp_path, recipe, table(added=True) + "p0,WWWW,a,yes\np0,WWWW,b,no\nP0,WWWW,b,no\n")
    assert [row["label"] for row in rows.records() if row["sequence"] == "WWWW"] in (
        ["yes", "no"],
        ["no", "yes"],
    )
    assert rows.rows == 2 * OTHERS + 2


def deduplicated(federation: Federation) -> None:
    for site in FOUR:
        home = federation.home(site)
        home.views.mkdir()
        (home.views / f"{federation.document.name}.yaml").write_bytes(
            dump_settings({"transforms": [{"deduplicate": {}}]})
        )


def test_where_records_are_protected_such_a_view_is_refused_before_an_answer(tmp_path: Path) -> None:
    federation = private(tmp_path, tables=dict.fromkeys(FOUR, "age\n30\n30\n31\n"))
    deduplicated(federation)
    gateway = federation.gateways["alpha"]
    for answer in (gateway.answer(federation.asking()), gateway.answer(federation.admitting())):
        assert (answer.accepted, answer.code) == (False, "data.not_ready")
    refused = [line for line in federation.log("alpha") if line["action"] == "refused"]
    assert len(refused) == 2
    for line in refused:
        assert line["reason"].startswith("data.transform_unstable: ")
        assert "one added record changes any number of the records" in line["reason"]
    with pytest.raises(Exception, match=r"transforms\.0\.deduplicate") as caught:
        open_view(gateway.home, slice_of(gateway.home, federation.document), federation.document)
    assert caught.value.code == "data.transform_unstable"
    assert "Take it out of the view" in caught.value.hint


def test_control_without_a_unit_the_view_is_answered(tmp_path: Path) -> None:
    plain = count_document().model_copy(update={"privacy": type(count_document().privacy)()})
    federation = private(tmp_path, document=plain, tables=dict.fromkeys(FOUR, "age\n30\n30\n31\n"))
    deduplicated(federation)
    assert federation.admit("alpha").accepted
