"""Row 10. Attack: gradient inversion from the sum of n = 3, one record each.

Must hold: with clip and noise no better than chance; works with DP off and n = 1 (control).

Two attacks. *Reading*: the head's gradients of one record are (p - y) times its pooled encoding, its
covariates and 1, so that label, category and sequence can be read off. *Fitting*: which records, of all that
the attacker can think of, have gradients that add up to what is seen; under Gaussian noise nothing does
better. The sum is the real one: clipped gradients of the engine, fixed point, Skellam shares, the ring.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from plasmid.adapters.adapter import initial_state
from plasmid.bases.residues import AMINO_ACIDS
from plasmid.bases.store import BaseModel
from plasmid.data.table import Table
from plasmid.dp.noise import skellam
from plasmid.dp.skellam import plan_shared_noise
from plasmid.encoders.encoder import AdaptedModel
from plasmid.recipes.schema import Recipe
from plasmid.secagg.ring import Encoding, add_noise, decode_sum, encode
from plasmid.worker.dp import UnitSampling
from plasmid.worker.engine import Engine
from support.tiny.tiny_task import tiny_recipe

GENES, RECORDS, SITES, TRIALS = 8, 16, 3, 300
CLIP, EPSILON, DELTA, ATTEMPTS = 1.0, 1.0, 1e-5, 12
FALSE_ALARM = 1e-7
"""The probability with which mere guessing is taken for more."""

Gradients = NDArray[np.float64]


class Attacker:
    """Knows the model, the state, the contract and 16 records that the victims' may be among."""

    def __init__(self, base: BaseModel) -> None:
        document = tiny_recipe(base).model_dump(mode="json")
        genes = [f"gene-{number}" for number in range(GENES)]
        document["data"]["columns"]["gene"]["vocabulary"] = genes
        source = np.random.default_rng(5)
        self.genes = np.arange(RECORDS) % GENES
        self.labels = np.arange(RECORDS) // GENES
        columns = {
            "sequence": ["".join(source.choice(list(AMINO_ACIDS), 20)) for _ in range(RECORDS)],
            "gene": [genes[gene] for gene in self.genes],
            "label": [("no", "yes")[label] for label in self.labels],
        }
        self.engine = Engine(Recipe.model_validate(document), base, Table(columns, RECORDS), device="cpu")
        schema = self.engine.schema
        self.state = initial_state(schema, 0)
        self.state += source.normal(0.0, 0.05, schema.size).astype(np.float32)  # some rounds in
        self.pooled = self._pooled(self.engine._model)
        self.plain, self.clipped = self._gradients(1e9), self._gradients(CLIP)

    def _pooled(self, model: AdaptedModel) -> NDArray[np.float64]:
        model.set_state(self.state)
        seen: list[NDArray[np.float32]] = []
        hook = model.head.register_forward_hook(lambda _, given, __: seen.append(given[0].detach().numpy()))
        for record in range(RECORDS):
            model(self.engine._rows.batch([record]))
        hook.remove()
        return np.concatenate(seen).astype(np.float64)

    def _gradients(self, clip: float) -> Gradients:
        """Return what a site sends that holds one record, for each record, [RECORDS, size]."""
        sampling = UnitSampling(unit="record", clip=clip, rate=1.0, expected=1.0, noise_multiplier=0.0)
        every, found = self.engine._records, []
        for record in every:
            self.engine._records = [record]
            found.append(self.engine.gradient_sum(self.state, sampling=sampling))
        self.engine._records = every
        return np.array(found, np.float64)

    def read(self, gradient: Gradients) -> tuple[int, int, int]:
        """Return (label, gene, record by its sequence) as the head's gradients show them."""
        head = self.engine.schema.unflatten(gradient.astype(np.float32))
        bias = head["head.bias"].astype(np.float64)  # p - y, below 0 at the label alone
        label = int(bias.argmin())
        gene = int((head["head.covariates"][label, :GENES] / bias[label]).argmax())
        pooled = head["head.weight"][label] / bias[label]
        cosines = self.pooled @ pooled / np.linalg.norm(self.pooled, axis=1)
        return label, gene, int(cosines.argmax())

    def fit(self, total: Gradients, gradients: Gradients, count: int) -> set[int]:
        """Return the *count* records whose gradients fit the *total* best."""
        choices = np.array(list(combinations(range(RECORDS), count)))
        sums = gradients[choices].sum(1)
        return set(choices[(np.square(sums).sum(1) - 2 * sums @ total).argmin()].tolist())


@pytest.fixture(scope="module")
def attacker(tiny: dict[str, BaseModel]) -> Attacker:
    return Attacker(tiny["bert"])


@pytest.fixture(scope="module")
def encoding(attacker: Attacker) -> Encoding:
    """The plan of 3 sites, one of which may collude, and 12 attempts with every record in every sum."""
    plan, _ = plan_shared_noise(
        length=attacker.engine.schema.size,
        bound=CLIP,
        sites=SITES,
        honest=SITES - 1,
        sensitivity=CLIP,
        releases=ATTEMPTS,
        rate=1.0,
        epsilon=EPSILON,
        delta=DELTA,
    )
    return plan


def summed(vectors: Gradients, encoding: Encoding) -> Gradients:
    """Return what the coordinator learns of a round: the decoded sum of noised vectors."""
    total = np.zeros(encoding.length + 4, encoding.dtype)
    for vector in vectors:
        words = encode(vector, encoding)
        add_noise(words, skellam(encoding.length, encoding.noise_variance), encoding)
        total += words
    return decode_sum(total, encoding, len(vectors))


def better_than(chance: float, right: int) -> bool:
    """Whether *right* of TRIALS is more than guessing gives."""
    return bool(binom.sf(right - 1, TRIALS, chance) < FALSE_ALARM)


def test_control_one_record_without_dp_is_read_off_its_gradient(attacker: Attacker) -> None:
    for record in range(RECORDS):
        found = attacker.read(attacker.plain[record])
        assert found == (attacker.labels[record], attacker.genes[record], record)
        assert attacker.read(attacker.clipped[record]) == found, "a clip alone hides nothing"
        assert attacker.fit(attacker.plain[record], attacker.plain, 1) == {record}


@pytest.mark.limit("without a unit a sum tells which records are in it")
def test_control_a_sum_of_three_without_dp_tells_which_records_are_in_it(attacker: Attacker) -> None:
    """Masks hide whose record it is, not what it says."""
    source = np.random.default_rng(0)
    for _ in range(50):
        records = source.permutation(RECORDS)[:SITES]
        total = attacker.plain[records].sum(0)
        assert attacker.fit(total, attacker.plain, SITES) == set(records.tolist())


@pytest.mark.promise("unit-is-private")
def test_the_sum_of_three_with_clip_and_noise_tells_no_more_than_chance(
    attacker: Attacker, encoding: Encoding
) -> None:
    source = np.random.default_rng(1)
    right = dict.fromkeys(("label", "gene", "sequence", "fit", "fit beside own"), 0)
    for _ in range(TRIALS):
        records = source.permutation(RECORDS)[:SITES]
        victim = int(records[0])
        total = summed(attacker.clipped[records], encoding)
        label, gene, sequence = attacker.read(total)
        right["label"] += label == attacker.labels[victim]
        right["gene"] += gene == attacker.genes[victim]
        right["sequence"] += sequence == victim
        right["fit"] += victim in attacker.fit(total, attacker.clipped, SITES)
        # from a fellow site's seat: without its own record and its own noise, two sites are left
        others = summed(attacker.clipped[records[:2]], encoding)
        right["fit beside own"] += victim in attacker.fit(others, attacker.clipped, SITES - 1)
    chances = {
        "label": 1 / 2,
        "gene": 1 / GENES,
        "sequence": 1 / RECORDS,
        "fit": SITES / RECORDS,
        "fit beside own": (SITES - 1) / RECORDS,
    }
    found = {name: count for name, count in right.items() if better_than(chances[name], count)}
    assert found == {}, f"of {TRIALS} sums each"


def test_control_the_noise_is_what_hides_them(attacker: Attacker, encoding: Encoding) -> None:
    """The same sums with a hundredth of the noise: the fit finds the victim again."""
    source = np.random.default_rng(2)
    faint = replace(encoding, noise_variance=encoding.noise_variance * 1e-4)
    right = 0
    for _ in range(TRIALS):
        records = source.permutation(RECORDS)[:SITES]
        right += records[0] in attacker.fit(summed(attacker.clipped[records], faint), attacker.clipped, SITES)
    assert better_than(SITES / RECORDS, right)
