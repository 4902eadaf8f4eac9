"""Sites that count by public numbers or by their rows: what each sends, and the mean that follows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from plasmid.bases.store import BaseModel
from plasmid.computations import api
from plasmid.gateway.output import bounded
from plasmid.recipes.beside import advanced, sent, shape_of
from plasmid.recipes.weights import LEAST, PublicWeights, RecordWeights, coarse
from plasmid.secagg.ring import decode_sum, encode, plan_encoding
from support.tiny.method_rounds import SITES, UNIT, Rounds, problem, recipe

RECORDS = {"weights": {"by": "records", "cap": 1000}}
PUBLIC = {"weights": {"by": "public", "sites": {"north": 4.0, "south": 0.5}}}
COUNTS = (1000, 5, 250, 70)


@pytest.fixture
def base(tiny: dict[str, BaseModel]) -> BaseModel:
    return tiny["bert"]


def test_a_number_of_rows_is_told_to_1_2_or_5_times_a_power_of_ten() -> None:
    numbers = (1, 2, 4, 5, 9, 10, 19, 20, 499, 500, 999, 1000)
    assert [coarse(number) for number in numbers] == [1, 2, 2, 5, 5, 10, 10, 20, 200, 500, 500, 1000]
    weights = RecordWeights(by="records", cap=700)
    assert [weights.of("north", rows) for rows in (1, 60, 500, 10**6)] == [1 / 500, 0.1, 1.0, 1.0]
    assert RecordWeights(by="records", cap=10**8).of("north", 5) == LEAST


def test_public_weights_are_over_the_heaviest() -> None:
    weights = PublicWeights(by="public", sites={"north": 4.0, "south": 0.5})
    assert [weights.of(site, 10) for site in ("north", "south", "west")] == [1.0, 0.125, 0.25]
    assert PublicWeights(by="public", sites={"south": 0.5}).of("west", 10) == 1.0
    with pytest.raises(ValidationError, match="less than a thousandth of 1"):
        PublicWeights(by="public", sites={"south": LEAST / 2}, others=1.0)


@pytest.mark.parametrize("method", ["finetune", "ffa_lora", "rolora", "fedsvd", "fedsb", "sketch", "fedsa"])
@pytest.mark.parametrize("stops", [False, True])
def test_a_method_steps_with_the_weighted_mean(base: BaseModel, method: str, stops: bool) -> None:
    federation: dict[str, Any] = RECORDS | {"rounds": 4}
    if stops:
        federation["stop"] = {"share": 0.1, "patience": 2}
    way = Rounds(base, method, federation=federation)
    document = way.document
    whole = shape_of(way.method, document, base)
    assert whole.schema.size - way.shape.schema.size == whole.beside == (3 if stops else 1)
    weights = [document.federation.weights.of("any", count) for count in COUNTS]
    trained = way.trained(1)
    updates = [way.method.sent(document, base, way.adapter(), after, 1) for after in trained]
    losses = np.full(3, 2.0, np.float32) if stops else None
    vectors = [
        bounded(sent(document, whole, update, weight=weight, losses=losses), whole, noised=False)[0]
        for update, weight in zip(updates, weights, strict=True)
    ]
    encoding = plan_encoding(length=whole.schema.size, bound=whole.bound, sites=SITES, bits=32)
    words = np.sum([encode(vector, encoding) for vector in vectors], axis=0, dtype=encoding.dtype)
    total = decode_sum(words, encoding, SITES)[: whole.schema.size]
    found = advanced(way.method, document, whole, way.state, api.Sum(total, SITES, 1))
    plain = np.average([update.astype(np.float64) for update in updates], axis=0, weights=weights) * SITES
    expected = way.method.advance(document, way.shape, way.state, api.Sum(plain, SITES, 1))
    tolerance = 2e-5 if method == "sketch" else 2e-6  # its state is the factors of a recovered product
    np.testing.assert_allclose(found, expected, atol=tolerance)
    alike = way.method.advance(document, way.shape, way.state, api.Sum(np.sum(updates, axis=0), SITES, 1))
    assert np.abs(found - alike).max() > 1e-3  # the weights say something


def test_without_weights_nothing_is_added(base: BaseModel) -> None:
    way = Rounds(base, "finetune")
    assert shape_of(way.method, way.document, base) == way.shape
    update = np.ones(way.shape.schema.size, np.float32)
    assert sent(way.document, way.shape, update, weight=1.0, losses=None) is update


@pytest.mark.parametrize(
    ("weights", "privacy", "what"),
    [
        (RECORDS, UNIT | {"mechanism": "dp-sgd"}, "under unit: record a number of rows is protected"),
        (PUBLIC, UNIT | {"mechanism": "dp-fedsgd"}, "dp-fedsgd has one noise for all sites"),
    ],
)
def test_what_noise_and_secrecy_do_not_allow(
    base: BaseModel, weights: dict[str, Any], privacy: dict[str, Any], what: str
) -> None:
    training = {"steps": 1} if privacy["mechanism"] == "dp-fedsgd" else {}
    assert what in problem(base, "finetune", federation=weights, privacy=privacy, training=training)
    if weights is RECORDS:
        allowed = recipe(base, "finetune", federation=PUBLIC, privacy=privacy)
        assert allowed.federation.weights == PublicWeights(by="public", sites={"north": 4.0, "south": 0.5})
