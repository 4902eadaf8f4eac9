"""What a site's own figures make of a document's epsilon and delta."""

from __future__ import annotations

from typing import Any

import pytest

from plasmid.bases.store import BaseModel
from plasmid.core.errors import DataError, PolicyRefused
from plasmid.dp.accounting import dp_sgd_noise
from plasmid.gateway.site_parameters import sampling, unit_terms
from plasmid.protocol.messages import UnitTerms
from plasmid.recipes.query import PingDocument
from plasmid.recipes.schema import Recipe
from plasmid.worker.dp import UnitSampling
from support.federation.attacks import count_document
from support.tiny.tiny_task import tiny_recipe

SIZE = 160
RECORD: dict[str, Any] = {"unit": "record", "epsilon": 8.0, "delta": 1e-5, "record_clip": 0.5}


def recipe(base: BaseModel, *, steps: int = 4, **privacy: Any) -> Recipe:
    values = tiny_recipe(base, steps=steps).model_dump(mode="json")
    values["privacy"] |= privacy
    if privacy.get("unit") == "patient":
        values["data"] |= {"patient": "person"}
        values["data"]["columns"]["person"] = {"type": "identifier"}
    return Recipe.model_validate(values)


def test_without_a_unit_there_are_no_terms() -> None:
    assert unit_terms(PingDocument(length=4), None) is None
    assert sampling(PingDocument(length=4), None) is None


@pytest.mark.usefixtures("at_home")
def test_under_dp_sgd_a_site_calibrates_its_own_noise(tiny: dict[str, BaseModel]) -> None:
    """Batches of 16 of 160 units; 2 rounds and 2 spare attempts of 4 steps."""
    document = recipe(tiny["esm"], mechanism="dp-sgd", **RECORD)
    noise = dp_sgd_noise(rate=0.1, steps=16, epsilon=8.0, delta=1e-5)
    terms = unit_terms(document, SIZE)
    assert terms == UnitTerms(public_size=160, rate=0.1, noise_multiplier=noise, attempts=4)
    order = sampling(document, terms)
    assert order is not None
    assert UnitSampling(**order) == UnitSampling(
        unit="record",
        clip=0.5,
        rate=0.1,
        expected=16.0,
        noise_multiplier=noise,
        max_records=16,
        scale={"lora": 1.0, "head": 1.0, "covariates": 1.0},
    )


@pytest.mark.usefixtures("at_home")
def test_shared_noise_is_not_the_worker_s(tiny: dict[str, BaseModel]) -> None:
    document = recipe(tiny["esm"], steps=1, mechanism="dp-fedsgd", **RECORD)
    terms = unit_terms(document, SIZE)
    assert terms == UnitTerms(public_size=160, rate=0.1, noise_multiplier=None, attempts=4)
    order = sampling(document, terms)
    assert order is not None
    assert (order["noise_multiplier"], order["rate"], order["clip"]) == (0.0, 0.1, 0.5)


@pytest.mark.usefixtures("at_home")
def test_a_finished_vector_is_neither_sampled_nor_clipped_in_the_worker(tiny: dict[str, BaseModel]) -> None:
    document = recipe(tiny["esm"], mechanism="output", **{**RECORD, "record_clip": None})
    terms = unit_terms(document, SIZE)
    assert terms == UnitTerms(public_size=160, rate=1.0, noise_multiplier=None, attempts=4)
    assert sampling(document, terms) is None


@pytest.mark.usefixtures("at_home")
def test_a_site_as_a_unit_has_no_size(tiny: dict[str, BaseModel]) -> None:
    document = recipe(tiny["esm"], mechanism="output", **{**RECORD, "record_clip": None, "unit": "site"})
    terms = UnitTerms(public_size=None, rate=1.0, noise_multiplier=None, attempts=4)
    assert unit_terms(document, None) == terms
    assert unit_terms(document, 5) == terms  # even where 1/5 is below delta's limit: sites are many


@pytest.mark.usefixtures("at_home")
def test_a_patient_s_records_are_counted(tiny: dict[str, BaseModel]) -> None:
    document = recipe(
        tiny["esm"], steps=1, mechanism="dp-fedsgd", **{**RECORD, "unit": "patient", "max_records": 4}
    )
    order = sampling(document, unit_terms(document, SIZE))
    assert order is not None
    assert (order["unit"], order["max_records"]) == ("patient", 4)


def test_a_query_reads_every_record_once() -> None:
    document = count_document(spare=3)
    terms = unit_terms(document, 1000)
    assert terms == UnitTerms(public_size=1000, rate=1.0, noise_multiplier=None, attempts=4)
    order = sampling(document, terms)
    assert order is not None
    assert (order["rate"], order["expected"], order["clip"]) == (1.0, 1.0, 3**0.5)


def test_a_site_that_has_not_said_how_many_it_holds_takes_no_part() -> None:
    with pytest.raises(DataError) as caught:
        unit_terms(count_document(), None)
    assert caught.value.code == "data.no_public_size"
    assert caught.value.message == (
        "the document protects a record, and this site has not said how many it holds."
    )
    assert caught.value.hint == (
        "Put a rounded number, public from now on, into site.yaml or the view's file as 'public_size'."
    )


@pytest.mark.parametrize(
    ("delta", "size", "accepted"), [(1e-3, 999, True), (1e-3, 1000, False), (0.5, 10, False)]
)
def test_delta_is_below_one_in_the_number_of_units(delta: float, size: int, accepted: bool) -> None:
    document = count_document(delta=delta)
    if accepted:
        assert unit_terms(document, size) is not None
    else:
        with pytest.raises(PolicyRefused) as caught:
            unit_terms(document, size)
        assert caught.value.code == "policy.delta"
        assert caught.value.message == f"the document says delta: {delta}, which is not below 1/{size}."
        assert caught.value.hint == f"Use a delta well below {1.0 / size:.1e}."
