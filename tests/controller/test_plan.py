"""The plan: its figures, how many may collude, and who is too few."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.bases import catalogue, outline
from plasmid.bases.store import BaseModel
from plasmid.coordinator.plan import Job, check_named, check_roster, colluders, prepare
from plasmid.core.errors import ModelError, PlasmidError, ProtocolError, RecipeError
from plasmid.protocol.body import pack
from plasmid.recipes.load import load_recipe
from plasmid.recipes.query import MEAN_NORM, PingDocument, QueryDocument
from plasmid.secagg.ring import TAIL
from support.federation.in_memory import document_of
from support.tiny.tiny_task import tiny_recipe


def job(**values: Any) -> Job:
    return prepare(*document_of(PingDocument.model_validate({"length": 1000, "rounds": 4} | values)))


@pytest.mark.parametrize(
    ("organisations", "largest", "c"),
    [
        ("ABCDEF", 1, 1),
        ("AABCDE", 1, 2),
        ("AABBBC", 1, 3),
        ("AABBBC", 2, 5),
        ("AABBBC", 9, 6),
        ("ABC", 0, 1),
        ("", 1, 1),
    ],
)
def test_the_largest_organisations_may_collude(organisations: str, largest: int, c: int) -> None:
    assert colluders({f"site-{index}": name for index, name in enumerate(organisations)}, largest) == c


@pytest.mark.parametrize("organisations", ["ABCDEF", "AABCDE", "AABBBC", "AAAABC"])
@pytest.mark.parametrize("largest", [0, 1, 2])
def test_no_site_that_knows_its_peers_finds_the_plan_too_bold(organisations: str, largest: int) -> None:
    from plasmid.secagg.site import least_colluders

    sites: dict[str, str | None] = {f"site-{index}": name for index, name in enumerate(organisations)}
    c = colluders({site: str(name) for site, name in sites.items()}, largest)
    assert all(least_colluders(sites, largest, me=site) <= c for site in sites)


def test_the_figures_are_those_of_the_bodies() -> None:
    made = job()
    plan = made.plan(6, 1, made.planned(6, 1, 1.0))
    assert plan["trainable_parameters"] == 1000
    assert plan["bytes_up_per_round"] == len(pack("words", np.zeros(1000 + TAIL, np.uint32)))
    down = [pack("state", np.zeros(1000, np.float32)), pack("total", np.zeros(1000 + TAIL, np.uint32))]
    assert plan["bytes_down_per_round"] == sum(map(len, down))
    assert (plan["rounds"], plan["protect"], plan["theta"], plan["min_sites"]) == (4, "masked", 4, 4)
    # 6 (2**28 + 1/2) < 2**31 < 6 (2**29 + 1/2)
    assert plan["step"] == 2.0**-28


@pytest.mark.usefixtures("at_home")
def test_a_recipe_s_figures(tiny: dict[str, BaseModel]) -> None:
    made = prepare(*document_of(tiny_recipe(tiny["esm"])))
    plan = made.plan(3, 1, made.planned(3, 1, 1.0))
    # two layers of 32, query and value, rank 4; 2 labels, 3 slots for the gene
    lora = 2 * 2 * (4 * 32 + 32 * 4)
    assert plan["trainable_parameters"] == lora + 2 * 32 + 2 * 3 + 2
    assert made.base is not None
    assert made.base.digest == tiny["esm"].digest


@pytest.mark.usefixtures("at_home")
def test_a_strategy_is_refused_in_the_plan(tiny: dict[str, BaseModel]) -> None:
    values = tiny_recipe(tiny["esm"]).model_dump(mode="json")
    values["federation"]["server"] = {"strategy": "Krum", "options": {}}
    from plasmid.recipes.digest import recipe_digest

    with pytest.raises(RecipeError, match="the document is malformed") as caught:
        prepare(values, recipe_digest(values, "finetune"))
    assert caught.value.code == "recipe.malformed"


def test_a_digest_that_is_not_the_document_s_is_refused() -> None:
    values, digest = document_of(PingDocument(length=4))
    for document, announced in ((values, "0" * 64), ({**values, "length": 5}, digest)):
        with pytest.raises(ProtocolError) as caught:
            prepare(document, announced)
        assert caught.value.code == "protocol.digest"


@pytest.mark.parametrize("document", [{}, {"computation": "nothing"}, {"computation": "ping"}])
def test_a_document_that_is_none_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(PlasmidError):
        prepare(document, "0" * 64)


@pytest.mark.parametrize(
    ("n", "c", "survives"), [(3, 1, 0), (4, 1, 1), (6, 1, 2), (10, 3, 3), (50, 16, 16), (64, 1, 31)]
)
def test_how_many_drop_outs_a_plan_survives(n: int, c: int, survives: int) -> None:
    made = job()
    plan = made.plan(n, c, made.planned(n, c, 0.0))
    assert (plan["theta"], plan["min_sites"], plan["survives"]) == (n - survives, n - survives, survives)
    strict = job(federation={"min_sites": min(n, n - survives + 1)})
    assert strict.plan(n, c, strict.planned(n, c, 0.0))["survives"] == max(0, survives - 1)


def test_without_masks_the_recipe_alone_says_how_many_may_be_missing() -> None:
    made = job(privacy={"protect": "none"})
    plan = made.plan(6, 1, made.planned(6, 1, 0.0))
    assert (plan["theta"], plan["min_sites"], plan["survives"]) == (0, 3, 3)


def test_spare_attempts_are_planned() -> None:
    made = job(federation={"spare_attempts": 7})
    plan = made.plan(3, 1, made.planned(3, 1, 0.0))
    assert (plan["rounds"], plan["attempts"]) == (4, 11)


def noised(**federation: Any) -> Job:
    values = {
        "name": "mean",
        "column": "age",
        "bounds": (0.0, 100.0),
        "max_rows": 1000,
        "federation": federation,
        "privacy": {
            "unit": "record",
            "mechanism": "dp-fedsgd",
            "epsilon": 2.0,
            "delta": 1e-6,
            "record_clip": MEAN_NORM,
        },
    }
    return prepare(*document_of(QueryDocument.model_validate(values)))


def test_shared_noise_is_planned_for_the_honest_alone_and_grows_with_the_attempts() -> None:
    def std(n: int, c: int, **federation: Any) -> float:
        made = noised(**federation)
        plan = made.plan(n, c, made.planned(n, c, 1.0))
        assert (plan["unit"], plan["mechanism"], plan["epsilon"], plan["delta"]) == (
            "record",
            "dp-fedsgd",
            2.0,
            1e-6,
        )
        assert plan["length"] == 3
        return float(plan["noise_std"])

    # What the honest shares add up to follows from epsilon, however many sites there are.
    assert std(5, 1, spare_attempts=0) == pytest.approx(std(9, 3, spare_attempts=0), rel=1e-3)
    one, four = std(5, 1, spare_attempts=0), std(5, 1, spare_attempts=3)
    assert 1.9 * one < four < 2.2 * one  # four releases: about twice


def test_a_later_epoch_keeps_the_noise_of_the_first() -> None:
    made = noised(spare_attempts=0)
    first = made.planned(6, 1, 1.0)
    before, after = made.plan(6, 1, first), made.plan(4, 1, first)
    assert (after["noise_std"], after["scale_log2"]) == (before["noise_std"], before["scale_log2"])
    assert (before["min_sites"], after["min_sites"]) == (4, 3)


def test_a_roster_that_is_enough() -> None:
    assert check_roster(job(), ["a", "b", "c"], {}, 1) is None
    assert check_roster(job(privacy={"protect": "none"}), ["a", "b", "c"], {}, 2) is None


def test_too_few_sites_are_told_who_refused_and_why() -> None:
    refused = {"gamma": "it did not answer", "beta": "The site has no policy. [policy.absent]"}
    with pytest.raises(RecipeError) as caught:
        check_roster(job(), ["alpha", "delta"], refused, 1)
    assert caught.value.code == "recipe.too_few_sites"
    assert caught.value.message == (
        "2 sites accept, federation.min_sites is 3.\n"
        "  beta: The site has no policy. [policy.absent]\n"
        "  gamma: it did not answer"
    )


@pytest.mark.parametrize(("n", "c", "accepted"), [(3, 1, True), (3, 2, False), (6, 4, True), (6, 5, False)])
def test_a_mask_must_hide_something(n: int, c: int, accepted: bool) -> None:
    roster = [f"site-{index}" for index in range(n)]
    if accepted:
        assert check_roster(job(), roster, {}, c) is None
        return
    with pytest.raises(RecipeError) as caught:
        check_roster(job(), roster, {}, c)
    assert caught.value.code == "recipe.colluders"
    assert caught.value.message == f"{n} sites of which {c} may collude: a mask would hide nothing."


@pytest.mark.usefixtures("at_home")
def test_settings_of_a_site_that_is_not_invited_are_refused(tiny: dict[str, BaseModel]) -> None:
    values = tiny_recipe(tiny["esm"]).model_dump(mode="json")
    values["federation"]["weights"] = {"by": "public", "sites": {"alpha": 2.0, "bata": 1.0}}
    values |= {"computation": "sketch"}
    values["adapter"] |= {"ranks": {"elsewhere": 2}, "sketch_width": 16}
    made = prepare(*document_of(type(tiny_recipe(tiny["esm"])).model_validate(values)))
    assert check_named(made, ["alpha", "bata", "elsewhere", "gamma"]) is None
    with pytest.raises(RecipeError) as caught:
        check_named(made, ["alpha", "beta", "gamma"])
    assert caught.value.code == "recipe.site_unknown"
    assert caught.value.message == (
        "adapter.ranks names elsewhere; federation.weights names bata (did you mean 'beta'?): "
        "not among the sites that are invited (alpha, beta, gamma)."
    )


def test_a_base_without_weights_is_planned_and_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(outline, "_of_child", lambda name: outline.shapes_of(catalogue.described(name)))  # type: ignore[arg-type]
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path))
    resolved = load_recipe("disorder-amplify")
    job = prepare(resolved.document, resolved.digest, planning=True)
    assert job.shape.schema.size == 8 * 2 * 2 * 8 * 960 + 2 * 960 + 2
    with pytest.raises(ModelError, match="plasmid models import amplify-350m") as caught:
        prepare(resolved.document, resolved.digest)
    assert caught.value.code == "model.unpinned"
