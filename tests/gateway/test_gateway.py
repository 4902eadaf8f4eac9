"""The gateway, driven message by message: admission, key epoch, and the one way out."""

from __future__ import annotations

import csv
import io
import json
import math
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from in_memory import SITES, STATE, Federation, document_of
from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import PlasmidError, ProtocolError, StorageError
from plasmid.data.table import Table
from plasmid.gateway.disclosure import SENTENCES
from plasmid.gateway.gateway import Answer, Computation
from plasmid.models.store import BaseModel
from plasmid.privacy.ring import decode_sum
from plasmid.privacy.statements import PROTOCOL
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Admit, Ask, Contribution, Manifest, Signed, open_signed, sign
from plasmid.recipes.query import PingDocument, QueryDocument
from plasmid.recipes.schema import Recipe
from tiny_task import tiny_recipe, tiny_table

CLEAR = PingDocument.model_validate({"length": 6, "rounds": 2, "privacy": {"protect": "none"}})
AGES = QueryDocument(name="ages", column="age", bounds=(0.0, 120.0), max_rows=100)


def refusal(code: str) -> pytest.RaisesExc[PlasmidError]:
    return pytest.RaisesExc(PlasmidError, check=lambda error: error.code == code)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    made = Federation(tmp_path)
    made.set_up()
    return made


def zeros(manifest: Manifest) -> np.ndarray:
    return np.zeros(manifest.length, np.float32)


def returns(vector: np.ndarray) -> Computation:
    return lambda _: vector


def never(manifest: Manifest) -> np.ndarray:
    raise AssertionError("the computation was started")


# -- a whole round ---------------------------------------------------------------------------------


def as_csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table.columns)
    for row in zip(*table.columns.values(), strict=True):
        writer.writerow("NA" if cell is None else cell for cell in row)
    return text.getvalue()


@pytest.mark.usefixtures("at_home")
def test_the_decoded_mean_is_the_plain_mean_of_the_clipped_updates(
    tmp_path: Path, tiny: dict[str, BaseModel]
) -> None:
    recipe = tiny_recipe(tiny["esm"])
    tables = {site: as_csv(tiny_table(12, seed)) for seed, site in enumerate(SITES)}
    federation = Federation(tmp_path, document=recipe, tables=tables)
    federation.set_up()
    source = np.random.default_rng(0)
    bound = recipe.privacy.update_clip
    for round_ in (1, 2):
        manifest = federation.manifest(round_)
        # one far over the clip, one just over, one below
        updates = {
            site: (source.normal(size=manifest.length) * scale).astype(np.float32)
            for site, scale in zip(SITES, (1e6, 0.2, 1e-3), strict=True)
        }
        answers = {
            site: gateway.contribute(manifest, returns(updates[site]))
            for site, gateway in federation.gateways.items()
        }
        total = federation.total(list(answers.values()), manifest)
        mean = decode_sum(total, manifest.encoding(), len(SITES)) / len(SITES)
        norms = {site: np.linalg.norm(update.astype(np.float64)) for site, update in updates.items()}
        assert norms["alpha"] > bound > norms["gamma"]
        clipped = [updates[site].astype(np.float64) * min(1.0, bound / norms[site]) for site in SITES]
        # half a fixed-point step, and the rounding of the clip in float32
        tolerance = manifest.encoding().step / 2 + bound * 2.0**-24
        assert np.abs(mean - np.mean(clipped, axis=0)).max() <= tolerance
        logged = [line for line in federation.journal("alpha") if line["event"] == "contributed"]
        assert logged[-1]["norm"] == pytest.approx(norms["alpha"], rel=1e-9)


def test_a_contribution_is_signed_and_names_its_manifest_and_body(federation: Federation) -> None:
    manifest = federation.manifest()
    for site, gateway in federation.gateways.items():
        answer = gateway.contribute(manifest, zeros)
        said = open_signed(answer.contribution, federation.identities[site].public)
        assert said == Contribution(
            run="run-1",
            site=site,
            round=1,
            slot=0,
            manifest=manifest.digest(),
            body=sha256_hex(answer.body),
            body_bytes=len(answer.body),
        )
        assert answer.digest == said.body
        assert np.count_nonzero(federation.words(answer, manifest)) >= 9  # a mask over zeros


def test_without_masks_the_words_are_the_plain_ones(tmp_path: Path) -> None:
    federation = Federation(tmp_path, document=CLEAR)
    for site in SITES:
        federation.allow(site, [federation.digest], protect="none")
    federation.set_up()
    manifest = federation.manifest()
    assert (manifest.protocol, manifest.rho) == ("none", None)
    answer = federation.gateways["alpha"].contribute(manifest, lambda _: np.full(6, 0.5, np.float32))
    scale = 2**manifest.scale_log2
    assert federation.words(answer, manifest).tolist() == [scale // 2] * 6 + [0] * 4
    with refusal("protocol.ready"):
        federation.gateways["alpha"].relay(federation.relay("advert", []))
    # in the clear too, a run that was begun is not begun again after a restart
    federation.restart("alpha")
    assert federation.admit("alpha").code == "protocol.epoch_used"


# -- a round is answered once ----------------------------------------------------------------------


def test_the_same_manifest_gets_the_same_bytes_from_one_computation(federation: Federation) -> None:
    manifest, calls = federation.manifest(), []

    def compute(_: Manifest) -> np.ndarray:
        calls.append(1)
        return np.full(6, 0.25 * len(calls), np.float32)

    gateway = federation.gateways["alpha"]
    first = gateway.contribute(manifest, compute)
    again = gateway.contribute(Manifest.model_validate(manifest.model_dump()), compute)
    assert len(calls) == 1
    assert again == first
    assert again.body == first.body


@pytest.mark.parametrize("change", [{"state": "6" * 64}])
def test_another_manifest_for_the_round_is_refused(federation: Federation, change: dict[str, Any]) -> None:
    gateway = federation.gateways["alpha"]
    gateway.contribute(federation.manifest(), zeros)
    with refusal("protocol.second_manifest"):
        gateway.contribute(federation.manifest(**change), never)


def test_a_round_whose_computation_failed_is_not_begun_again(federation: Federation) -> None:
    gateway = federation.gateways["alpha"]

    def fails(_: Manifest) -> np.ndarray:
        raise OSError("the worker is gone")

    with pytest.raises(OSError, match="gone"):
        gateway.contribute(federation.manifest(), fails)
    for change in ({}, {"state": "6" * 64}):
        with refusal("protocol.second_manifest"):
            gateway.contribute(federation.manifest(**change), never)


def test_a_manifest_that_arrives_twice_at_once_starts_one_computation(federation: Federation) -> None:
    gateway = federation.gateways["alpha"]

    def compute(manifest: Manifest) -> np.ndarray:
        with refusal("protocol.second_manifest"):
            gateway.contribute(manifest, never)
        return zeros(manifest)

    assert gateway.contribute(federation.manifest(), compute).body


def test_an_earlier_round_is_neither_answered_nor_kept(federation: Federation) -> None:
    gateway = federation.gateways["alpha"]
    first = federation.manifest()
    gateway.contribute(first, zeros)
    gateway.contribute(federation.manifest(2), zeros)
    with refusal("protocol.second_manifest"):
        gateway.contribute(first, never)
    kept = [answer for _, answer in gateway.run("run-1").answered.values() if answer is not None]
    assert len(kept) == 1


def test_a_skipped_round_stays_closed(federation: Federation) -> None:
    """Slots only rise: after round 2 there is no mask for round 1 any more."""
    gateway = federation.gateways["alpha"]
    gateway.contribute(federation.manifest(2), zeros)
    with refusal("protocol.slot_used"):
        gateway.contribute(federation.manifest(1), zeros)


def test_after_a_restart_the_run_is_unknown_and_its_epoch_is_used(federation: Federation) -> None:
    manifest = federation.manifest()
    gateway = federation.restart("alpha")
    with refusal("run.unknown"):
        gateway.contribute(manifest, never)
    answer = federation.admit("alpha")
    assert (answer.accepted, answer.code) == (False, "protocol.epoch_used")
    for epoch in (1, 2):
        with refusal("run.unknown"):
            gateway.begin_epoch(federation.epoch(epoch=epoch))


def test_an_epoch_on_disk_is_not_begun_again(tmp_path: Path) -> None:
    """The file decides, not what this process remembers."""
    federation = Federation(tmp_path)
    federation.admit_all()
    federation.home("alpha").claim_epoch("run-1", 1)
    with refusal("protocol.epoch_used"):
        federation.gateways["alpha"].begin_epoch(federation.epoch())


def test_a_run_that_ended_is_forgotten(federation: Federation) -> None:
    gateway = federation.gateways["alpha"]
    manifest = federation.manifest()
    gateway.forget("run-1")
    gateway.forget("run-1")
    with refusal("run.unknown"):
        gateway.contribute(manifest, never)


# -- the manifest is what the document implies -----------------------------------------------------

REFUSED_CHANGES: dict[str, list[Any]] = {
    "protocol": ["none"],
    "run": ["run-2"],
    "epoch": [0, 2],
    "slot": [1, -1],
    "round": [0, 2, 3, -1],
    "rho": ["0" * 64, None],
    "document": ["0" * 64],
    "base": ["0" * 64],
    "state_bytes": [0, 1, 2**40, -1],
    "invited": [["alpha", "beta"], ["gamma", "beta", "alpha"], ["alpha", "beta", "gamma", "mallory"]],
    "ring_bits": [64],
    "scale_log2": [0, 28, 30, 10**6, -(10**6)],
    "bound": [0.5, 2.0, 0.0, -1.0, math.inf, math.nan],
    "length": [5, 7, 0],
    "min_sites": [1, 2, 4],
}


def test_every_field_of_a_manifest_is_in_the_table() -> None:
    # the type is the message's own; the state is the coordinator's to choose, and is checked by its hash
    assert set(REFUSED_CHANGES) | {"type", "state"} == set(Manifest.model_fields)


@pytest.fixture(scope="module")
def unanswered(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    made = Federation(tmp_path_factory.mktemp("unanswered"))
    made.set_up()
    return made


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in REFUSED_CHANGES.items() for value in values]
)
def test_a_manifest_with_one_other_field_is_refused(unanswered: Federation, name: str, value: Any) -> None:
    federation, gateway = unanswered, unanswered.gateways["alpha"]
    with pytest.raises(ProtocolError) as caught:
        gateway.contribute(federation.manifest(**{name: value}), never)
    assert caught.value.code == ("run.unknown" if name == "run" else "protocol.manifest")
    if name not in ("run", "ring_bits", "scale_log2", "bound", "length"):
        assert name in caught.value.message
    assert gateway.run("run-1").answered == {}  # nothing was marked


def test_the_manifest_that_all_of_these_changed_is_answered(federation: Federation) -> None:
    assert federation.gateways["alpha"].contribute(federation.manifest(), zeros).body


def test_no_manifest_before_the_epoch(tmp_path: Path, federation: Federation) -> None:
    other = Federation(tmp_path / "other")
    other.admit_all()
    with refusal("protocol.manifest"):
        other.gateways["alpha"].contribute(other.manifest(), never)
    other.adverts()
    for rho in ("", None, "0" * 64):
        with refusal("protocol.manifest" if rho != "" else "protocol.ready"):
            other.gateways["alpha"].contribute(
                federation.manifest().model_copy(update={"rho": rho, "document": other.digest}), zeros
            )


# -- the output contract ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "vector",
    [
        np.array([0, 0, math.nan, 0, 0, 0], np.float32),
        np.array([0, 0, 0, 0, 0, math.inf], np.float32),
        np.array([-math.inf, 0, 0, 0, 0, 0], np.float32),
        np.zeros(5, np.float32),
        np.zeros(7, np.float32),
        np.zeros((6, 1), np.float32),
        np.zeros((), np.float32),
        np.zeros(6, np.float64),
        np.zeros(6, np.float16),
        np.zeros(6, np.int32),
        np.zeros(6, np.uint32),
        np.zeros(6, bool),
        np.zeros(6, object),
        np.zeros(6, np.complex64),
    ],
    ids=lambda vector: f"{vector.dtype}{vector.shape}",
)
def test_a_vector_that_breaks_the_contract_never_leaves(federation: Federation, vector: np.ndarray) -> None:
    gateway = federation.gateways["alpha"]
    with refusal("protocol.vector"):
        gateway.contribute(federation.manifest(), lambda _: vector)
    assert "contributed" not in [line["event"] for line in federation.journal("alpha")]
    # the slot's pad was not spent on it, and the round is over for this site all the same
    assert 0 in gateway.run("run-1").epoch._seeds  # type: ignore[union-attr]
    with refusal("protocol.second_manifest"):
        gateway.contribute(federation.manifest(), never)


@pytest.mark.parametrize("size", [1.0, 1.0000001, 2.0, 1e30, 3.4e38])
def test_size_clips_and_never_refuses(tmp_path: Path, size: float) -> None:
    federation = Federation(tmp_path, document=CLEAR)
    federation.allow("alpha", [federation.digest], protect="none")
    gateway = federation.gateways["alpha"]
    assert federation.admit("alpha").accepted
    gateway.begin_epoch(federation.epoch())
    vector = np.array([size, -size, 0.5, 0, 0, 1e-40], np.float32)
    manifest = federation.manifest()
    words = federation.words(gateway.contribute(manifest, lambda _: vector), manifest)
    one = 2**manifest.scale_log2
    assert words.view(np.int32)[:6].tolist() == [one, -one, one // 2, 0, 0, 0]


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("bound", [10.0, 0.1, 1e-3])
def test_an_update_is_scaled_to_its_l2_bound(
    tmp_path: Path, tiny: dict[str, BaseModel], bound: float
) -> None:
    """In one coordinate and in all, and for bounds whose nearest float32 is larger (0.1, 1e-3)."""
    values = tiny_recipe(tiny["esm"]).model_dump(mode="json")
    values["privacy"]["update_clip"], values["federation"]["rounds"] = bound, 8
    recipe = Recipe.model_validate(values)
    tables = {site: as_csv(tiny_table(12, seed)) for seed, site in enumerate(SITES)}
    federation = Federation(tmp_path, document=recipe, tables=tables)
    federation.set_up()
    sizes = [(size, spread) for spread in (False, True) for size in (1e-6, 1.0, 123.4, 1e30)]
    for round_, (size, spread) in enumerate(sizes, start=1):
        manifest = federation.manifest(round_)
        update = np.zeros(manifest.length, np.float32)
        update[:: 1 if spread else update.size] = -size
        answers = [gateway.contribute(manifest, returns(update)) for gateway in federation.gateways.values()]
        mean = decode_sum(federation.total(answers, manifest), manifest.encoding(), 3) / 3
        norm = float(np.linalg.norm(update.astype(np.float64)))
        expected = update.astype(np.float64) * min(1.0, bound / norm)
        tolerance = manifest.encoding().step / 2 + abs(expected).max() * 2.0**-23
        assert np.abs(mean - expected).max() <= tolerance


def test_a_query_of_64_bits_is_clamped_to_its_rows(tmp_path: Path) -> None:
    federation = Federation(tmp_path, document=AGES, tables=dict.fromkeys(SITES, "age\n30\n"))
    federation.set_up()
    manifest = federation.manifest()
    assert (manifest.ring_bits, manifest.bound) == (64, 100.0)
    vectors = {"alpha": [1e200, -1e300, 1e308], "beta": [1.5, 2.25, 3.0], "gamma": [0.1, 0.2, 0.3]}
    answers = [
        gateway.contribute(manifest, returns(np.array(vectors[site])))
        for site, gateway in federation.gateways.items()
    ]
    total = decode_sum(federation.total(answers, manifest), manifest.encoding(), 3)
    assert total.tolist() == pytest.approx([101.6, -97.55, 103.3], abs=3 * manifest.encoding().step)


# -- who speaks ------------------------------------------------------------------------------------


def test_only_the_pinned_coordinator_is_heard(federation: Federation) -> None:
    gateway = federation.gateways["alpha"]
    manifest = federation.manifest()
    assert gateway.open(sign(federation.coordinator, manifest)) == manifest
    for impostor in (Identity.generate("coordinator"), federation.identities["beta"]):
        with refusal("protocol.signature"):
            gateway.open(sign(impostor, manifest))
    signed = sign(federation.coordinator, manifest)
    with refusal("protocol.signature"):
        gateway.open(signed.model_copy(update={"payload": {**signed.payload, "min_sites": 1}}))


def begun(tmp_path: Path, **settings: Any) -> tuple[Federation, list[Signed]]:
    federation = Federation(tmp_path, **settings)
    federation.admit_all()
    return federation, federation.adverts(c=settings.get("c", 1))


def forged(signed: Signed, identity: Identity, **payload: Any) -> Signed:
    """Return a statement with another author, changed and signed by *identity*."""
    values = {**signed.payload, **payload}

    class _Payload:
        def model_dump(self, mode: str) -> dict[str, Any]:
            return values

    return sign(identity, _Payload()).model_copy(update={"signer": signed.signer})  # type: ignore[arg-type]


def test_a_key_that_the_coordinator_swapped_is_refused(tmp_path: Path) -> None:
    federation, adverts = begun(tmp_path)
    x25519 = Federation(tmp_path / "other")
    x25519.admit_all()
    fresh = x25519.adverts()[1].payload["x25519"]
    mallory = Identity.generate("beta")
    for bad in (
        forged(adverts[1], mallory, x25519=fresh),  # signed by somebody else
        forged(adverts[1], federation.coordinator, x25519=fresh),
        adverts[1].model_copy(update={"payload": {**adverts[1].payload, "x25519": fresh}}),  # not signed anew
        adverts[1].model_copy(update={"signer": "gamma"}),
        adverts[2].model_copy(update={"signer": "beta"}),
    ):
        with refusal("protocol.signature"):
            federation.gateways["alpha"].relay(federation.relay("advert", [adverts[0], bad, adverts[2]]))
    # nothing of this counts as the one set of adverts
    federation.seal(federation.ready(federation.bundles(adverts)))


def test_a_statement_under_another_site_s_name_is_refused(tmp_path: Path) -> None:
    """beta signs, correctly, an advert that says it is gamma's."""
    federation, adverts = begun(tmp_path)
    pretended = forged(adverts[2], federation.identities["beta"]).model_copy(update={"signer": "beta"})
    with refusal("protocol.signature"):
        federation.gateways["alpha"].relay(federation.relay("advert", [*adverts[:2], pretended]))


def test_a_statement_of_another_kind_is_refused(tmp_path: Path) -> None:
    federation, adverts = begun(tmp_path)
    for kind in ("bundle", "ready"):
        with refusal("protocol.signature"):
            federation.gateways["alpha"].relay(federation.relay(kind, adverts))


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_the_adverts_are_those_of_the_roster(tmp_path: Path, missing: int) -> None:
    federation, adverts = begun(tmp_path)
    fewer = [advert for index, advert in enumerate(adverts) if index != missing]
    for statements in (fewer, [*fewer, fewer[0]], [*adverts, adverts[0]], []):
        with refusal("protocol.adverts"):
            federation.gateways["alpha"].relay(federation.relay("advert", statements))


def test_a_bundle_of_another_site_is_refused(tmp_path: Path) -> None:
    federation, adverts = begun(tmp_path)
    inbox = federation.bundles(adverts)
    (bundle,) = inbox["beta"]
    for bad in (
        forged(bundle, federation.coordinator),
        forged(bundle, federation.identities["gamma"]),
        bundle.model_copy(update={"payload": {**bundle.payload, "kem": "0" * 2176}}),
    ):
        with refusal("protocol.signature"):
            federation.gateways["beta"].relay(federation.relay("bundle", [bad]))
    with refusal("protocol.bundles"):
        federation.gateways["beta"].relay(federation.relay("bundle", inbox["gamma"]))


def test_ready_statements_that_the_coordinator_invents_are_refused(tmp_path: Path) -> None:
    federation, adverts = begun(tmp_path)
    statements = federation.ready(federation.bundles(adverts))
    gateway = federation.gateways["alpha"]
    invented = forged(statements[1], federation.coordinator)
    with refusal("protocol.signature"):
        gateway.relay(federation.relay("ready", [statements[0], invented, statements[2]]))
    with refusal("protocol.ready"):
        gateway.relay(federation.relay("ready", statements[:2]))
    with refusal("protocol.ready"):
        gateway.contribute(federation.manifest(), zeros)


def test_statements_before_their_turn_are_refused(tmp_path: Path) -> None:
    federation, adverts = begun(tmp_path)
    statements = federation.ready(federation.bundles(adverts))
    late = Federation(tmp_path / "late")
    late.admit_all()
    gateway = late.gateways["alpha"]
    with refusal("protocol.ready"):
        gateway.relay(late.relay("advert", []))
    late.adverts()
    with refusal("protocol.ready"):
        gateway.relay(late.relay("bundle", []))
    with refusal("protocol.signature"):  # another federation's identities
        gateway.relay(late.relay("ready", statements))
    with refusal("protocol.ready"):
        gateway.relay(late.relay("ready", []))


# -- confirmed peers -------------------------------------------------------------------------------

FOUR = ("alpha", "beta", "delta", "gamma")


def test_an_unconfirmed_peer_counts_as_a_colluder(tmp_path: Path) -> None:
    federation = Federation(tmp_path, sites=FOUR, strangers=("delta",))
    federation.admit_all()
    with refusal("protocol.colluders"):
        federation.gateways["alpha"].begin_epoch(federation.epoch(c=1))


def test_a_statement_of_an_unconfirmed_peer_is_refused(tmp_path: Path) -> None:
    federation = Federation(tmp_path, sites=FOUR, strangers=("delta",))
    federation.admit_all()
    adverts = federation.adverts(c=2)
    assert len(adverts) == 4
    with refusal("protocol.unknown_peer"):
        federation.gateways["alpha"].relay(federation.relay("advert", adverts))


@pytest.mark.parametrize(
    ("organisations", "c", "accepted"),
    [
        ({}, 1, True),
        ({}, 2, True),
        ({}, 3, False),  # c >= n - 1
        ({}, 0, False),
        ({"beta": "X", "gamma": "X"}, 1, False),  # the organisation X holds two of the four
        ({"beta": "X", "gamma": "X"}, 2, True),
    ],
)
def test_the_plan_may_not_assume_fewer_colluders_than_the_site(
    tmp_path: Path, organisations: dict[str, str], c: int, accepted: bool
) -> None:
    federation = Federation(tmp_path, sites=FOUR, organisations=organisations)
    federation.admit_all()
    gateway = federation.gateways["alpha"]
    if accepted:
        assert gateway.begin_epoch(federation.epoch(c=c)) is not None
    else:
        with refusal("protocol.colluders"):
            gateway.begin_epoch(federation.epoch(c=c))
        assert not (federation.home("alpha").folder / "epochs.json").exists()


def test_a_peer_struck_off_during_the_set_up_stops_it(tmp_path: Path) -> None:
    federation, adverts = begun(tmp_path)
    inbox = federation.bundles(adverts)
    peers = federation.home("beta").peers
    peers.write_text(json.dumps({"coordinator": federation.coordinator.public, "sites": []}))
    with refusal("protocol.unknown_peer"):
        federation.gateways["beta"].relay(federation.relay("bundle", inbox["beta"]))


# -- the epoch -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"roster": ["alpha", "beta"]},
        {"roster": ["beta", "gamma", "delta"]},  # without the site itself
        {"roster": ["gamma", "beta", "alpha"]},
        {"roster": ["alpha", "alpha", "beta", "gamma"]},
        {"slots": 1},
        {"slots": 0},
    ],
)
def test_a_roster_that_the_document_does_not_allow_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    federation = Federation(tmp_path)
    federation.admit_all()
    with refusal("protocol.manifest"):
        federation.gateways["alpha"].begin_epoch(federation.epoch(**change))
    assert not (federation.home("alpha").folder / "epochs.json").exists()


def test_one_roster_a_run(federation: Federation) -> None:
    with refusal("protocol.manifest"):
        federation.gateways["alpha"].begin_epoch(federation.epoch(epoch=2))


def test_the_epoch_is_on_disk_before_the_advert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = Federation(tmp_path)
    federation.admit_all()
    gateway = federation.gateways["alpha"]
    (federation.home("alpha").folder / "epochs.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        gateway.begin_epoch(federation.epoch())
    assert gateway.run("run-1").epoch is None


def test_messages_carry_nothing_of_version_1(tmp_path: Path) -> None:
    federation, adverts = begun(tmp_path)
    inbox = federation.bundles(adverts)
    statements = [*adverts, *(bundle for some in inbox.values() for bundle in some)]
    statements += federation.ready(inbox)
    federation.seal(statements[-3:])
    manifest = federation.manifest()
    contribution = federation.gateways["alpha"].contribute(manifest, zeros).contribution
    texts = [json.dumps(said.payload) for said in [*statements, contribution]] + [manifest.model_dump_json()]
    for name in ("b", "theta", "shares", "share", "blob", "blobs", "self", "survivors", "noise"):
        assert not [text for text in texts if f'"{name}"' in text]
    assert all(said.payload["protocol"] == PROTOCOL for said in statements)


# -- admission -------------------------------------------------------------------------------------


def test_asking_starts_nothing(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    gateway = federation.gateways["alpha"]
    asked = gateway.answer(Ask(run="run-1", document=federation.values, digest=federation.digest))
    assert (asked.accepted, asked.code, asked.sentence) == (True, "", "")
    with refusal("run.unknown"):
        gateway.run("run-1")
    assert [line["event"] for line in federation.journal("alpha")] == ["ask", "accepted"]


def refused(federation: Federation, code: str, **changes: Any) -> None:
    """Check that alpha refuses the run, in constant words, and does not hold it."""
    values = {"run": "run-1", "document": federation.values, "digest": federation.digest} | changes
    for kind in (Ask, Admit):
        answer = federation.gateways["alpha"].answer(kind(**values))
        assert (answer.accepted, answer.code, answer.sentence) == (False, code, SENTENCES[code])
        with refusal("run.unknown"):
            federation.gateways["alpha"].run("run-1")
    assert federation.journal("alpha")[-1]["event"] == "refused"


def test_a_digest_that_is_not_the_document_s_is_refused(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    refused(federation, "protocol.digest", digest="0" * 64)
    # a document one byte away, under the digest that was approved
    refused(federation, "protocol.digest", document={**federation.values, "length": 7})


def test_a_document_that_the_policy_does_not_name_is_refused(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    other, digest = document_of(PingDocument(length=7, rounds=2))
    refused(federation, "policy.digest_not_allowed", document=other, digest=digest)
    federation.home("alpha").policy.unlink()
    refused(federation, "policy.absent")
    federation.home("alpha").policy.write_text("allow: [")
    refused(federation, "policy.invalid")


def test_a_policy_that_changed_holds_from_the_next_decision_on(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    assert federation.admit("alpha").accepted
    federation.allow("alpha", [])
    assert federation.admit("alpha").code == "policy.digest_not_allowed"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"computation": "exfiltrate"},
        {"computation": "../api", "length": 1},
        {"computation": ["ping"]},
        {"computation": "ping", "length": 4},  # not resolved: defaults left out
        {"computation": "ping", "length": -1},
    ],
)
def test_a_document_that_is_none_is_refused(tmp_path: Path, document: dict[str, Any]) -> None:
    federation = Federation(tmp_path)
    answer = federation.gateways["alpha"].answer(Admit(run="run-1", document=document, digest="0" * 64))
    assert not answer.accepted
    assert answer.code in ("site.failed", "protocol.digest")


def test_a_site_without_data_refuses_a_query(tmp_path: Path) -> None:
    refused(Federation(tmp_path, document=AGES), "data.absent")


# -- nothing without the log, nothing of the rows --------------------------------------------------


def test_what_cannot_be_logged_does_not_leave(federation: Federation) -> None:
    gateway = federation.gateways["alpha"]
    gateway.journal._path = Path("/dev/full")
    with pytest.RaisesExc(StorageError, check=lambda error: error.code == "storage.full"):
        gateway.contribute(federation.manifest(), never)
    with pytest.raises(StorageError):
        federation.admit("alpha")
    gateway.journal._path = federation.home("alpha").journal
    with refusal("protocol.second_manifest"):
        gateway.contribute(federation.manifest(), never)


def test_a_vector_that_was_masked_but_not_logged_does_not_leave(federation: Federation) -> None:
    gateway = federation.gateways["alpha"]

    def compute(manifest: Manifest) -> np.ndarray:
        gateway.journal._path = Path("/dev/full")
        return zeros(manifest)

    with pytest.raises(StorageError):
        gateway.contribute(federation.manifest(), compute)
    gateway.journal._path = federation.home("alpha").journal
    with refusal("protocol.second_manifest"):
        gateway.contribute(federation.manifest(), never)


def test_a_decision_is_a_line(federation: Federation) -> None:
    manifest = federation.manifest()
    answer: Answer = federation.gateways["alpha"].contribute(manifest, zeros)
    lines = federation.journal("alpha")
    assert [line["event"] for line in lines] == [
        "admit", "accepted", "epoch", "ready", "manifest", "contributed"
    ]  # fmt: skip
    assert lines[-2]["digest"] == manifest.digest()
    assert (lines[-1]["body"], lines[-1]["bytes"]) == (answer.digest, len(answer.body))
    assert lines[-1]["masked"] is True


CANARIES = ("CANARYCELL", "31337.25", "CANARY-4711", "CANARYHEADER")
BROKEN_ROWS = "age,CANARYHEADER\n40,x\nCANARYCELL,x\n31337.25,CANARY-4711\n,x\n"


def test_no_error_holds_a_value_of_a_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    federation = Federation(tmp_path, document=AGES, tables={"alpha": BROKEN_ROWS})
    gateway = federation.gateways["alpha"]
    request = Admit(run="run-1", document=federation.values, digest=federation.digest)
    with pytest.raises(PlasmidError) as caught:
        gateway._admit(request)
    assert caught.value.code.startswith("data.")
    assert "(first at line 3)" in caught.value.message  # the counts and lines are for the owner
    trace = "".join(traceback.format_exception(caught.value))
    answer = gateway.answer(request)
    assert (answer.accepted, answer.code) == (False, "data.invalid")
    leaked = [
        (canary, where)
        for canary in CANARIES
        for where, text in {
            "error": str(caught.value) + repr(caught.value.__dict__),
            "traceback": trace,
            "answer": answer.model_dump_json(),
            "log": federation.home("alpha").journal.read_text(),
            "logging": caplog.text,
        }.items()
        if canary in text
    ]
    assert leaked == []


def test_no_vector_is_in_the_log(federation: Federation) -> None:
    vector = np.array([0.123456, 0.654321, 0, 0, 0, 0], np.float32)
    federation.gateways["alpha"].contribute(federation.manifest(), lambda _: vector)
    text = federation.home("alpha").journal.read_text()
    assert "0.123456" not in text
    assert "0.654321" not in text
    assert STATE not in text
