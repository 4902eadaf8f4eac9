"""The gateway, driven message by message: what it answers, what it computes, and the one way out."""

from __future__ import annotations

import math
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.bases.store import BaseModel
from plasmid.core.errors import PlasmidError, ProtocolError, StorageError
from plasmid.disclosure.contributors import Evidence
from plasmid.dp.rotation import unrotate
from plasmid.gateway.admission import Answer
from plasmid.gateway.gateway import Computation, Summed
from plasmid.gateway.sentences import SENTENCES
from plasmid.protocol.identity import Identity
from plasmid.protocol.messages import Contribution, Manifest, Total, UnitTerms, open_signed, sign
from plasmid.recipes.query import PingDocument, QueryDocument
from plasmid.recipes.schema import Recipe
from plasmid.secagg.ring import decode_sum
from plasmid.secagg.samples import body_root
from support.federation.attacks import FOUR, as_csv, never, private, refusal
from support.federation.in_memory import SITES, Federation, document_of, full_disk, log_text
from support.federation.questions import OFF
from support.tiny.tiny_task import tiny_recipe, tiny_table

CLEAR = PingDocument.model_validate({"length": 6, "rounds": 2, "privacy": {"protect": "none"}})
AGES = QueryDocument(name="ages", column="age", bounds=(0.0, 120.0), max_rows=100)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    made = Federation(tmp_path)
    made.set_up()
    return made


def zeros(manifest: Manifest) -> np.ndarray:
    return np.zeros(manifest.length, np.float32)


def returns(vector: np.ndarray) -> Computation:
    return lambda _: vector


def finetuning(root: Path, base: BaseModel, **changes: Any) -> Federation:
    """Return sites with twelve rows each and a recipe; *changes* replace keys of its sections."""
    values = tiny_recipe(base).model_dump(mode="json")
    for section, keys in changes.items():
        values[section] |= keys
    tables = {site: as_csv(tiny_table(12, seed)) for seed, site in enumerate(SITES)}
    budgets = {"default": {"unit": "record", "epsilon": 8.0, "delta": 1e-5}}
    recipe = Recipe.model_validate(values)
    return Federation(root, document=recipe, tables=tables, public_size=1000, budgets=budgets)


# -- a whole round ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_home")
def test_the_decoded_mean_is_the_plain_mean_of_the_clipped_updates(
    tmp_path: Path, tiny: dict[str, BaseModel]
) -> None:
    federation = finetuning(tmp_path, tiny["esm"])
    federation.set_up()
    source = np.random.default_rng(0)
    bound = federation.document.privacy.update_clip
    for round_ in (1, 2):
        manifest = federation.manifest(round_)
        # one far over the clip, one just over, one below
        updates = {
            site: (source.normal(size=manifest.length) * scale).astype(np.float32)
            for site, scale in zip(SITES, (1e6, 0.2, 1e-3), strict=True)
        }
        answers = federation.answers(manifest, updates)
        total = federation.open_sum(list(answers.values()), manifest)
        mean = decode_sum(total, manifest.encoding(), len(SITES)) / len(SITES)
        norms = {site: np.linalg.norm(update.astype(np.float64)) for site, update in updates.items()}
        assert norms["alpha"] > bound > norms["gamma"]
        clipped = [updates[site].astype(np.float64) * min(1.0, bound / norms[site]) for site in SITES]
        # half a fixed-point step, and the rounding of the clip in float32
        tolerance = manifest.encoding().step / 2 + bound * 2.0**-24
        assert np.abs(mean - np.mean(clipped, axis=0)).max() <= tolerance
        logged = [line for line in federation.log("alpha") if line["action"] == "released"]
        assert logged[-1]["norm"] == pytest.approx(norms["alpha"], rel=1e-9)


@pytest.mark.promise("bounded-contribution")
def test_a_contribution_is_signed_and_names_its_manifest_and_body(federation: Federation) -> None:
    manifest = federation.manifest()
    for site, gateway in federation.gateways.items():
        answer = gateway.contribute(manifest, zeros)
        said = open_signed(answer.contribution, federation.identities[site].public)
        assert said == Contribution(
            run=federation.run,
            site=site,
            epoch=1,
            round=1,
            slot=0,
            manifest=manifest.digest(),
            body=body_root(answer.body),
            body_bytes=len(answer.body),
            tag=said.tag,
            ledger_counter=0,
            ledger_head="0" * 64,
            isolation="none",
        )
        assert answer.digest == said.body
        assert np.count_nonzero(federation.words(answer, manifest)) >= 9  # a mask over zeros


def test_under_a_unit_a_contribution_names_the_charge(tmp_path: Path) -> None:
    federation = private(tmp_path)
    federation.set_up()
    gateway = federation.gateways["alpha"]
    answer = gateway.contribute(federation.manifest(), lambda _: np.zeros(3))
    newest = gateway.ledger.entries()[-1]
    assert (newest["event"], newest["slot"]) == ("attempt", [1, 0])
    said = answer.contribution.payload
    assert (said["ledger_counter"], said["ledger_head"]) == (newest["counter"], newest["digest"])


def test_without_masks_the_words_are_the_plain_ones(tmp_path: Path) -> None:
    federation = Federation(tmp_path, document=CLEAR, require={"protect": "none"})
    federation.set_up()
    manifest = federation.manifest()
    assert (manifest.protocol, manifest.rho, manifest.theta) == ("none", None, 0)
    answer = federation.gateways["alpha"].contribute(manifest, lambda _: np.full(6, 0.5, np.float32))
    scale = 2**manifest.scale_log2
    assert federation.words(answer, manifest).tolist() == [scale // 2] * 6 + [0] * 4
    with refusal("protocol.ready"):
        federation.gateways["alpha"].relay(federation.relay("advert", []))
    # in the clear too, an epoch that was begun is not begun again after a restart
    gateway = federation.restart("alpha")
    assert federation.admit("alpha").accepted
    with refusal("protocol.epoch_used"):
        gateway.begin_epoch(federation.epoch())
    assert gateway.begin_epoch(federation.epoch(epoch=2)) is None


@pytest.mark.usefixtures("at_home")
def test_a_rotated_sum_is_turned_back_by_the_run_s_digest(tmp_path: Path, tiny: dict[str, BaseModel]) -> None:
    unit: dict[str, Any] = {"unit": "record", "mechanism": "output", "epsilon": 8.0, "delta": 1e-5}
    federation = finetuning(tmp_path, tiny["esm"], privacy={**unit, "rotation": "hadamard"})
    federation.set_up()
    manifest = federation.manifest()
    size = federation.gateways["alpha"].run(federation.run).shape.schema.size
    assert manifest.length > size
    update = np.zeros(size, np.float32)
    update[3] = 10.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plasmid.gateway.output.skellam", lambda length, variance: np.zeros(length, np.int64))
        answers = federation.answers(manifest, dict.fromkeys(SITES, update))
    total = decode_sum(federation.open_sum(list(answers.values()), manifest), manifest.encoding(), 3)
    assert np.abs(total).max() < 10.0  # one value is spread over all of them
    turned = unrotate(total, seed=bytes.fromhex(federation.digest), length=size)
    assert np.abs(turned - 3 * update).max() < 1e-2


@pytest.mark.usefixtures("at_home")
def test_an_audit_sums_guesses_exactly_and_is_not_charged(tmp_path: Path, tiny: dict[str, BaseModel]) -> None:
    privacy: dict[str, Any] = {
        "unit": "record", "mechanism": "output", "epsilon": 8.0, "delta": 1e-5, "audit": {"canaries": 30}
    }  # fmt: skip
    federation = finetuning(tmp_path, tiny["esm"], privacy=privacy)
    federation.set_up()
    audit = {
        "phase": "audit", "mechanism": "none", "length": 2, "bound": 30.0, "noise_variance": 0.0,
        "ring_bits": 32, "scale_log2": 24, "slot": 2,
    }  # fmt: skip
    federation.rounds(2)
    charged = federation.gateways["alpha"].ledger.entries()
    for round_ in (1, 2):
        with refusal("protocol.manifest"):
            federation.gateways["alpha"].contribute(federation.manifest(round_, **audit), never)
    manifest = federation.manifest(3, **audit)
    guesses = {site: np.array([20.0, 9.0 + index]) for index, site in enumerate(SITES)}
    answers = federation.answers(manifest, guesses)
    total = decode_sum(federation.open_sum(list(answers.values()), manifest), manifest.encoding(), 3)
    assert total.tolist() == [60.0, 30.0]
    assert federation.gateways["alpha"].ledger.entries() == charged


def test_no_audit_where_the_document_asks_for_none(federation: Federation) -> None:
    with pytest.raises(ProtocolError, match="the document asks for no audit") as caught:
        federation.gateways["alpha"].contribute(federation.manifest(3, phase="audit"), never)
    assert caught.value.code == "protocol.manifest"


# -- an attempt is answered once -------------------------------------------------------------------


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


def test_another_manifest_for_the_slot_is_refused(federation: Federation) -> None:
    gateway = federation.gateways["alpha"]
    gateway.contribute(federation.manifest(), zeros)
    with pytest.raises(
        ProtocolError, match=f"slot 0 of epoch 1 of {federation.run} was begun before"
    ) as caught:
        gateway.contribute(federation.manifest(state="6" * 64), never)
    assert caught.value.code == "protocol.second_manifest"


def test_an_attempt_whose_computation_failed_is_not_begun_again(federation: Federation) -> None:
    gateway = federation.gateways["alpha"]

    def fails(_: Manifest) -> np.ndarray:
        raise OSError("the worker is gone")

    with pytest.raises(OSError, match="gone"):
        gateway.contribute(federation.manifest(), fails)
    for change in ({}, {"state": "6" * 64}):
        with refusal("protocol.second_manifest"):
            gateway.contribute(federation.manifest(**change), never)
    assert gateway.contribute(federation.manifest(slot=1), zeros).body  # another slot is another attempt


def test_a_manifest_that_arrives_twice_at_once_starts_one_computation(federation: Federation) -> None:
    gateway = federation.gateways["alpha"]

    def compute(manifest: Manifest) -> np.ndarray:
        with refusal("protocol.second_manifest"):
            gateway.contribute(manifest, never)
        return zeros(manifest)

    assert gateway.contribute(federation.manifest(), compute).body


def test_an_earlier_attempt_is_neither_answered_nor_kept(federation: Federation) -> None:
    gateway = federation.gateways["alpha"]
    first = federation.manifest()
    gateway.contribute(first, zeros)
    second = gateway.contribute(federation.manifest(slot=1), zeros)
    with refusal("protocol.second_manifest"):
        gateway.contribute(first, never)
    assert gateway.run(federation.run).last == ((1, 1), federation.manifest(slot=1).digest(), second)


def test_a_skipped_slot_stays_closed(federation: Federation) -> None:
    """Slots only rise: after slot 1 there is no mask for slot 0 any more."""
    gateway = federation.gateways["alpha"]
    gateway.contribute(federation.manifest(slot=1), zeros)
    with refusal("protocol.second_manifest"):
        gateway.contribute(federation.manifest(1), never)


def test_a_run_that_ended_is_forgotten(federation: Federation) -> None:
    gateway = federation.gateways["alpha"]
    manifest = federation.manifest()
    gateway.forget(federation.run)
    gateway.forget(federation.run)
    with refusal("run.unknown"):
        gateway.contribute(manifest, never)


def test_a_reservation_of_which_nothing_was_spent_is_given_back(tmp_path: Path) -> None:
    federation = private(tmp_path)
    federation.set_up()
    federation.gateways["beta"].contribute(federation.manifest(), lambda _: np.zeros(3))
    events = {}
    for site in ("alpha", "beta"):
        federation.gateways[site].forget(federation.run)
        events[site] = [entry["event"] for entry in federation.gateways[site].ledger.entries()]
    assert events == {"alpha": ["reserve", "release"], "beta": ["reserve", "spend", "attempt"]}


# -- the manifest is what the document implies -----------------------------------------------------

REFUSED_CHANGES: dict[str, list[Any]] = {
    "protocol": ["none"],
    "run": ["run-2"],
    "phase": ["audit"],
    "epoch": [0, 2],
    "slot": [-1, 4, 10**6],
    "round": [0, 3, -1],
    "rho": ["0" * 64, None],
    "document": ["0" * 64],
    "total": [Total(digest="0" * 64, size=100, survivors=["alpha"], tag=None)],
    "base": ["0" * 64],
    "state_bytes": [0, 1, 2**40, -1],
    "invited": [["alpha", "beta"], ["gamma", "beta", "alpha"], ["alpha", "beta", "gamma", "mallory"]],
    "ring_bits": [64],
    "scale_log2": [0, 28, 30, 10**6, -(10**6)],
    "bound": [0.5, 2.0, 0.0, -1.0, math.inf, math.nan],
    "length": [5, 7, 0],
    "mechanism": ["output", "dp-sgd", "dp-fedsgd"],
    "noise_variance": [1.0, -1.0, math.nan],
    "min_sites": [1, 2, 4],
    "theta": [0, 2, 4],
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
    encoded = ("ring_bits", "scale_log2", "bound", "length", "noise_variance")
    if name not in ("run", "phase"):
        assert ("encoding" if name in encoded else name) in caught.value.message
    assert gateway.run(federation.run).last == ((0, -1), "", None)  # nothing was marked


def test_the_manifest_that_all_of_these_changed_is_answered(federation: Federation) -> None:
    assert federation.gateways["alpha"].contribute(federation.manifest(), zeros).body


def test_no_manifest_before_the_epoch_is_sealed(tmp_path: Path) -> None:
    """Not a step earlier: before anything is computed, and before anything is charged."""
    federation = private(tmp_path)
    federation.admit_all()

    def refused() -> None:
        for rho in (None, "0" * 64, federation.gateways["alpha"].run(federation.run).epoch):
            named = rho if rho is None or isinstance(rho, str) else rho.rho or None
            with pytest.raises(ProtocolError, match=f"{federation.run} has no key epoch yet") as caught:
                federation.gateways["alpha"].contribute(federation.manifest(rho=named), never)
            assert caught.value.code == "protocol.manifest"
        assert [entry["event"] for entry in federation.gateways["alpha"].ledger.entries()] == ["reserve"]

    refused()
    adverts = federation.adverts()
    refused()
    bundles = federation.bundles(adverts)
    refused()
    blobs = federation.recoveries(bundles)
    refused()
    statements = federation.ready(blobs)
    refused()
    federation.seal(statements)
    assert federation.gateways["alpha"].contribute(federation.manifest(), lambda _: np.zeros(3)).body


# -- the output contract ---------------------------------------------------------------------------


@pytest.mark.promise("bounded-contribution")
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
    assert "released" not in [line["action"] for line in federation.log("alpha")]
    # the slot's pad was not spent on it, and the attempt is over for this site all the same
    epoch = gateway.run(federation.run).epoch
    assert epoch is not None
    assert epoch._held[:, :, 0].any()
    with refusal("protocol.second_manifest"):
        gateway.contribute(federation.manifest(), never)


@pytest.mark.parametrize("size", [1.0, 1.0000001, 2.0, 1e30, 3.4e38])
def test_size_clips_and_never_refuses(tmp_path: Path, size: float) -> None:
    federation = Federation(tmp_path, document=CLEAR, require={"protect": "none"})
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
    federation = finetuning(tmp_path, tiny["esm"], privacy={"update_clip": bound}, federation={"rounds": 8})
    federation.set_up()
    sizes = [(size, spread) for spread in (False, True) for size in (1e-6, 1.0, 123.4, 1e30)]
    for round_, (size, spread) in enumerate(sizes, start=1):
        manifest = federation.manifest(round_)
        update = np.zeros(manifest.length, np.float32)
        update[:: 1 if spread else update.size] = -size
        answers = federation.answers(manifest, dict.fromkeys(SITES, update))
        total = federation.open_sum(list(answers.values()), manifest)
        mean = decode_sum(total, manifest.encoding(), 3) / 3
        norm = float(np.linalg.norm(update.astype(np.float64)))
        expected = update.astype(np.float64) * min(1.0, bound / norm)
        tolerance = manifest.encoding().step / 2 + abs(expected).max() * 2.0**-23
        assert np.abs(mean - expected).max() <= tolerance


@pytest.mark.usefixtures("at_home")
def test_an_update_that_carries_its_own_noise_is_clamped_and_not_scaled(
    tmp_path: Path, tiny: dict[str, BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To scale it to a norm would take a part of the noise away again."""
    monkeypatch.setattr(
        "plasmid.planner.attempts.dp_sgd_noise", lambda **_: 1.0
    )  # how much is no matter here
    privacy: dict[str, Any] = {
        "unit": "record", "mechanism": "dp-sgd", "epsilon": 8.0, "delta": 1e-5, "record_clip": 1.0,
        "update_clip": 0.5,
    }  # fmt: skip
    federation = finetuning(tmp_path, tiny["esm"], privacy=privacy)
    federation.set_up()
    manifest = federation.manifest()
    assert (manifest.mechanism, manifest.noise_variance) == ("dp-sgd", 0.0)
    update = np.full(manifest.length, 0.25, np.float32)
    update[:2] = (0.75, -3.0)
    assert np.linalg.norm(update) > 0.5
    answers = federation.answers(manifest, dict.fromkeys(SITES, update))
    mean = decode_sum(federation.open_sum(list(answers.values()), manifest), manifest.encoding(), 3) / 3
    assert mean[:4].tolist() == [0.5, -0.5, 0.25, 0.25]


def test_a_query_of_64_bits_is_clamped_to_its_rows(tmp_path: Path) -> None:
    federation = Federation(
        tmp_path,
        document=AGES,
        tables=dict.fromkeys(SITES, "age\n30\n"),
        require={"disclosure": OFF},
    )
    federation.set_up()
    manifest = federation.manifest()
    assert (manifest.ring_bits, manifest.bound) == (64, 100.0)
    nobody = Evidence.of(np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros((3, 0)), 1)
    vectors = {"alpha": [1e200, -1e300, 1e308], "beta": [1.5, 2.25, 3.0], "gamma": [0.1, 0.2, 0.3]}
    made: Any = {site: Summed(np.array([*vector, 0.0]), nobody) for site, vector in vectors.items()}
    answers = federation.answers(manifest, made)
    total = decode_sum(federation.open_sum(list(answers.values()), manifest), manifest.encoding(), 3)
    assert total.tolist() == pytest.approx([101.6, -97.55, 103.3, 0.0], abs=3 * manifest.encoding().step)


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


# -- admission -------------------------------------------------------------------------------------


def test_asking_starts_nothing(tmp_path: Path) -> None:
    federation = private(tmp_path)
    gateway = federation.gateways["alpha"]
    asked = gateway.answer(federation.asking())
    assert (asked.accepted, asked.code, asked.sentence) == (True, "", "")
    assert asked.terms == UnitTerms(public_size=1000, rate=1.0, noise_multiplier=None, attempts=3)
    with refusal("run.unknown"):
        gateway.run(federation.run)
    assert [line["action"] for line in federation.log("alpha")] == [
        "ask",
        "view.opened",
        "notice",
        "accepted",
    ]
    assert gateway.ledger.entries() == []


def refused(federation: Federation, code: str, **changes: Any) -> None:
    """Check that alpha refuses the run, in constant words, and does not hold it."""
    for asked in (federation.asking(**changes), federation.admitting(**changes)):
        answer = federation.gateways["alpha"].answer(asked)
        assert (answer.accepted, answer.code, answer.sentence) == (False, code, SENTENCES[code])
        with refusal("run.unknown"):
            federation.gateways["alpha"].run(asked.run)
    assert federation.log("alpha")[-1]["action"] == "refused"


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
    answer = federation.gateways["alpha"].answer(federation.admitting(document=document, digest="0" * 64))
    assert not answer.accepted
    assert answer.code in ("site.failed", "protocol.digest")


def test_a_site_without_data_refuses_a_query(tmp_path: Path) -> None:
    refused(Federation(tmp_path, document=AGES), "data.absent")


# -- nothing without the log, nothing of the rows --------------------------------------------------


@pytest.mark.promise("logged-first")
def test_what_cannot_be_logged_does_not_leave(federation: Federation) -> None:
    gateway = federation.gateways["alpha"]
    with full_disk(gateway):
        with pytest.RaisesExc(StorageError, check=lambda error: error.code == "storage.full"):
            gateway.contribute(federation.manifest(), never)
        with pytest.raises(StorageError):
            federation.admit("alpha")
    with refusal("protocol.second_manifest"):
        gateway.contribute(federation.manifest(), never)


def test_a_vector_that_was_masked_but_not_logged_does_not_leave(federation: Federation) -> None:
    gateway = federation.gateways["alpha"]
    with ExitStack() as meanwhile:

        def compute(manifest: Manifest) -> np.ndarray:
            meanwhile.enter_context(full_disk(gateway))
            return zeros(manifest)

        with pytest.raises(StorageError):
            gateway.contribute(federation.manifest(), compute)
    assert "released" not in [line["action"] for line in federation.log("alpha")]
    with refusal("protocol.second_manifest"):
        gateway.contribute(federation.manifest(), never)


def test_shares_that_cannot_be_logged_do_not_leave_and_do_not_come_again(federation: Federation) -> None:
    manifest = federation.manifest()
    consents = federation.consents(list(federation.answers(manifest).values()))
    gateway = federation.gateways["alpha"]
    with full_disk(gateway), pytest.raises(StorageError):
        gateway.relay(federation.relay("consent", consents))
    with refusal("protocol.slot_used"):
        gateway.relay(federation.relay("consent", consents))


def test_a_decision_is_a_line(federation: Federation) -> None:
    manifest = federation.manifest()
    answers: dict[str, Answer] = federation.answers(manifest)
    federation.open_sum(list(answers.values()), manifest)
    lines = federation.log("alpha")
    assert [line["action"] for line in lines] == [
        "admit", "accepted", "epoch", "ready", "manifest", "released", "consent", "shares"
    ]  # fmt: skip
    _, _, epoch, ready, begun, released, consent, shares = lines
    assert (epoch["roster"], epoch["c"]) == (list(SITES), 1)
    assert (ready["n"], ready["c"], ready["theta"]) == (3, 1, 3)
    assert (begun["object"], begun["epoch"], begun["slot"]) == (manifest.digest(), 1, 0)
    assert (released["object"], released["bytes"]) == (
        answers["alpha"].digest, len(answers["alpha"].body)
    )  # fmt: skip
    assert released["masked"] is True
    assert consent["survivors"] == list(SITES)
    assert (shares["survivors"], shares["dropped"]) == (list(SITES), [])


CANARIES = ("CANARYCELL", "31337.25", "CANARY-4711", "CANARYHEADER")
BROKEN_ROWS = "age,CANARYHEADER\n40,x\nCANARYCELL,x\n31337.25,CANARY-4711\n,x\n"


@pytest.mark.promise("constant-errors")
def test_no_error_holds_a_value_of_a_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from plasmid.gateway.admission import admit

    federation = Federation(tmp_path, document=AGES, tables={"alpha": BROKEN_ROWS})
    gateway = federation.gateways["alpha"]
    request = federation.admitting()
    with pytest.raises(PlasmidError) as caught:
        admit(
            gateway.home,
            gateway.projects,
            gateway.audit,
            gateway.ledger,
            gateway.approvals,
            request,
            isolation="none",
        )
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
            "log": log_text(federation.home("alpha")),
            "logging": caplog.text,
        }.items()
        if canary in text
    ]
    assert leaked == []


def test_no_vector_is_in_the_log(federation: Federation) -> None:
    vector = np.array([0.123456, 0.654321, 0, 0, 0, 0], np.float32)
    federation.gateways["alpha"].contribute(federation.manifest(), lambda _: vector)
    text = log_text(federation.home("alpha"))
    assert "0.123456" not in text
    assert "0.654321" not in text


@pytest.mark.promise("slot-once")
def test_nothing_in_the_folder_could_unmask_a_vector(tmp_path: Path) -> None:
    """Slot secrets live in memory alone."""
    federation = Federation(tmp_path, sites=FOUR)
    federation.set_up()
    epoch = federation.gateways["alpha"].run(federation.run).epoch
    assert epoch is not None
    secrets = {bytes(epoch._held[index, kind, 0]) for index in range(4) for kind in range(3)}
    federation.gateways["alpha"].contribute(federation.manifest(), zeros)
    files = [path.read_bytes() for path in federation.home("alpha").folder.rglob("*") if path.is_file()]
    assert files
    for secret in secrets - {bytes(32)}:
        for form in (secret, secret.hex().encode()):
            assert not any(form in content for content in files)
