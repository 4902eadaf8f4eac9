"""What a site remembers of a run on disk: epochs rise, plans hold, a signed round is over."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from plasmid.core.errors import ProtocolError, StorageError
from plasmid.gateway.replay import Mark, Marks
from plasmid.protocol.messages import Planned
from support.federation.attacks import D, refusal

PLAN = Planned(sites=4, c=1, noise_rate=0.5)
H, OTHER = "a1" * 32, "b2" * 32


@pytest.fixture
def marks(tmp_path: Path) -> Marks:
    made = Marks(tmp_path / "runs")
    made.claim_epoch("run-1", 1, digest=D, planned=PLAN)
    return made


def again(marks: Marks) -> Marks:
    """Return the marks as another process reads them."""
    return Marks(marks._folder)


def test_a_run_that_is_unknown_has_no_mark(tmp_path: Path) -> None:
    marks = Marks(tmp_path / "runs")
    assert marks.read("run-1") is None
    marks.check_round("run-1", 1, H, again=False)
    assert not (tmp_path / "runs").exists()


def test_a_mark_is_one_small_file_a_run(marks: Marks, tmp_path: Path) -> None:
    marks.consent("run-1", 2, H, again=False)
    marks.claim_epoch("run-2", 7, digest=OTHER, planned=PLAN)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["run-1.json", "run-2.json"]
    assert json.loads((tmp_path / "runs" / "run-1.json").read_text()) == {
        "digest": D,
        "epoch": 1,
        "planned": {"sites": 4, "c": 1, "noise_rate": 0.5},
        "consented_round": 2,
        "consented_manifest": H,
        "heard": {},
    }
    assert again(marks).read("run-2") == Mark(digest=OTHER, epoch=7, planned=PLAN.model_dump())


def test_a_consent_that_was_lost_is_taken_on_and_an_older_one_changes_nothing(marks: Marks) -> None:
    assert marks.take_on("run-1", 3, H)
    with pytest.raises(ProtocolError, match="round 3 is the last"):
        again(marks).check_round("run-1", 3, OTHER, again=False)
    assert not marks.take_on("run-1", 3, OTHER)
    assert not marks.take_on("run-1", 2, OTHER)
    known = again(marks).read("run-1")
    assert known == Mark(D, 1, PLAN.model_dump(), consented_round=3, consented_manifest=H)


def test_the_newest_consent_of_each_other_site_is_kept(marks: Marks) -> None:
    marks.hear("run-1", {"beta": "1", "gamma": "1"})
    marks.hear("run-1", {"beta": "2"})
    marks.consent("run-1", 1, H, again=False)
    marks.claim_epoch("run-1", 2, digest=D, planned=PLAN)
    known = again(marks).read("run-1")
    assert known is not None
    assert known.heard == {"beta": "2", "gamma": "1"}


# -- epochs ----------------------------------------------------------------------------------------


def test_epochs_only_rise_and_survive_a_restart(marks: Marks) -> None:
    for epoch in (1, 0, -1):
        with pytest.raises(ProtocolError, match=f"epoch {epoch} of run-1 was used before") as caught:
            again(marks).claim_epoch("run-1", epoch, digest=D, planned=PLAN)
        assert (caught.value.code, caught.value.hint) == ("protocol.epoch_used", "Start a new run.")
    marks.claim_epoch("run-1", 3, digest=D, planned=PLAN)
    for epoch in (1, 2, 3):
        with refusal("protocol.epoch_used"):
            again(marks).claim_epoch("run-1", epoch, digest=D, planned=PLAN)
    marks.claim_epoch("run-1", 4, digest=D, planned=PLAN)
    marks.claim_epoch("run-2", 1, digest=D, planned=PLAN)  # another run counts for itself
    found = [again(marks).read(run) for run in ("run-1", "run-2")]
    assert [mark.epoch for mark in found if mark is not None] == [4, 1]


@pytest.mark.parametrize(
    ("digest", "planned"),
    [
        (OTHER, PLAN),
        (D, PLAN.model_copy(update={"sites": 5})),
        (D, PLAN.model_copy(update={"c": 2})),
        (D, PLAN.model_copy(update={"noise_rate": 0.25})),
    ],
)
def test_a_run_has_one_document_and_one_plan(marks: Marks, digest: str, planned: Planned) -> None:
    with pytest.raises(ProtocolError, match="run-1 began with another document or plan") as caught:
        again(marks).claim_epoch("run-1", 2, digest=digest, planned=planned)
    assert caught.value.code == "protocol.epoch_used"
    mark = marks.read("run-1")
    assert mark is not None
    assert (mark.epoch, mark.digest, mark.planned) == (1, D, PLAN.model_dump())


def test_a_plan_comes_back_from_json_as_it_was(marks: Marks) -> None:
    """0.5 and 1.0, and a rate that has no short decimal form."""
    for index, rate in enumerate((1.0, 0.0, 256 / 5000, 1 / 3), start=3):
        planned = Planned(sites=4, c=1, noise_rate=rate)
        marks.claim_epoch(f"run-{index}", 1, digest=D, planned=planned)
        again(marks).claim_epoch(f"run-{index}", 2, digest=D, planned=planned)


# -- rounds ----------------------------------------------------------------------------------------


def test_a_round_whose_list_was_signed_is_over(marks: Marks) -> None:
    marks.consent("run-1", 2, H, again=False)
    for round_, manifest in ((2, OTHER), (1, OTHER), (1, H), (0, H)):
        with pytest.raises(ProtocolError) as caught:
            again(marks).check_round("run-1", round_, manifest, again=False)
        assert caught.value.code == "protocol.consented"
        assert caught.value.message == (
            f"round {round_} of run-1 was summed, or begun to be; round 2 is the last."
        )
        assert caught.value.hint == "A round has one sum. Start a new run."
        with refusal("protocol.consented"):
            again(marks).consent("run-1", round_, manifest, again=False)
    again(marks).check_round("run-1", 2, H, again=False)  # the same list may be signed again
    again(marks).check_round("run-1", 3, OTHER, again=False)
    marks.consent("run-1", 5, OTHER, again=False)
    with refusal("protocol.consented"):
        marks.check_round("run-1", 3, OTHER, again=False)


def test_under_a_unit_the_last_round_may_be_attempted_again_and_earlier_ones_not(marks: Marks) -> None:
    marks.consent("run-1", 2, H, again=True)
    marks.check_round("run-1", 2, OTHER, again=True)
    marks.consent("run-1", 2, OTHER, again=True)
    for manifest in (H, OTHER):
        with refusal("protocol.consented"):
            marks.check_round("run-1", 1, manifest, again=True)
    mark = marks.read("run-1")
    assert mark is not None
    assert (mark.consented_round, mark.consented_manifest) == (2, OTHER)


def test_a_new_epoch_keeps_the_signed_round(marks: Marks) -> None:
    marks.consent("run-1", 2, H, again=False)
    marks.claim_epoch("run-1", 2, digest=D, planned=PLAN)
    with refusal("protocol.consented"):
        marks.check_round("run-1", 2, OTHER, again=False)
    marks.consent("run-1", 3, OTHER, again=False)
    with refusal("protocol.epoch_used"):  # and the other way round
        marks.claim_epoch("run-1", 2, digest=D, planned=PLAN)


# -- the disk --------------------------------------------------------------------------------------


def test_a_mark_is_durable_on_return(marks: Marks, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        synced.append("file" if name.startswith(".run-1.json.") else name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    marks.claim_epoch("run-1", 2, digest=D, planned=PLAN)
    marks.consent("run-1", 1, H, again=False)
    assert synced == ["file", "runs", "file", "runs"]


def test_a_mark_that_cannot_be_written_leaves_the_old_one(
    marks: Marks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for change in (
            lambda: marks.claim_epoch("run-1", 2, digest=D, planned=PLAN),
            lambda: marks.consent("run-1", 1, H, again=False),
        ):
            with pytest.raises(StorageError) as caught:
                change()
            assert caught.value.code == "storage.full"
    assert again(marks).read("run-1") == Mark(digest=D, epoch=1, planned=PLAN.model_dump())


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"digest": "d", "epochs": 1}'])
def test_a_damaged_mark_stops_the_run(marks: Marks, content: str) -> None:
    """Whatever is raised, it isn't "no mark": nothing that was done is forgotten."""
    (marks._folder / "run-1.json").write_text(content)
    with pytest.raises((ValueError, TypeError)):
        marks.claim_epoch("run-1", 2, digest=D, planned=PLAN)
    assert (marks._folder / "run-1.json").read_text() == content


@pytest.mark.parametrize("run", ["../run", "run/1", "", ".", "Run", "run\n", "r" * 64, "run.json"])
def test_a_run_s_id_is_no_path(marks: Marks, run: str) -> None:
    with pytest.raises(ProtocolError, match="does not have its form") as caught:
        marks.claim_epoch(run, 1, digest=D, planned=PLAN)
    assert caught.value.code == "protocol.malformed"
