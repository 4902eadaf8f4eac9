"""Secure sums with drop-outs in every phase: exact over the survivors, attempted again, or ended."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from controller.conftest import NAMES, Scene
from plasmid.coordinator import secure_sum
from plasmid.core.canonical import sha256_hex
from plasmid.core.errors import PlasmidError
from plasmid.protocol.body import pack
from plasmid.protocol.messages import Signed
from plasmid.recipes.protection import Limits, Protection
from plasmid.recipes.query import MEAN_NORM, PingDocument, QueryDocument
from support.federation.virtual_link import VirtualLink, fails, late, meanwhile, says, vanish

Make = Callable[..., Scene]
STEP = 2.0**-28
PHASES = ("contribution", "consent", "shares")


def refusal(code: str) -> pytest.RaisesExc[PlasmidError]:
    return pytest.RaisesExc(PlasmidError, check=lambda error: error.code == code)


def ping(rounds: int = 3, **limits: object) -> PingDocument:
    return PingDocument(length=6, rounds=rounds, federation=Limits(**limits))  # type: ignore[arg-type]


def exact(scene: Scene, total: np.ndarray, *sites: str) -> None:
    """Assert that *total* is the sum over *sites*, each within half a step of the fixed point."""
    assert np.abs(total - scene.expected(*sites)).max() <= len(sites) * STEP
    assert scene.sums.account.survivors[-1] == list(sites)


def test_a_sum_of_all(scene: Make) -> None:
    made = scene(5)
    made.sums.begin()
    for round_ in (1, 2, 3):
        exact(made, made.total(round_), *NAMES[:5])
    assert made.sums.account.attempts == 3
    assert made.sums.account.epochs == [{"n": 5, "c": 1, "theta": 4, "m": 4}]
    assert made.log()[-1] == "key epoch 1: n = 5, c = 1, theta = 4, m = 4"
    kept = list(made.link.bodies._folder.glob("received/**/*.body"))
    assert sorted(path.stem for path in kept) == sorted(NAMES[:5])  # of the last sum alone, for samples
    assert len({path.parent for path in kept}) == 1


@pytest.mark.parametrize("phase", PHASES)
def test_a_site_that_vanishes_in_any_phase_is_not_missed(scene: Make, phase: str) -> None:
    """n - theta = 1: the sum is over who contributed, and the next over who is left."""
    made, names = scene(4), NAMES[:4]
    made.link.on("beta", phase, vanish)
    made.sums.begin()
    left = [site for site in names if site != "beta"]
    exact(made, made.total(1), *(left if phase == "contribution" else names))
    exact(made, made.total(2), *left)
    assert made.sums.account.attempts == 2
    assert len(made.sums.account.epochs) == 1
    assert any(text.endswith("it has been silent for 20 s") for text in made.log())


def test_down_to_theta_it_works(scene: Make) -> None:
    """Of eight, theta = 5: one drops out in each phase, and the answers of five open the sum."""
    made = scene(8)
    for site, phase in zip(("alpha", "eta", "kappa"), PHASES, strict=True):
        made.link.on(site, phase, vanish)
    made.sums.begin()
    assert made.sums.account.epochs[0]["theta"] == 5
    exact(made, made.total(1), *[site for site in NAMES if site != "alpha"])
    assert made.sums.account.attempts == 1


def test_below_theta_an_attempt_is_void_and_a_smaller_epoch_goes_on(scene: Make) -> None:
    made = scene(5)  # theta = 4
    for site in ("beta", "eta"):
        made.link.on(site, "contribution", vanish)
    made.sums.begin()
    exact(made, made.total(1), "alpha", "delta", "epsilon")
    assert made.sums.account.attempts == 2
    assert [epoch["n"] for epoch in made.sums.account.epochs] == [5, 3]
    assert "round 1 is attempted again: 3 of 5 sites contributed, 4 must" in made.log()
    assert (
        made.runs.show(made.federation.run)["round_log"][0]["manifest"]
        == made.events("alpha", "manifest")[-1]["object"]
    )


def test_too_few_for_an_epoch_end_the_run_and_say_who_is_missing(scene: Make) -> None:
    made = scene(4, ping(min_sites=4))
    made.link.on("beta", "contribution", vanish)
    made.sums.begin()
    with refusal("recipe.too_few_sites") as caught:
        made.total(1)
    assert caught.value.message == (
        "3 sites accept, federation.min_sites is 4.\n  beta: it has been silent for 20 s"
    )


def test_the_dead_are_not_waited_for_as_if_they_were_back(scene: Make) -> None:
    """Their last poll is still open for a while: twice twenty seconds pass, not the deadline of a set-up."""
    made = scene(5)
    for site in ("beta", "eta"):
        made.link.on(site, "contribution", vanish)
    made.sums.begin()
    began = made.link.now
    made.total(1)
    assert 20 < made.link.now - began < 60


@pytest.mark.parametrize("phase", PHASES)
def test_a_site_that_is_revoked_in_any_phase_is_lost_like_any_other_and_not_taken_back(
    scene: Make, phase: str
) -> None:
    made, names = scene(5, ping(rounds=4)), NAMES[:5]
    made.link.on("beta", phase, meanwhile(lambda link: link.revoke("beta")))
    made.sums.begin()
    left = [site for site in names if site != "beta"]
    began = made.link.now
    exact(made, made.total(1), *(left if phase == "contribution" else names))
    assert made.link.now - began < 5, "it is not waited for"
    exact(made, made.total(2), *left)
    made.link.kill("eta")  # too few of the epoch are left, so another begins, without the revoked one
    exact(made, made.total(3), "alpha", "delta", "epsilon")
    assert [epoch["n"] for epoch in made.sums.account.epochs] == [5, 3]
    assert any("it was revoked" in line for line in made.log())
    for site in left[:-1]:
        assert [entry["name"] for entry in made.events(site, "revoked")] == ["beta"]


def test_a_site_that_is_revoked_between_two_epochs_is_not_in_the_next_roster(scene: Make) -> None:
    """No wait has told the coordinator that it is gone; the others would refuse a roster that names it."""
    made = scene(5)
    made.link.revoke("beta")
    made.sums.begin()
    assert [epoch["n"] for epoch in made.sums.account.epochs] == [4]
    assert made.sums.account.epochs[0]["n"] == len(made.events("alpha", "epoch")[-1]["roster"])


def test_a_site_that_fails_says_why(scene: Make) -> None:
    made = scene(4)
    made.link.on("delta", "contribution", fails)
    made.sums.begin()
    exact(made, made.total(1), "alpha", "beta", "epsilon")
    assert "delta dropped out of round 1: The worker ended. [site.worker_died]" in made.log()


def test_a_late_site_is_left_out_of_one_sum_and_takes_part_in_the_next(scene: Make) -> None:
    made = scene(5, ping(round_timeout_s=30.0))
    made.link.on("delta", "contribution", late(30.5))
    made.sums.begin()
    exact(made, made.total(1), "alpha", "beta", "epsilon", "eta")
    assert "delta was late: it did not answer within 30 s" in made.log()
    assert ("delta", "contribution", 1, 0) in made.link.said  # while the others agreed: it changes nothing
    exact(made, made.total(2), *NAMES[:5])
    assert len(made.sums.account.epochs) == 1


def test_late_contributions_are_attempted_again_and_the_old_ones_stay_unopened(scene: Make) -> None:
    """Before anybody consented: two are late, so the attempt is void, and a slot later all are there."""
    made = scene(5, ping(round_timeout_s=30.0))
    for site in ("beta", "delta"):
        made.link.on(site, "contribution", late(30.5))
    made.sums.begin()
    exact(made, made.total(1), *NAMES[:5])
    assert sorted(made.link.late) == [("beta", "contribution"), ("delta", "contribution")]
    assert made.sums.account.attempts == 2
    assert all(made.events(site, "consent")[0]["slot"] == 1 for site in NAMES[:5])
    assert len(made.sums.account.epochs) == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"manifest": lambda _: "e" * 64}, "another manifest"),
        ({"round": lambda round_: round_ + 1}, "another manifest"),
        ({"body": lambda _: "e" * 64}, "a body that it did not send"),
    ],
)
def test_a_contribution_to_something_else_is_left_out(
    scene: Make, change: dict[str, object], why: str
) -> None:
    made = scene(5)
    made.link.on("beta", "contribution", says(**change))
    made.sums.begin()
    exact(made, made.total(1), "alpha", "delta", "epsilon", "eta")
    assert f"beta is left out: its contribution names {why}" in made.log()
    assert made.events("beta", "consent") == []
    exact(made, made.total(2), *NAMES[:5])


def test_a_body_that_is_no_vector_of_the_plan_is_left_out(scene: Make) -> None:
    made = scene(5)

    def swap(link: VirtualLink, site: str, signed: Signed) -> Signed:
        (path,) = link.bodies._folder.glob(f"received/{made.federation.run}/beta.*.body")
        size = path.stat().st_size
        path.write_bytes(pack("other", np.zeros(9, np.uint32)).ljust(size, b"\0")[:size])
        return signed

    made.link.on("beta", "contribution", swap)
    made.sums.begin()
    exact(made, made.total(1), "alpha", "delta", "epsilon", "eta")
    assert "beta is left out: its contribution names a body of another form" in made.log()


@pytest.mark.parametrize("change", ["survivors", "manifest"])
def test_a_consent_to_something_else_is_shown_to_nobody(scene: Make, change: str) -> None:
    """One such among the consents would make every site refuse to answer."""
    made = scene(5)
    made.link.on("beta", "consent", says(**{change: lambda _: "e" * 64}))
    made.sums.begin()
    exact(made, made.total(1), *NAMES[:5])
    assert "beta is left out: it agreed to another sum than it was shown" in made.log()
    assert made.events("beta", "shares") == []


@pytest.mark.parametrize("n", [5, 6])
def test_one_wrong_share_is_found_out(scene: Make, n: int) -> None:
    """theta answers are not enough then: all are waited for, and theta right ones are among them."""
    made = scene(n)

    def spoiled(shares: dict[str, bytes]) -> dict[str, bytes]:
        return {site: bytes(32) for site in shares}

    made.link.on("alpha", "shares", says(self_shares=spoiled))
    made.sums.begin()
    exact(made, made.total(1), *NAMES[:n])


def test_wrong_shares_of_too_many_lose_the_sum(scene: Make) -> None:
    made = scene(5)
    for site in ("alpha", "beta"):
        made.link.on(site, "shares", says(self_shares=lambda shares: dict.fromkeys(shares, bytes(32))))
    made.sums.begin()
    with refusal("run.sum_lost") as caught:
        made.total(1)
    assert "no 4 right shares" in caught.value.message


def test_words_that_are_not_masked_as_agreed_give_no_sum(scene: Make) -> None:
    made = scene(5)

    def spoil(link: VirtualLink, site: str, signed: Signed) -> Signed:
        (path,) = link.bodies._folder.glob(f"received/{made.federation.run}/beta.*.body")
        body = path.read_bytes()[:-4] + b"\1\2\3\4"
        digest = sha256_hex(body)
        link.bodies.received(made.federation.run, site, digest).write_bytes(body)
        return says(body=lambda _: digest)(link, site, signed) or signed

    made.link.on("beta", "contribution", spoil)
    made.sums.begin()
    with refusal("protocol.garbage_sum"):
        made.total(1)


# -- key epochs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["advert", "bundles", "blobs", "ready"])
@pytest.mark.parametrize("how", [vanish, fails])
def test_who_drops_out_of_a_set_up_is_left_out_of_the_next(scene: Make, step: str, how: object) -> None:
    made = scene(5)
    made.link.on("delta", step, how)  # type: ignore[arg-type]
    made.sums.begin()
    assert made.sums.account.epochs == [{"n": 4, "c": 1, "theta": 3, "m": 3}]
    exact(made, made.total(1), "alpha", "beta", "epsilon", "eta")
    assert [line["epoch"] for line in made.events("alpha", "epoch")] == [1, 2]
    assert made.sums.account.attempts == 1


@pytest.fixture
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four slots to a key epoch."""
    monkeypatch.setattr(secure_sum, "EPOCH_SLOTS", 4)


@pytest.mark.usefixtures("short_epochs")
def test_the_slots_of_an_epoch_are_used_up_and_the_next_one_begins(scene: Make) -> None:
    made = scene(3, ping(rounds=6, spare_attempts=0))
    made.sums.begin()
    for round_ in range(1, 7):
        exact(made, made.total(round_), "alpha", "beta", "delta")
    assert [line["epoch"] for line in made.events("beta", "epoch")] == [1, 2]
    slots = [(line["epoch"], line["slot"]) for line in made.events("beta", "manifest")]
    assert slots == [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1)]
    assert made.sums.account.epochs == 2 * [{"n": 3, "c": 1, "theta": 3, "m": 3}]


@pytest.mark.usefixtures("short_epochs")
def test_a_site_that_was_restarted_counts_as_dropped_until_the_next_epoch(scene: Make) -> None:
    made = scene(4, ping(rounds=6))
    made.link.on("alpha", "contribution", meanwhile(lambda link: link.restart("beta")), round=2)
    made.sums.begin()
    exact(made, made.total(1), "alpha", "beta", "delta", "epsilon")
    for round_ in (2, 3, 4):
        exact(made, made.total(round_), "alpha", "delta", "epsilon")
    for round_ in (5, 6):
        exact(made, made.total(round_), "alpha", "beta", "delta", "epsilon")
    log = made.log()
    unknown = "The site does not know this run; it may have been restarted. [run.unknown]"
    assert log.index(f"beta dropped out of round 2: {unknown}") < log.index("beta is back")
    assert [epoch["n"] for epoch in made.sums.account.epochs] == [4, 4]
    assert made.sums.account.attempts == 6


@pytest.mark.usefixtures("short_epochs")
def test_a_site_that_was_cut_off_comes_back_as_well(scene: Make) -> None:
    made = scene(4, ping(rounds=5))
    made.link.on("beta", "contribution", vanish, round=2)
    made.link.on("alpha", "contribution", meanwhile(lambda link: link.revive("beta")), round=4)
    made.sums.begin()
    for round_ in range(1, 5):
        made.total(round_)
    exact(made, made.total(5), "alpha", "beta", "delta", "epsilon")
    assert [len(survivors) for survivors in made.sums.account.survivors] == [4, 3, 3, 3, 4]


@pytest.mark.usefixtures("short_epochs")
def test_a_site_whose_owner_has_changed_their_mind_stays_out(scene: Make) -> None:
    made = scene(4, ping(rounds=5))

    def change(link: VirtualLink) -> None:
        made.federation.allow("beta", [])
        link.restart("beta")

    made.link.on("alpha", "contribution", meanwhile(change), round=2)
    made.sums.begin()
    for round_ in range(1, 6):
        made.total(round_)
    assert made.sums.account.survivors[-1] == ["alpha", "delta", "epsilon"]
    assert "beta does not come back: The site's policy does not name this digest." in made.log()


def test_a_stopped_run_ends_at_once(scene: Make) -> None:
    made = scene(5)
    made.link.on("alpha", "contribution", meanwhile(lambda link: link.board.stop_run(made.federation.run)))
    made.sums.begin()
    with refusal("run.stopped"):
        made.total(1)


# -- spare attempts, without a unit ----------------------------------------------------------------


def test_spare_attempts_are_counted_and_used_up(scene: Make) -> None:
    made = scene(5, ping(spare_attempts=1, round_timeout_s=30.0))
    for site in ("beta", "delta"):
        made.link.on(site, "contribution", late(1e9), times=3)
    made.sums.begin()
    with refusal("run.no_attempts") as caught:
        made.total(1)
    assert caught.value.message == (
        "round 1 failed (3 of 5 sites contributed, 4 must) and the run's spare attempts are used up."
    )
    assert made.sums.account.attempts == 2


@pytest.mark.parametrize("phase", ["consent", "shares"])
def test_without_a_unit_a_sum_that_is_lost_after_a_consent_ends_the_run(scene: Make, phase: str) -> None:
    made = scene(5)
    for site in ("beta", "eta"):
        made.link.on(site, phase, vanish)
    made.sums.begin()
    with refusal("run.sum_lost") as caught:
        made.total(1)
    assert "Without a privacy unit a round has one sum" in caught.value.hint
    for site in ("beta", "eta"):
        assert f"\n  {site}: it has been silent for 20 s" in caught.value.message
    assert made.sums.account.attempts == 1
    # No site would take part in another attempt.
    again = made.federation.manifest(1, slot=1, epoch=1, invited=["alpha", "beta", "delta", "epsilon", "eta"])
    with refusal("protocol.consented"):
        made.federation.gateways["alpha"].contribute(again, lambda _: made.vectors["alpha"])


# -- under a unit ----------------------------------------------------------------------------------


def noised(spare_attempts: int = 2, *, min_sites: int = 3) -> QueryDocument:
    return QueryDocument(
        name="mean",
        column="age",
        bounds=(0.0, 100.0),
        max_rows=1000,
        federation=Limits(min_sites=min_sites, spare_attempts=spare_attempts),
        privacy=Protection(
            unit="record", mechanism="dp-fedsgd", epsilon=2.0, delta=1e-6, record_clip=MEAN_NORM
        ),
    )


def moments(scene: Scene, site: str, manifest: object) -> np.ndarray:
    """Return sums of a thousand made-up records."""
    return scene.vectors[site].astype(np.float64) * 500.0


def dp_scene(scene: Make, document: QueryDocument, n: int = 5) -> Scene:
    names = NAMES[:n]
    budget = {"default": {"unit": "record", "epsilon": 2.0, "delta": 1e-6}}
    return scene(
        n,
        document,
        compute=moments,
        tables=dict.fromkeys(names, "age\n1\n"),
        public_size=1000,
        budgets=budget,
    )


def spent(scene: Scene, site: str) -> tuple[float, int]:
    """Return epsilon and attempts on a site's ledger."""
    (population,) = scene.federation.gateways[site].ledger.summary().values()
    attempts = [e for e in scene.federation.gateways[site].ledger.entries() if e["event"] == "attempt"]
    return float(population.epsilon), len(attempts)


def test_under_a_unit_a_sum_holds_noise_and_is_charged(scene: Make) -> None:
    made = dp_scene(scene, noised())
    made.sums.begin()
    total = made.total(1)
    exact_ = 500.0 * made.expected(*NAMES[:5])
    std = made.sums._plan("train").noise_std * (5 / 3) ** 0.5  # five shares, sized for m - c = 3
    assert 0 < np.abs(total - exact_).max() < 8 * std
    assert [spent(made, site) for site in NAMES[:5]] == [(2.0, 1)] * 5


@pytest.mark.parametrize("phase", ["consent", "shares"])
def test_under_a_unit_a_sum_that_is_lost_is_attempted_again_and_charged(scene: Make, phase: str) -> None:
    made = dp_scene(scene, noised())
    for site in ("beta", "eta"):
        made.link.on(site, phase, vanish)
    made.sums.begin()
    total = made.total(1)
    left = ("alpha", "delta", "epsilon")
    assert made.sums.account.survivors == [list(left)]
    assert made.sums.account.attempts == 2
    assert [epoch["n"] for epoch in made.sums.account.epochs] == [5, 3]
    assert [spent(made, site) for site in left] == [(2.0, 2)] * 3
    # In the second epoch m - c = 2: each share is larger, the noise of the honest the same.
    std = made.sums._plan("train").noise_std * (3 / 2) ** 0.5
    assert 0 < np.abs(total - 500.0 * made.expected(*left)).max() < 8 * std


def test_without_spare_attempts_the_run_ends(scene: Make) -> None:
    made = dp_scene(scene, noised(spare_attempts=0))
    for site in ("beta", "eta"):
        made.link.on(site, "consent", vanish)
    made.sums.begin()
    with refusal("run.no_attempts") as caught:
        made.total(1)
    assert caught.value.message.startswith("round 1 failed (3 sites consented, 4 must)")
    assert "\n  beta: it has been silent for 20 s" in caught.value.message
    assert spent(made, "alpha") == (2.0, 1)


def test_a_site_that_comes_back_on_other_terms_stays_out(
    scene: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dp_scene(scene, noised(min_sites=3), n=4)
    monkeypatch.setattr(secure_sum, "EPOCH_SLOTS", 1)

    def change(link: VirtualLink) -> None:
        home = made.federation.home("beta")
        home.write_config(home.config().model_copy(update={"public_size": 5000}))
        link.restart("beta")

    made.link.on("alpha", "contribution", meanwhile(change))
    made.link.on("delta", "shares", vanish)
    made.link.on("epsilon", "shares", vanish)
    made.sums.begin()
    with refusal("recipe.too_few_sites"):
        made.total(1)
    assert "beta does not come back: on other terms than before" in made.log()
