"""Row 3. Attack: a passive coordinator records every byte.

Must hold: each protected vector passes a uniformity test; correlation with the true contribution is ~0; the
same for any theta - 1 Shamir shares.
"""

from __future__ import annotations

import base64
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.recipes.query import PingDocument
from plasmid.secagg import shamir
from plasmid.secagg.keystream import commitment
from plasmid.secagg.ring import decode_sum, encode
from plasmid.secagg.statements import Advert
from support.federation.attacks import FIVE, FOUR, insider, looks_uniform, looks_unrelated, unevenness
from support.federation.in_memory import Federation

LENGTH = 20_000


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Federation, dict[str, np.ndarray]]:
    """Two rounds with the same vectors, so that a pad used twice would show."""
    document = PingDocument(length=LENGTH, rounds=2)
    federation = Federation(tmp_path_factory.mktemp("recorded"), document=document, sites=FOUR)
    federation.set_up()
    source = np.random.default_rng(0)
    return federation, {
        site: np.clip(source.normal(0.0, 0.2, LENGTH), -1, 1).astype(np.float32) for site in FOUR
    }


@pytest.mark.promise("masked-is-random")
def test_masked_vectors_are_noise_and_their_sum_is_the_sum(
    recorded: tuple[Federation, dict[str, np.ndarray]],
) -> None:
    federation, vectors = recorded
    rounds: list[dict[str, np.ndarray]] = []
    for round_ in (1, 2):
        manifest = federation.manifest(round_)
        answers = federation.answers(manifest, vectors)
        rounds.append({site: federation.words(answer, manifest) for site, answer in answers.items()})
        for site, vector in vectors.items():
            assert looks_uniform(rounds[-1][site])
            assert looks_unrelated(rounds[-1][site], vector)
            # control: the same words without a mask fail both
            plain = encode(vector, manifest.encoding())
            assert unevenness(plain) > 100
            assert not looks_unrelated(plain, vector)
        # three of the four, and the four: a part of the sum is noise, and so is the whole before the answers
        for part in (["alpha", "beta", "gamma"], list(FOUR)):
            assert looks_uniform(federation.total([answers[site] for site in part], manifest))
        total = decode_sum(federation.open_sum(list(answers.values()), manifest), manifest.encoding(), 4)
        plain_sum = np.sum([vector.astype(np.float64) for vector in vectors.values()], axis=0)
        assert np.abs(total - plain_sum).max() <= 4 * manifest.encoding().step / 2
    # the same vector twice: no mask cancels between rounds, nor between sites
    for site in FOUR:
        assert looks_uniform(rounds[1][site] - rounds[0][site])
    for one, other in combinations(FOUR, 2):
        assert looks_uniform(rounds[0][one] - rounds[0][other])
        assert looks_uniform(rounds[0][one] + rounds[0][other])


def test_what_is_sealed_in_a_set_up_is_noise(tmp_path: Path) -> None:
    federation = Federation(tmp_path, document=PingDocument(length=1, rounds=60), sites=FOUR)
    federation.admit_all()
    inbox = federation.bundles(federation.adverts())
    sealed = [base64.b64decode(said.payload["sealed"]) for sent in inbox.values() for said in sent]
    assert len(sealed) == 12
    assert min(map(len, sealed)) == 32 + 2 * 62 * 32 + 16
    assert looks_uniform(b"".join(sealed))
    for said in federation.recoveries(inbox).values():
        assert len({len(blob) for blob in said.sealed}) == 1  # the size tells nothing but the place
        if len(said.sealed[0]) > 16 + 32:
            assert looks_uniform(b"".join(said.sealed))


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Advert, int]:
    """Every site's shares of all slots, epsilon's advert, and theta; five sites, c = 2."""
    document = PingDocument(length=1, rounds=198)
    federation = Federation(tmp_path_factory.mktemp("held"), document=document, sites=FIVE, c=2)
    federation.admit_all()
    adverts = federation.adverts()
    federation.seal(federation.ready(federation.recoveries(federation.bundles(adverts))))
    known = {
        site: [insider(gateway, federation.run, slot) for slot in range(200)]
        for site, gateway in federation.gateways.items()
    }
    theta = federation.gateways["alpha"].run(federation.run).epoch.theta  # type: ignore[union-attr]
    return known, Advert.model_validate(adverts[FIVE.index("epsilon")].payload), theta


@pytest.mark.promise("masked-is-random")
@pytest.mark.parametrize("kind", [0, 1], ids=["self-mask", "pair masks"])
def test_shares_below_the_threshold_are_noise(held: tuple[dict[str, Any], Advert, int], kind: int) -> None:
    known, advert, theta = held
    assert theta == 4
    shares = {
        site: np.frombuffer(b"".join(slot.shares["epsilon"][kind] for slot in slots), np.uint8)
        for site, slots in known.items()
    }
    committed = (advert.self_commitments, advert.key_commitments)[kind]
    right = [committed[start : start + 32] for start in range(0, len(committed), 32)]
    for count in (1, theta - 1, theta):
        for chosen in combinations(FIVE, count):
            matrix = np.stack([shares[site] for site in chosen])
            assert looks_uniform(matrix)
            weights = shamir.lagrange([FIVE.index(site) + 1 for site in chosen])
            secrets = shamir.combine(weights, matrix).reshape(200, 32)
            found = [
                commitment(secret.tobytes()) == digest for secret, digest in zip(secrets, right, strict=True)
            ]
            if count < theta:
                assert looks_uniform(secrets)
                assert not any(found)
            else:  # control: one share more is the secret of every slot
                assert all(found)
    # any byte of a secret fits theta - 1 shares: some share of the missing site makes it so
    chosen = FIVE[:theta]
    matrix = np.stack([shares[site] for site in chosen])[:, :1]
    weights = shamir.lagrange([FIVE.index(site) + 1 for site in chosen])
    fitting = set()
    for share in range(256):
        matrix[-1, 0] = share
        fitting.add(int(shamir.combine(weights, matrix)[0]))
    assert fitting == set(range(256))
