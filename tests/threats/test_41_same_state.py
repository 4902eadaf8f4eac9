"""Row 41. Attack: a state is published again in a run, with no total or a false one, over other survivors.

Must hold: totals carry a tag that the coordinator cannot make, and are the sum of the contributions that were
agreed on, where each site looks; no verified total, no next round. A site that works with the coordinator
and gives it the key of the tags changes nothing.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from math import comb
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import LinkError, ProtocolError
from plasmid.gateway import totals
from plasmid.gateway.admission import Answer
from plasmid.gateway.verify_states import Following
from plasmid.protocol.body import pack, unpack
from plasmid.protocol.messages import Manifest, Signed, Start, Total, sign
from plasmid.recipes.query import PingDocument
from plasmid.secagg import tags
from plasmid.secagg.ring import TAIL, Encoding, Words, decode_sum
from plasmid.secagg.samples import SAMPLES, body_root, leaf_bytes, leaf_count
from plasmid.secagg.statements import Consent, Contribution
from support.federation.attacks import FOUR, never, refusal
from support.federation.in_memory import Federation
from support.federation.sampling import contributions

THREE = ("alpha", "beta", "gamma")
VECTORS = {site: np.full(6, 2.0**-index, np.float32) for index, site in enumerate(FOUR)}


def summed(tmp_path: Path, rounds: int = 3) -> Federation:
    """Return a federation whose first round was summed over all four."""
    federation = Federation(tmp_path, document=PingDocument(length=6, rounds=rounds), sites=FOUR)
    federation.set_up()
    manifest = federation.manifest()
    federation.open_sum(list(federation.answers(manifest, VECTORS).values()), manifest)
    return federation


def again(federation: Federation, total: Total | None) -> Manifest:
    """Return round 2 at the state of round 1, over those who are left when delta 'fell silent'."""
    state = federation.start(1).state
    return federation.manifest(2, state=state, total=total, invited=list(THREE))


def forged(federation: Federation, what: str) -> Total | None:
    """Return what the coordinator says that the first round's total was."""
    true = federation.totals[1]
    body = federation.bodies[true.digest]
    words = unpack(body, "total", length=10, dtype=federation.manifest().encoding().dtype).copy()
    tag = tags.read_tag(true.tag or b"")
    match what:
        case "none":
            return None
        case "zeros, with the tag of zeros":
            return federation.published(np.zeros_like(words), FOUR, bytes(8))
        case "zeros, with the true tag":
            return federation.published(np.zeros_like(words), FOUR, true.tag)
        case "twice the sum":
            return federation.published(2 * words, FOUR, tags.pack_tag(2 * tag % tags.P))
        case "one step less":
            words[0] -= 1
            return federation.published(words, FOUR, true.tag)
        case _:
            return true.model_copy(update={"survivors": list(THREE)})


FORGED = [
    "none", "zeros, with the tag of zeros", "zeros, with the true tag", "twice the sum", "one step less",
    "other survivors",
]  # fmt: skip


@pytest.mark.promise("one-sum")
@pytest.mark.parametrize("what", FORGED)
def test_no_site_computes_at_a_state_that_no_true_total_gives(tmp_path: Path, what: str) -> None:
    federation = summed(tmp_path)
    said = again(federation, forged(federation, what))
    for site in THREE:
        with refusal("protocol.manifest" if what == "none" else "protocol.step"):
            federation.gateways[site].contribute(said, never)
    if what != "none":  # nor at any other state of that run, from now on
        assert federation.admit("alpha").code == "protocol.step"


def test_a_state_that_stays_is_refused_with_the_true_total_too(tmp_path: Path) -> None:
    federation = summed(tmp_path)
    said = again(federation, federation.totals[1])
    for site in THREE:
        with refusal("protocol.step"):
            federation.gateways[site].contribute(said, never)


def believing(patch: pytest.MonkeyPatch, *, tags_too: bool) -> None:
    """Weaken every site: any total is believed, or any state at all."""
    patch.setattr(totals, "_check", lambda *_: None)
    patch.setattr(Following, "check_near", lambda *_: None)
    if not tags_too:
        return

    def take(self: Following, start: Start, source: Any) -> Any:
        body = source.download(start.state, start.state_bytes)
        state = unpack(body, "state", length=self._shape.state.size, dtype=self._shape.dtype)
        self._at, self.verified = (start.round, start.state, state), True
        return state

    patch.setattr(Following, "take", take)


@pytest.mark.parametrize("any_state", [False, True])
def test_control_two_sums_at_one_state_give_the_difference_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, any_state: bool
) -> None:
    """Sites without the check of tags believe zeros: delta's vector, to the last bit, and nothing refused."""
    federation = summed(tmp_path)
    first = decode_sum(
        unpack(
            federation.bodies[federation.totals[1].digest],
            "total",
            length=10,
            dtype=federation.manifest().encoding().dtype,
        ),
        federation.manifest().encoding(),
        4,
    )
    believing(monkeypatch, tags_too=any_state)
    said = again(federation, forged(federation, "zeros, with the tag of zeros"))
    answers = federation.answers(said, {site: VECTORS[site] for site in THREE})
    second = decode_sum(federation.open_sum(list(answers.values()), said), said.encoding(), 3)
    assert (first - second).tolist() == VECTORS["delta"].tolist()


def test_a_next_round_that_moved_nothing_is_not_summed_over_fewer(tmp_path: Path) -> None:
    """Honest totals, and a state that stays all the same: the updates add up to nothing."""
    federation = Federation(tmp_path, document=PingDocument(length=6, rounds=3), sites=FOUR)
    federation.set_up()
    up = np.full(6, 0.5, np.float32)
    first = federation.manifest()
    answers = federation.answers(first, {"alpha": up, "beta": -up, "gamma": up, "delta": -up})
    federation.open_sum(list(answers.values()), first)
    second = federation.manifest(2)
    answers = federation.answers(second, dict.fromkeys(FOUR, up))
    with refusal("protocol.near_state"):
        federation.consents([answers[site] for site in THREE], slot=1)
    assert len(federation.consents(list(answers.values()), slot=1)) == 4  # control: over the same sites


def test_a_wrong_part_of_the_group_s_key_ends_the_epoch_and_names_its_site(tmp_path: Path) -> None:
    federation = Federation(tmp_path, document=PingDocument(length=6, rounds=2), sites=FOUR)
    federation.admit_all()
    adverts = federation.adverts()
    epoch = federation.gateways["beta"].run(federation.run).epoch
    assert epoch is not None
    epoch._given = bytes(32)
    inbox = federation.bundles(adverts)
    with refusal("protocol.bundles") as caught:
        federation.gateways["alpha"].relay(federation.relay("bundle", inbox["alpha"]))
    assert "beta gave another part of the group's key" in caught.value.message


# -- a coordinator that has the key of the tags from delta, which works with it ------------------------


def with_the_key(federation: Federation, words: Words, survivors: Sequence[str] = FOUR) -> Total:
    """Return what a coordinator says of *words* as the first total, with the right tag for them."""
    epoch = federation.gateways["delta"].run(federation.run).epoch
    assert epoch is not None
    tag = tags.tag(epoch.group_key, federation.manifest().digest(), words, survivors)
    return federation.published(words, survivors, tags.pack_tag(tag))


def zeros(federation: Federation) -> Words:
    """Return the total that leaves the state where it is."""
    return np.zeros(10, federation.manifest().encoding().dtype)


def opened(federation: Federation, survivors: Sequence[str] = FOUR) -> tuple[dict[str, Answer], Words]:
    """Take the first round through its sum; return the answers, and the sum of *survivors* in the ring."""
    manifest = federation.manifest()
    answers = federation.answers(manifest, VECTORS)
    total = federation.open_sum([answers[site] for site in survivors], manifest)
    return answers, total


def made(tmp_path: Path, length: int = 6) -> Federation:
    """Return a federation that is set up."""
    federation = Federation(tmp_path, document=PingDocument(length=length, rounds=3), sites=FOUR)
    federation.set_up()
    return federation


def refused_by_all(federation: Federation, said: Manifest, code: str = "protocol.step") -> None:
    for site in THREE:
        with refusal(code):
            federation.gateways[site].contribute(said, never)


@pytest.mark.promise("one-sum")
def test_the_key_of_a_colluding_site_forges_no_total(tmp_path: Path) -> None:
    federation = summed(tmp_path)
    refused_by_all(federation, again(federation, with_the_key(federation, zeros(federation))))
    assert federation.admit("alpha").code == "protocol.step"


def test_control_without_samples_the_key_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "_is_sum", lambda *_: True)
    federation = summed(tmp_path)
    said = again(federation, with_the_key(federation, zeros(federation)))
    assert federation.gateways["alpha"].contribute(said, lambda _: VECTORS["alpha"]).body


def never_summed(federation: Federation) -> Manifest:
    """Have all answer the first round, which is never summed; return the second, at any state."""
    first, words = federation.manifest(), zeros(federation)
    federation.answers(first, VECTORS)
    words[:-TAIL] = 1 << first.scale_log2
    federation.advance(first, words, 4)
    return federation.manifest(2, total=with_the_key(federation, words))


@pytest.mark.promise("one-sum")
def test_a_total_of_a_round_that_was_never_summed_opens_nothing(tmp_path: Path) -> None:
    """Nobody agreed to a sum, so each site has the tag alone, and signs that it has verified nothing."""
    federation = made(tmp_path)
    answers = federation.answers(never_summed(federation), VECTORS)
    consents = federation.consents(list(answers.values()), slot=1)
    assert not any(said.payload["verified"] for said in consents)
    lying = [
        sign(federation.identities["delta"], Consent.model_validate({**said.payload, "verified": True}))
        if said.signer == "delta"
        else said
        for said in consents
    ]
    for site in THREE:
        with refusal("protocol.consents"):
            federation.gateways[site].relay(federation.relay("consent", lying, slot=1))


def test_control_sites_that_sign_on_the_tag_alone_open_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals.Answered, "is_sampled", True)
    federation = made(tmp_path)
    second = never_summed(federation)
    answers = federation.answers(second, VECTORS)
    summed = decode_sum(federation.open_sum(list(answers.values()), second), second.encoding(), 4)
    assert summed.tolist() == sum(VECTORS.values()).tolist()


def sample_of(bodies: Sequence[bytes]) -> bytes:
    """Return the only leaf of short bodies, for each with its empty path."""
    return b"".join(bodies)


def later_words_of(federation: Federation, answers: dict[str, Answer], body: bytes) -> list[Signed]:
    """Return all contributions, delta's signed anew over another *body*."""
    said = Contribution.model_validate(answers["delta"].contribution.payload)
    other = said.model_copy(update={"body": body_root(body)})
    theirs = [answers[site].contribution for site in THREE]
    return [*theirs, sign(federation.identities["delta"], other)]


LIES = [
    "delta's vector, signed after the opening", "a leaf changed where it helps", "a leaf too few",
    "the words of another attempt", "other self-masks", "a pad more", "a pad less", "nothing",
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_no_answer_to_a_question_for_samples_makes_zeros_the_sum(tmp_path: Path, lie: str) -> None:
    federation = made(tmp_path)
    answers, total = opened(federation)
    wanted = zeros(federation)
    bodies = {site: answers[site].body for site in FOUR}
    header = len(bodies["delta"]) - wanted.nbytes
    opening = federation.sample(federation.run, federation.manifest().digest(), "opening", 0)
    helping = np.frombuffer(bodies["delta"], wanted.dtype, offset=header) - total  # then the sum is zero
    match lie:
        case "delta's vector, signed after the opening":
            bodies["delta"] = pack("words", helping)
            again_signed = later_words_of(federation, answers, bodies["delta"])
            for site in THREE:
                with refusal("protocol.survivors"):
                    federation.gateways[site].relay(federation.relay("contribution", again_signed))
        case "a leaf changed where it helps":
            bodies["alpha"] = pack("words", helping)
        case "a leaf too few":
            del bodies["delta"]
        case "the words of another attempt":
            bodies = dict.fromkeys(FOUR, pack("words", wanted))
        case "other self-masks":
            opening = secrets.token_bytes(len(opening))
        case "a pad more":
            opening += bytes(16)
        case "a pad less":
            opening = opening[:-32]
        case _:
            opening, bodies = b"", {}

    def lying(run: str, manifest: str, part: str, size: int) -> bytes:
        return opening if part == "opening" else sample_of(list(bodies.values()))

    federation.sample = lying  # type: ignore[method-assign]
    refused_by_all(federation, again(federation, with_the_key(federation, wanted)))


def test_true_samples_and_a_drop_out_are_believed(tmp_path: Path) -> None:
    """Control. Each pair of delta, which dropped out, has a pad."""
    federation = made(tmp_path, length=500)
    manifest = federation.manifest()
    vectors = {site: np.full(500, value[0], np.float32) for site, value in VECTORS.items()}
    answers = federation.answers(manifest, vectors)
    federation.open_sum([answers[site] for site in THREE], manifest)
    assert len(federation.sample(federation.run, manifest.digest(), "opening", 0)) == 3 * 32 + 3 * 16
    second = federation.manifest(2)
    for site in THREE:
        assert federation.gateways[site].contribute(second, lambda _: vectors["alpha"]).body


@pytest.mark.parametrize("changed", range(3))
def test_other_keys_of_a_drop_out_s_pairs_are_refused(tmp_path: Path, changed: int) -> None:
    federation = made(tmp_path)
    opened(federation, THREE)
    honest = federation.sample

    def lying(run: str, manifest: str, part: str, size: int) -> bytes:
        said = bytearray(honest(run, manifest, part, size))
        if part == "opening":
            said[3 * 32 + 16 * changed] ^= 1
        return bytes(said)

    federation.sample = lying  # type: ignore[method-assign]
    refused_by_all(federation, federation.manifest(2))


def test_who_is_not_answered_accepts_nothing_and_asks_for_the_same_leaves_again(tmp_path: Path) -> None:
    federation = made(tmp_path, length=500)
    manifest = federation.manifest()
    vectors = {site: np.full(500, value[0], np.float32) for site, value in VECTORS.items()}
    total = federation.open_sum(list(federation.answers(manifest, vectors).values()), manifest)
    honest, asked = federation.sample, []

    def silent(run: str, digest: str, part: str, size: int) -> bytes:
        asked.append(part)
        if len(asked) % 3 == 0:  # the opening, a leaf, and then nothing
            raise LinkError("link.unreachable", "no answer.")
        return honest(run, digest, part, size)

    federation.sample = silent  # type: ignore[method-assign]
    site, second = federation.gateways["alpha"], federation.manifest(2)
    for _ in range(2):
        with refusal("link.unreachable"):
            site.contribute(second, never)
    assert asked[:3] == asked[3:]
    size = len(federation.bodies[federation.totals[1].digest])
    (safe, *_) = {str(leaf) for leaf in range(1, leaf_count(size))} - set(asked)
    total[(int(safe) * leaf_bytes(size) - size) // 4 + total.size] += 1  # in a leaf that no question is about
    forged = federation.manifest(2, total=with_the_key(federation, total))
    federation.sample = honest  # type: ignore[method-assign]
    with refusal("protocol.step"):  # one draw, one total: what was asked for is known by now
        site.contribute(forged, never)
    beta = federation.gateways["beta"]
    assert beta.contribute(second, lambda _: vectors["beta"]).body  # control


SITES_THAT_LOOK = 3
TRIALS = 400
WORDS = 20_000


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 1.0])
def test_a_total_that_is_false_in_a_share_of_its_leaves_is_found_as_often_as_is_said(
    monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    source = random.Random(7)
    monkeypatch.setattr(totals, "SystemRandom", lambda: source)
    encoding = Encoding(bits=32, scale_log2=8, bound=1.0, length=WORDS - TAIL)
    words = np.zeros(WORDS, encoding.dtype)
    true = contributions(words, FOUR, "a1" * 32)
    shown = true.shown()
    size = len(next(iter(true.bodies.values())))
    header, step, leaves = size - words.nbytes, leaf_bytes(size), leaf_count(size)
    served: dict[str, bytes] = {}

    def sample(run: str, manifest: str, part: str, size: int) -> bytes:
        if part not in served:
            served[part] = true.part(part)
        return served[part]

    found = found_by_all = 0
    for _ in range(TRIALS):
        forged = words.copy()
        for leaf in source.sample(range(leaves), round(share * leaves)):
            forged[max(0, leaf * step - header) // 4] += np.uint32(1)
        tag = tags.pack_tag(tags.tag(bytes(32), "a1" * 32, forged, FOUR))
        body = pack("total", forged)
        said = Total(digest=sha256_hex(body), size=len(body), survivors=list(FOUR), tag=tag)
        link = SimpleNamespace(download=lambda *_, body=body: body, sample=sample)
        refusals = 0
        for _ in range(SITES_THAT_LOOK):
            answered = totals.Answered(
                run="run-1", manifest="a1" * 32, state="", honest=3, invited=tuple(FOUR), encoding=encoding,
                key=bytes(32), survivors=shown,
            )  # fmt: skip
            try:
                totals.verified(2, answered, said, link)
            except ProtocolError:
                refusals += 1
        found += refusals
        found_by_all += refusals > 0
    passed = comb(leaves - round(share * leaves), SAMPLES) / comb(leaves, SAMPLES)
    for rate, expected, trials in (
        (found, 1 - passed, SITES_THAT_LOOK * TRIALS),
        (found_by_all, 1 - passed**SITES_THAT_LOOK, TRIALS),
    ):
        assert abs(rate / trials - expected) <= 4 * (expected * (1 - expected) / trials) ** 0.5
