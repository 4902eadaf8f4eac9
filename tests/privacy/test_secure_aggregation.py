"""Secure aggregation among sites in memory: exact sums, noise for who looks, refusals, pinned vectors.

``plasmid_sa_0.json`` lets another implementation check itself: from the given secrets follow the adverts'
digest rho, a bundle that opens, and one masked vector of zeros.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from plasmid.core.canonical import digest_json
from plasmid.core.errors import ProtocolError
from plasmid.privacy import secure_aggregation
from plasmid.privacy.keystream import add_keystream, derive
from plasmid.privacy.ring import TAIL, decode_sum, encode, plan_encoding
from plasmid.privacy.secure_aggregation import SiteEpoch, check_colluders, least_colluders
from plasmid.privacy.statements import PROTOCOL, Advert, Bundle, Ready

VECTORS = Path(__file__).with_name("plasmid_sa_0.json")
DOCUMENT = "d" * 64
H = "a1" * 32
NAMES = ("alpha", "beta", "gamma", "delta")


def refusal(code: str) -> pytest.RaisesExc[ProtocolError]:
    return pytest.RaisesExc(ProtocolError, check=lambda error: error.code == code)


def started(names: Sequence[str] = NAMES, *, epoch: int = 1, slots: int = 2) -> dict[str, SiteEpoch]:
    """Return sites that have made their adverts."""
    return {
        name: SiteEpoch(run="run", epoch=epoch, site=name, document=DOCUMENT, slots=slots) for name in names
    }


def adverts(sites: dict[str, SiteEpoch]) -> list[Advert]:
    return [site.advert for site in sites.values()]


def bundled(sites: dict[str, SiteEpoch]) -> dict[str, list[Bundle]]:
    """Exchange adverts; return the bundles by receiver."""
    inbox: dict[str, list[Bundle]] = {name: [] for name in sites}
    for site in sites.values():
        for bundle in site.bundles(adverts(sites)):
            inbox[bundle.receiver].append(bundle)
    return inbox


def sealed(names: Sequence[str] = NAMES, *, c: int = 1, slots: int = 2) -> dict[str, SiteEpoch]:
    """Return sites that may mask."""
    sites = started(names, slots=slots)
    inbox = bundled(sites)
    statements = [site.ready(inbox[name], c=c, least=1) for name, site in sites.items()]
    for site in sites.values():
        site.seal(statements)
    return sites


def masked(site: SiteEpoch, words: np.ndarray, *, slot: int = 0, manifest: str = H) -> np.ndarray:
    words = words.copy()
    site.mask(words, slot=slot, manifest=manifest, invited=site.roster)
    return words


# -- the sum is the sum ----------------------------------------------------------------------------


@settings(max_examples=15)
@given(
    names=st.lists(st.from_regex(r"\A[a-z0-9][a-z0-9_-]{0,8}\Z"), min_size=3, max_size=8, unique=True),
    bits=st.sampled_from((32, 64)),
    slot=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_the_masked_sum_is_exactly_the_plain_sum(names: list[str], bits: int, slot: int, seed: int) -> None:
    sites = sealed(names, slots=3)
    plan = plan_encoding(length=33, bound=2.0, sites=len(names), bits=bits)
    source = np.random.default_rng(seed)
    plain = [encode(source.uniform(-2, 2, 33), plan) for _ in names]
    total, expected = np.zeros_like(plain[0]), np.zeros_like(plain[0])
    for site, words in zip(sites.values(), plain, strict=True):
        total += masked(site, words, slot=slot)
        expected += words
    assert np.array_equal(total, expected)
    assert not total[-TAIL:].any()


@pytest.mark.parametrize("bits", [32, 64])
def test_one_masked_vector_looks_uniform_and_tells_nothing(bits: int) -> None:
    plan = plan_encoding(length=50_000, bound=1.0, sites=3, bits=bits)
    values = np.random.default_rng(0).normal(0, 0.05, plan.length).astype(np.float32)
    plain = encode(np.clip(values, -1, 1), plan)

    def chi_square(words: np.ndarray) -> float:
        counts = np.bincount(np.frombuffer(words.tobytes(), np.uint8), minlength=256)
        return float((np.square(counts - counts.mean()) / counts.mean()).sum())

    def correlation(words: np.ndarray) -> float:
        signed = words[: plan.length].view(plan.signed_dtype).astype(np.float64)
        return abs(float(np.corrcoef(signed, values)[0, 1]))

    # 255 degrees of freedom: mean 255, standard deviation 22.6; correlation: standard deviation 0.0045
    for site in sealed(("a", "b", "c")).values():
        words = masked(site, plain)
        assert chi_square(words) < 255 + 6 * 22.6
        assert correlation(words) < 6 * 0.0045
    # the positive control: without the mask both tests cry out
    assert chi_square(plain) > 10_000
    assert correlation(plain) > 0.999


def test_a_masked_vector_of_zeros_has_another_pad_for_every_site_slot_and_manifest() -> None:
    zeros = np.zeros(64, np.uint32)
    sites = sealed(slots=2)
    pads = [masked(site, zeros, slot=slot) for site in sites.values() for slot in (0, 1)]
    pads += [masked(site, zeros, manifest="b2" * 32) for site in sealed().values()]
    assert len({pad.tobytes() for pad in pads}) == len(pads)


def test_sites_that_were_shown_different_manifests_produce_noise() -> None:
    sites = sealed()
    plan = plan_encoding(length=10, bound=1.0, sites=len(sites), bits=32)
    total = np.zeros(14, np.uint32)
    for index, site in enumerate(sites.values()):
        total += masked(site, encode(np.zeros(10), plan), manifest=H if index else "b2" * 32)
    with refusal("protocol.garbage_sum"):
        decode_sum(total, plan, len(sites))


@pytest.mark.parametrize("left_out", NAMES)
def test_a_sum_without_one_site_is_noise(left_out: str) -> None:
    sites = sealed()
    plan = plan_encoding(length=10, bound=1.0, sites=len(sites), bits=32)
    total = np.zeros(14, np.uint32)
    for name, site in sites.items():
        if name != left_out:
            total += masked(site, encode(np.zeros(10), plan))
    with refusal("protocol.garbage_sum"):
        decode_sum(total, plan, len(sites))


# -- a slot masks once -----------------------------------------------------------------------------


def test_a_slot_masks_one_vector_once() -> None:
    site = sealed()["beta"]
    words = np.zeros(8, np.uint32)
    masked(site, words, slot=1)
    for slot in (1, 0, 2, -1):  # used, older, unknown, unknown
        before = words.copy()
        with refusal("protocol.slot_used"):
            site.mask(words, slot=slot, manifest=H, invited=site.roster)
        assert np.array_equal(words, before)
    assert site._seeds == {}  # slot 1's seeds were destroyed with its use, slot 0's with it


@pytest.mark.parametrize(
    "invited", [("alpha", "beta", "delta"), (), ("gamma", "delta", "beta", "alpha"), (*sorted(NAMES), "x")]
)
def test_only_the_whole_roster_is_summed(invited: tuple[str, ...]) -> None:
    site = sealed()["beta"]
    words = np.zeros(8, np.uint32)
    with refusal("protocol.invited"):
        site.mask(words, slot=0, manifest=H, invited=invited)
    assert not words.any()
    assert masked(site, words).any()  # the slot is still there for the manifest that is right


def test_nothing_is_masked_before_all_are_ready() -> None:
    sites = started()
    words = np.zeros(8, np.uint32)

    def refuses(site: SiteEpoch) -> None:
        with refusal("protocol.ready"):
            site.mask(words, slot=0, manifest=H, invited=sorted(NAMES))

    refuses(sites["alpha"])
    inbox = bundled(sites)
    refuses(sites["alpha"])
    for name, site in sites.items():
        site.ready(inbox[name], c=1, least=1)
    refuses(sites["alpha"])
    assert not words.any()


# -- adverts ---------------------------------------------------------------------------------------


def changed(advert: Advert, **fields: Any) -> Advert:
    return advert.model_copy(update=fields)


def other(site: str, **settings: Any) -> Advert:
    """Return a well-formed advert of *site* by somebody else."""
    made: dict[str, Any] = {"run": "run", "epoch": 1, "document": DOCUMENT, "slots": 2} | settings
    return SiteEpoch(site=site, **made).advert


BAD_ADVERTS = {
    "own swapped": lambda all_: [other("alpha"), *all_[1:]],
    "own missing": lambda all_: all_[1:],
    "own x25519 changed": lambda all_: [changed(all_[0], x25519=other("alpha").x25519), *all_[1:]],
    "own slots changed": lambda all_: [changed(all_[0], slots=["0" * 64] * 2), *all_[1:]],
    "a site twice": lambda all_: [*all_, other("beta")],
    "the same advert twice": lambda all_: [*all_, all_[1]],
    "x25519 key twice": lambda all_: [*all_[:3], changed(all_[3], x25519=all_[1].x25519)],
    "ml-kem key twice": lambda all_: [*all_[:3], changed(all_[3], mlkem768=all_[1].mlkem768)],
    "own key reflected": lambda all_: [*all_[:3], changed(all_[3], x25519=all_[0].x25519)],
    "another run": lambda all_: [*all_[:3], other("delta", run="run-2")],
    "another epoch": lambda all_: [*all_[:3], other("delta", epoch=2)],
    "another recipe": lambda all_: [*all_[:3], other("delta", document="e" * 64)],
    "another number of slots": lambda all_: [*all_[:3], other("delta", slots=3)],
    "two sites": lambda all_: all_[:2],
    "65 sites": lambda all_: [*all_, *(changed(all_[1], site=f"site-{index}") for index in range(61))],
    "x25519 of small order": lambda all_: [*all_[:3], changed(all_[3], x25519="00" * 32)],
    "ml-kem key out of range": lambda all_: [*all_[:3], changed(all_[3], mlkem768="ff" * 1184)],
}


@pytest.mark.parametrize("attack", BAD_ADVERTS)
def test_adverts_that_do_not_belong_together_are_refused(attack: str) -> None:
    sites = started()
    with refusal("protocol.adverts"):
        sites["alpha"].bundles(BAD_ADVERTS[attack](adverts(sites)))


def test_adverts_are_taken_once_whatever_came_of_them() -> None:
    sites = started()
    first = adverts(sites)
    sites["alpha"].bundles(first)
    with refusal("protocol.adverts"):
        sites["alpha"].bundles(first)
    with refusal("protocol.adverts"):
        sites["alpha"].bundles([*first[:3], other("delta")])


def test_the_order_of_the_adverts_does_not_matter() -> None:
    sites = started()
    for index, site in enumerate(sites.values()):
        given_adverts = adverts(sites)
        site.bundles(given_adverts[index:] + given_adverts[:index])
    assert {site.rho for site in sites.values()} == {sites["alpha"].rho}
    assert sites["alpha"].roster == tuple(sorted(NAMES))


def test_a_swapped_key_changes_what_the_others_agree_on() -> None:
    """A coordinator that shows two sites different adverts of a third: their rho differ, none masks."""
    sites = started(("a", "b", "c"))
    forged = other("c")
    sites["a"].bundles(adverts(sites))
    sites["b"].bundles([sites["a"].advert, sites["b"].advert, forged])
    assert sites["a"].rho != sites["b"].rho


@pytest.mark.parametrize("slots", [0, -1, 4097])
def test_a_number_of_slots_out_of_range_is_refused(slots: int) -> None:
    with refusal("protocol.slots"):
        SiteEpoch(run="run", epoch=1, site="alpha", document=DOCUMENT, slots=slots)


# -- bundles and ready -----------------------------------------------------------------------------


def flipped(text: str, place: int = 0) -> str:
    return text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :]


BAD_BUNDLES = {
    "another run": {"run": "run-2"},
    "another epoch": {"epoch": 2},
    "another rho": {"rho": "0" * 64},
    "another receiver": {"receiver": "alpha"},
    "another sender": {"sender": "gamma"},
    "a byte of the sealed part": lambda bundle: {"sealed": flipped(bundle.sealed, 40)},
    "the tag": lambda bundle: {"sealed": flipped(bundle.sealed, len(bundle.sealed) - 1)},
    "cut short": lambda bundle: {"sealed": bundle.sealed[:-2]},
    "shorter than a tag": {"sealed": "00"},
    "the KEM ciphertext": lambda bundle: {"kem": flipped(bundle.kem, 9)},
}


@pytest.mark.parametrize("attack", BAD_BUNDLES)
def test_a_bundle_that_was_changed_is_refused(attack: str) -> None:
    sites = started()
    inbox = bundled(sites)["beta"]  # from alpha alone
    change = BAD_BUNDLES[attack]
    bad = inbox[0].model_copy(update=change(inbox[0]) if callable(change) else change)
    with refusal("protocol.bundles"):
        sites["beta"].ready([bad], c=1, least=1)


def test_a_bundle_for_somebody_else_does_not_open() -> None:
    sites = started()
    inbox = bundled(sites)
    (to_delta,) = [bundle for bundle in inbox["delta"] if bundle.sender == "alpha"]
    with refusal("protocol.bundles"):
        sites["beta"].ready([to_delta.model_copy(update={"receiver": "beta"})], c=1, least=1)


def test_a_bundle_of_another_epoch_does_not_open() -> None:
    old, new = started(), started(epoch=2)
    bundle = bundled(old)["beta"][0]
    bundled(new)
    for change in ({}, {"epoch": 2}, {"epoch": 2, "rho": new["beta"].rho}):
        with refusal("protocol.bundles"):
            new["beta"].ready([bundle.model_copy(update=change)], c=1, least=1)


def test_a_bundle_of_other_slots_is_refused() -> None:
    """What opens must hold one seed a slot: a peer that lies about it in its own bundle."""
    sites = started()
    (bundle,) = bundled(sites)["beta"]
    sites["beta"]._seeds[2] = {}
    with refusal("protocol.bundles"):
        sites["beta"].ready([bundle], c=1, least=1)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_missing_or_superfluous_bundles_are_refused(count: int) -> None:
    sites = started()
    inbox = bundled(sites)["delta"]  # due from alpha and beta
    assert [bundle.sender for bundle in inbox] == ["alpha", "beta"]
    with refusal("protocol.bundles"):
        sites["delta"].ready((inbox * 2)[:count], c=1, least=1)


def test_a_key_of_small_order_from_an_earlier_site_is_refused_with_its_bundle() -> None:
    sites = started(("a", "b", "c"))
    bundles = bundled(sites)["b"]
    late = started(("a", "b", "c"))["b"]
    late.bundles([changed(sites["a"].advert, x25519="00" * 32), late.advert, sites["c"].advert])
    with refusal("protocol.bundles"):
        late.ready([bundles[0].model_copy(update={"rho": late.rho})], c=1, least=1)


def test_one_ready_statement_an_epoch() -> None:
    sites = started()
    inbox = bundled(sites)
    sites["delta"].ready(inbox["delta"], c=1, least=1)
    with refusal("protocol.ready"):
        sites["delta"].ready(inbox["delta"], c=2, least=1)


def test_steps_out_of_order_are_refused() -> None:
    sites = started()
    with refusal("protocol.ready"):
        sites["alpha"].ready([], c=1, least=1)
    with refusal("protocol.ready"):
        sites["alpha"].seal([])
    bundled(sites)
    with refusal("protocol.ready"):
        sites["alpha"].seal([])


@pytest.mark.parametrize(
    "change", [{"n": 3}, {"c": 2}, {"rho": "0" * 64}, {"epoch": 2}, {"run": "run-2"}, {"site": "beta"}, None]
)
def test_statements_that_are_not_equal_seal_nothing(change: dict[str, Any] | None) -> None:
    sites = started()
    inbox = bundled(sites)
    statements: list[Ready] = [site.ready(inbox[name], c=1, least=1) for name, site in sites.items()]
    last = [] if change is None else [statements[-1].model_copy(update=change)]
    with refusal("protocol.ready"):
        sites["alpha"].seal([*statements[:-1], *last])
    with refusal("protocol.ready"):
        masked(sites["alpha"], np.zeros(8, np.uint32))


def test_statements_equal_among_the_others_but_not_to_mine_seal_nothing() -> None:
    sites = started()
    inbox = bundled(sites)
    statements = [site.ready(inbox[name], c=1, least=1) for name, site in sites.items()]
    with refusal("protocol.ready"):
        sites["alpha"].seal([statement.model_copy(update={"c": 2}) for statement in statements])


# -- who may collude -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("organisations", "largest", "least"),
    [
        ({"me": "A", "b": "B", "c": "C"}, 1, 1),
        ({"me": "A", "b": "B", "c": "B", "d": "C"}, 1, 2),
        ({"me": "A", "b": "B", "c": "B", "d": "C", "e": "C", "f": "C"}, 1, 3),
        ({"me": "A", "b": "B", "c": "B", "d": "C", "e": "C", "f": "C"}, 2, 5),
        ({"me": "A", "b": "B", "c": "B", "d": "C", "e": "C", "f": "C"}, 9, 5),
        ({"me": "A", "b": "A", "c": "A", "d": "C"}, 1, 1),  # one's own organisation is no adversary
        ({"me": "A", "b": "A", "c": "A"}, 1, 1),
        ({"me": "A", "b": None, "c": "B"}, 1, 2),  # an unconfirmed site and one organisation
        ({"me": "A", "b": None, "c": None, "d": "B", "e": "B"}, 1, 4),
        ({"me": "A", "b": None, "c": None}, 0, 2),
        ({"me": "A", "b": "B", "c": "B"}, 0, 1),  # never less than one
    ],
)
def test_the_least_number_of_colluders(
    organisations: dict[str, str | None], largest: int, least: int
) -> None:
    assert least_colluders(organisations, largest, me="me") == least


@pytest.mark.parametrize(
    ("n", "c", "least", "accepted"),
    [
        (3, 1, 1, True),
        (6, 1, 1, True),
        (10, 3, 3, True),
        (50, 16, 2, True),
        (64, 62, 1, True),
        (3, 2, 1, False),  # c >= n - 1
        (3, 3, 1, False),
        (64, 63, 1, False),
        (6, 1, 2, False),  # less than the site's own value
        (6, 0, 1, False),
        (1, 1, 1, False),
    ],
)
def test_a_plan_of_colluders(n: int, c: int, least: int, accepted: bool) -> None:
    if accepted:
        assert check_colluders(n, c, least) is None
    else:
        with refusal("protocol.colluders"):
            check_colluders(n, c, least)


@pytest.mark.parametrize(("c", "least"), [(1, 2), (3, 1)])
def test_no_site_is_ready_under_a_plan_that_it_does_not_accept(c: int, least: int) -> None:
    sites = started()
    inbox = bundled(sites)
    with refusal("protocol.colluders"):
        sites["beta"].ready(inbox["beta"], c=c, least=least)


# -- what version 0 is -----------------------------------------------------------------------------


def test_version_0_has_no_field_of_version_1() -> None:
    """No self-mask digests, shares, blobs or threshold: absent, not empty."""
    assert PROTOCOL == "plasmid-sa/0"
    common = {"type", "protocol", "run", "epoch"}
    assert set(Advert.model_fields) == common | {"site", "document", "x25519", "mlkem768", "slots"}
    assert set(Bundle.model_fields) == common | {"sender", "receiver", "rho", "kem", "sealed"}
    assert set(Ready.model_fields) == common | {"site", "rho", "n", "c"}


@pytest.mark.parametrize("field", ["b", "self_masks", "shares", "blob", "theta"])
def test_a_field_of_version_1_is_refused(field: str) -> None:
    advert = other("alpha").model_dump()
    with pytest.raises(ValueError, match="extra_forbidden"):
        Advert.model_validate({**advert, field: []})


# -- known answers ---------------------------------------------------------------------------------


def known_site(vectors: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch) -> SiteEpoch:
    """Return the epoch of *name* with the secrets of the vectors instead of fresh ones."""
    secret = vectors["sites"][name]
    slots = iter([bytes.fromhex(k) for k in secret["k"]])
    x25519 = X25519PrivateKey.from_private_bytes(bytes.fromhex(secret["x25519_private"]))
    mlkem = MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(secret["mlkem768_seed"]))
    with monkeypatch.context() as patch:
        patch.setattr(
            secure_aggregation, "secrets", SimpleNamespace(token_bytes=lambda size: next(slots)[:size])
        )
        patch.setattr(secure_aggregation, "X25519PrivateKey", SimpleNamespace(generate=lambda: x25519))
        patch.setattr(secure_aggregation, "MLKEM768PrivateKey", SimpleNamespace(generate=lambda: mlkem))
        return SiteEpoch(
            run=vectors["run"],
            epoch=vectors["epoch"],
            site=name,
            document=vectors["document"],
            slots=len(secret["k"]),
        )


@pytest.fixture
def vectors() -> dict[str, Any]:
    return json.loads(VECTORS.read_text())


def test_derived_keys_are_the_known_ones(vectors: dict[str, Any]) -> None:
    for known in vectors["derive"]:
        info = [bytes.fromhex(part["hex"]) if "hex" in part else part["text"] for part in known["info"]]
        key = derive(bytes.fromhex(known["secret"]), *info, length=known["length"])
        assert key.hex() == known["key"]


def test_rho_a_bundle_and_a_mask_are_the_known_ones(
    vectors: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = {name: known_site(vectors, name, monkeypatch) for name in vectors["sites"]}
    for name, site in sites.items():
        assert digest_json(site.advert.model_dump()) == vectors["sites"][name]["advert_digest"]
        site.bundles(adverts(sites))
        assert site.rho == vectors["rho"]
    # every KEM ciphertext is fresh; the committed bundle is one of them, kept
    receiver = sites["b"]
    receiver.ready([Bundle.model_validate(vectors["bundle_a_to_b"])], c=1, least=1)
    opened = {slot: seeds["a"].hex() for slot, seeds in receiver._seeds.items()}
    assert opened == dict(enumerate(vectors["pair_seeds_a_to_b"]))
    receiver.seal(
        [Ready(run=vectors["run"], epoch=1, site=name, rho=receiver.rho, n=3, c=1) for name in sites]
    )
    for bits in ("32", "64"):
        mask = vectors["mask_of_b"][bits]
        words = np.zeros(len(mask["words"]), f"<u{int(bits) // 8}")
        receiver.mask(words, slot=mask["slot"], manifest=mask["manifest"], invited=receiver.roster)
        assert words.tolist() == [int(word) for word in mask["words"]]


def test_the_known_mask_follows_from_the_rule_alone(vectors: dict[str, Any]) -> None:
    """y_b = - PRG(r_ab) + PRG(r_bc), from the secrets k_a and k_b without any of the messages."""
    for bits, mask in vectors["mask_of_b"].items():
        words = np.zeros(len(mask["words"]), f"<u{int(bits) // 8}")
        for owner, peer, subtract in (("a", "b", True), ("b", "c", False)):
            k = bytes.fromhex(vectors["sites"][owner]["k"][mask["slot"]])
            assert hashlib.sha256(k).hexdigest() in digest_list(vectors, owner)
            key = derive(derive(k, "pair-seed", peer), "pair", bytes.fromhex(mask["manifest"]), length=16)
            add_keystream(words, key, subtract=subtract)
        assert words.tolist() == [int(word) for word in mask["words"]]


def digest_list(vectors: dict[str, Any], site: str) -> list[str]:
    return [hashlib.sha256(bytes.fromhex(k)).hexdigest() for k in vectors["sites"][site]["k"]]
