"""Row 13. Attack: a bounded but malicious update.

Must hold: the influence of one site on the sum is at most the clip, whatever its computation returns.
*Claim*: the norm is enforced by the sender's own gateway and not proved to the others; who replaces that
gateway is held by the ring's bound alone. Nothing looks at a held-out score between rounds, so nothing rolls
back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plasmid.secagg.ring import decode_sum
from support.federation.attacks import FOUR, as_csv, refusal
from support.federation.bundle_recipes import ages, bundle_recipe
from support.federation.in_memory import Federation

SIZE, CLIP, BOUND = 400, 1.5, 1.0
HONEST = np.random.default_rng(0).normal(0.0, 0.02, SIZE)
CODE = "def vector(state, view, settings): return state"

ATTACKS: dict[str, Callable[[], np.ndarray]] = {
    "the honest one, boosted": lambda: 1e6 * HONEST,
    "its opposite": lambda: -1e6 * HONEST,
    "the largest floats": lambda: np.full(SIZE, 1.7e308),
    "all in one coordinate": lambda: np.eye(1, SIZE)[0] * 1e30,
    "at every coordinate's bound": lambda: np.full(SIZE, BOUND),
    "just within the norm": lambda: np.full(SIZE, CLIP / math.sqrt(SIZE)),
    "noise": lambda: np.random.default_rng(1).normal(0.0, 1e3, SIZE),
}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    document = bundle_recipe(
        CODE,
        half="vector",
        size=SIZE,
        bound=BOUND,
        privacy={"update_clip": CLIP},
        federation={"rounds": len(ATTACKS) + 2},
    )
    made = Federation(
        tmp_path_factory.mktemp("sites"),
        document=document,
        sites=FOUR,
        tables=dict.fromkeys(FOUR, as_csv(ages(1.0, 2.0))),
    )
    made.set_up()
    return made


def opened(federation: Federation, round_: int, sent: np.ndarray | None) -> np.ndarray:
    """Return the sum of a round in which delta sends *sent*, or drops out, and the others are honest."""
    manifest = federation.manifest(round_)
    others = [site for site in FOUR if site != "delta"]
    vectors = dict.fromkeys(others, HONEST) | ({} if sent is None else {"delta": sent})
    answers = federation.answers(manifest, vectors)
    total = federation.open_sum(list(answers.values()), manifest)
    return decode_sum(total, manifest.encoding(), len(answers))


def influence(federation: Federation, round_: int, sent: np.ndarray) -> float:
    """Return how far *sent* moved the sum of the three others, in L2."""
    return float(np.linalg.norm(opened(federation, round_, sent) - 3 * HONEST))


@pytest.mark.promise("bounded-contribution")
@pytest.mark.parametrize("number", range(len(ATTACKS)), ids=list(ATTACKS))
def test_an_update_moves_the_sum_by_its_clip_at_most(federation: Federation, number: int) -> None:
    sent = list(ATTACKS.values())[number]()
    step = federation.manifest(number + 1).encoding().step
    moved = influence(federation, number + 1, sent)
    assert moved <= CLIP + 4 * math.sqrt(SIZE) * step
    assert moved > 0.9 * min(CLIP, 1.0)  # each of them is pushed to the limit: no attack fell flat


@pytest.mark.limit(
    "a gateway that its owner has changed sends up to the bound in every coordinate, unseen by the others"
)
def test_control_a_gateway_without_the_clip_moves_it_by_all_that_the_ring_holds(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim, too: it is delta's own gateway that was changed, and nobody else can see it."""
    monkeypatch.setattr("plasmid.gateway.gateway.bounded", lambda vector, shape, noised: (vector, 0.0))
    moved = influence(federation, len(ATTACKS) + 1, np.full(SIZE, BOUND))
    assert moved == pytest.approx(BOUND * math.sqrt(SIZE), abs=0.5)
    assert moved > 10 * CLIP


def test_what_is_beyond_the_ring_s_bound_does_not_even_leave_a_changed_gateway(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoding refuses it; words that were made otherwise wrap, and the sum is refused as garbage."""
    round_ = len(ATTACKS) + 2
    manifest: Any = federation.manifest(round_)
    with monkeypatch.context() as patch:
        patch.setattr("plasmid.gateway.gateway.bounded", lambda vector, shape, noised: (vector, 0.0))
        with refusal("protocol.vector"):
            federation.gateways["delta"].contribute(manifest, lambda _: np.full(SIZE, 1e3 * BOUND))
    total = opened(federation, round_, None)
    assert np.abs(total - 3 * HONEST).max() < 1e-6  # the others' sum is theirs
