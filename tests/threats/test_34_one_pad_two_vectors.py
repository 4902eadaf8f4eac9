"""Row 34. Attack: one pad, two vectors: replayed manifest, recompute after a crash, restored snapshot.

Must hold: a slot masks once; only stored bytes are re-sent; after a restart the site counts as dropped.
*claim*: a restored memory image.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.core.errors import PlasmidError
from plasmid.protocol.messages import Manifest, sign
from plasmid.recipes.query import PingDocument
from plasmid.secagg.ring import decode_sum, encode
from support.federation.attacks import FOUR, looks_uniform, never, refusal
from support.federation.in_memory import Federation

LENGTH = 4096
THREE = ("alpha", "beta", "gamma")
ONE, OTHER = np.full(LENGTH, 0.25, np.float32), np.linspace(-1, 1, LENGTH, dtype=np.float32)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    made = Federation(tmp_path, document=PingDocument(length=LENGTH, rounds=3), sites=FOUR)
    made.set_up()
    return made


@pytest.mark.limit("two copies of a gateway's memory mask two vectors with one pad")
def test_control_two_vectors_under_one_pad_give_their_difference_away(federation: Federation) -> None:
    """What the rule is for: copy a site's memory, let both copies mask. This is the row's claim, too."""
    manifest = federation.manifest()
    epoch = federation.gateways["delta"].run(federation.run).epoch
    image = copy.deepcopy(epoch)
    masked = []
    for site, vector in ((epoch, ONE), (image, OTHER)):
        words = encode(vector, manifest.encoding())
        site.mask(words, slot=0, manifest=manifest.digest(), invited=manifest.invited)  # type: ignore[union-attr]
        assert looks_uniform(words)
        masked.append(words)
    difference = decode_sum(masked[1] - masked[0], manifest.encoding(), 2)
    assert np.abs(difference - OTHER.astype(np.float64) + ONE).max() <= manifest.encoding().step


@pytest.mark.promise("slot-once")
def test_a_manifest_again_gets_the_stored_bytes(federation: Federation) -> None:
    manifest = federation.manifest()
    gateway = federation.gateways["delta"]
    answer = gateway.contribute(manifest, lambda _: ONE)
    for _ in range(3):
        again = gateway.contribute(Manifest.model_validate(manifest.model_dump()), never)
        assert (again.body, again.contribution) == (answer.body, answer.contribution)
    assert len([line for line in federation.log("delta") if line["action"] == "released"]) == 1


@pytest.mark.promise("slot-once")
@pytest.mark.parametrize(
    "change",
    [{"state": "6" * 64}, {"invited": ["alpha", "beta", "delta"]}],
    ids=["state", "invited"],
)
def test_a_second_manifest_for_a_slot_is_refused(federation: Federation, change: dict[str, Any]) -> None:
    gateway = federation.gateways["delta"]
    answer = gateway.contribute(federation.manifest(), lambda _: ONE)
    with refusal("protocol.second_manifest"):
        gateway.contribute(federation.manifest(**change), never)
    assert gateway.contribute(federation.manifest(), never) == answer


@pytest.mark.promise("slot-once")
def test_a_slot_that_was_passed_over_masks_nothing(federation: Federation) -> None:
    gateway = federation.gateways["delta"]
    gateway.contribute(federation.manifest(1, slot=2), lambda _: ONE)
    for slot in (0, 1):
        with refusal("protocol.second_manifest"):
            gateway.contribute(federation.manifest(1, slot=slot), never)
    epoch = gateway.run(federation.run).epoch
    assert epoch is not None
    assert not epoch._held[:, :, :2].any()  # their secrets are gone
    for slot in (0, 1, 2):
        with refusal("protocol.slot_used"):
            epoch.mask(np.zeros(LENGTH + 4, np.uint32), slot=slot, manifest="a" * 64, invited=list(FOUR))


def test_a_computation_that_failed_is_not_run_again_on_its_slot(federation: Federation) -> None:
    gateway = federation.gateways["delta"]

    def crashes(_: Manifest) -> np.ndarray:
        raise OSError("the worker is gone")

    with pytest.raises(OSError, match="gone"):
        gateway.contribute(federation.manifest(), crashes)
    for change in ({}, {"state": "6" * 64}):
        with refusal("protocol.second_manifest"):
            gateway.contribute(federation.manifest(**change), never)


def test_a_vector_that_was_masked_and_not_sent_is_not_masked_anew(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process lives on, but the log failed after the mask: the slot is lost."""
    gateway = federation.gateways["delta"]
    with monkeypatch.context() as patch:
        patch.setattr("plasmid.gateway.gateway.pack", lambda *_: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            gateway.contribute(federation.manifest(), lambda _: ONE)
    with refusal("protocol.second_manifest"):
        gateway.contribute(federation.manifest(), never)


def test_after_a_restart_a_site_counts_as_dropped_until_the_next_epoch(federation: Federation) -> None:
    first = federation.manifest()
    before = federation.gateways["delta"].contribute(first, lambda _: ONE)
    gateway = federation.restart("delta")
    with refusal("run.unknown"):
        gateway.contribute(first, never)
    assert federation.admit("delta").accepted
    with refusal("protocol.manifest"):  # it holds no epoch, so no mask
        gateway.contribute(first, never)
    with refusal("protocol.ready"):
        gateway.relay(federation.relay("contribution", [before.contribution]))
    for number in (0, 1):
        with refusal("protocol.epoch_used"):
            gateway.begin_epoch(federation.epoch(epoch=number))
    # the others go on without it, and it is back in the next epoch, with fresh secrets
    answers = federation.answers(first, dict.fromkeys(THREE, ONE))
    total = decode_sum(federation.open_sum(list(answers.values()), first), first.encoding(), 3)
    assert total.tolist() == [0.75] * LENGTH
    federation.key_epoch(epoch=2)
    manifest = federation.manifest(2, slot=0)
    answers = federation.answers(manifest, dict.fromkeys(FOUR, ONE))
    assert looks_uniform(federation.words(answers["delta"], manifest) - federation.words(before, first))
    total = decode_sum(federation.open_sum(list(answers.values()), manifest), manifest.encoding(), 4)
    assert total.tolist() == [1.0] * LENGTH


@pytest.mark.promise("slot-once")
@pytest.mark.parametrize("taken", ["before the epoch", "before the round", "after the round"])
def test_a_restored_folder_never_masks_a_second_vector_for_a_slot(tmp_path: Path, taken: str) -> None:
    federation = Federation(tmp_path, document=PingDocument(length=LENGTH, rounds=3), sites=FOUR)
    folder, snapshot = federation.home("delta").folder, tmp_path / "snapshot"

    def copied(moment: str) -> None:
        if moment == taken:
            shutil.copytree(folder, snapshot)

    federation.admit_all()
    copied("before the epoch")
    federation.key_epoch()
    copied("before the round")
    manifest = federation.manifest()
    before = federation.gateways["delta"].contribute(manifest, lambda _: ONE)
    copied("after the round")

    shutil.rmtree(folder)
    shutil.copytree(snapshot, folder)
    gateway = federation.restart("delta")
    assert federation.admit("delta").accepted
    with refusal("protocol.manifest"):
        gateway.contribute(manifest, never)

    if taken == "before the epoch":
        # the folder has forgotten the epoch, so it begins it again, with other secrets
        advert = gateway.begin_epoch(federation.epoch(epoch=1))
        assert advert is not None
        old = federation.coordinator_epoch._adverts["delta"]
        assert advert.payload["x25519"] != old.model_dump(mode="json")["x25519"]
        with refusal("protocol.manifest"):  # of which rho knows nothing
            gateway.contribute(manifest, never)
        adverts = [
            sign(federation.identities[site], federation.coordinator_epoch._adverts[site]) for site in THREE
        ]
        for site in THREE:  # and nobody else begins it again, or takes a second advert
            with refusal("protocol.epoch_used"):
                federation.gateways[site].begin_epoch(federation.epoch(epoch=1))
            with refusal("protocol.ready"):
                federation.gateways[site].relay(federation.relay("advert", [*adverts, advert]))
    else:
        with refusal("protocol.epoch_used"):
            gateway.begin_epoch(federation.epoch(epoch=1))

    answers = federation.answers(manifest, dict.fromkeys(THREE, ONE))
    total = decode_sum(federation.open_sum(list(answers.values()), manifest), manifest.encoding(), 3)
    assert total.tolist() == [0.75] * LENGTH
    federation.key_epoch(epoch=2)
    manifest = federation.manifest(2, slot=0)
    after = federation.answers(manifest, dict.fromkeys(FOUR, OTHER))
    assert looks_uniform(federation.words(after["delta"], manifest) - federation.words(before, manifest))


@pytest.mark.parametrize("number", [-1, 0, 1, 2, 3])
def test_an_epoch_with_a_number_that_does_not_rise_is_refused(federation: Federation, number: int) -> None:
    federation.key_epoch(epoch=3)
    for restarted in (False, True):
        if restarted:
            federation.restart("alpha")
            assert federation.admit("alpha").accepted
        with refusal("protocol.epoch_used"):
            federation.gateways["alpha"].begin_epoch(federation.epoch(epoch=number))
    assert federation.gateways["alpha"].begin_epoch(federation.epoch(epoch=4)) is not None


def test_the_number_is_on_disk_before_the_advert_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Federation(tmp_path)
    federation.admit_all()

    def full(path: Path, data: bytes) -> None:
        raise PlasmidError("storage.full", "no space left.")

    with monkeypatch.context() as patch:
        patch.setattr("plasmid.gateway.replay.write_atomic", full)
        with refusal("storage.full"):
            federation.gateways["alpha"].begin_epoch(federation.epoch())
    assert federation.gateways["alpha"].run(federation.run).epoch is None
    assert federation.gateways["alpha"].begin_epoch(federation.epoch()) is not None
