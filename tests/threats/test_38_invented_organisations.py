"""Row 38. Attack: the coordinator invents organisations.

Must hold: only peers that this owner confirmed count towards the minimum.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from plasmid.gateway.members.peers import Peers, read_peers, write_peers
from plasmid.recipes.query import PingDocument
from support.federation.attacks import FIVE, FOUR, never, refusal
from support.federation.in_memory import Federation

DOCUMENT = PingDocument(length=6, rounds=2)


def forget(federation: Federation, site: str, *peers: str) -> None:
    """Strike *peers* off a site's list of confirmed identities."""
    path = federation.home(site).peers
    known = read_peers(path)
    left = [peer for peer in known.sites if peer.name not in peers]
    write_peers(path, Peers(coordinator=known.coordinator, sites=left))


@pytest.mark.promise("colluders-assumed")
@pytest.mark.parametrize(
    "invented", [("delta",), ("delta", "epsilon"), ("beta", "delta", "epsilon", "gamma")]
)
def test_invented_sites_count_as_colluders(tmp_path: Path, invented: tuple[str, ...]) -> None:
    """The coordinator enrols sites of its own and writes hospitals' names beside them."""
    federation = Federation(tmp_path, document=DOCUMENT, sites=FIVE, strangers=invented)
    federation.admit_all()
    with refusal("protocol.colluders"):
        federation.gateways["alpha"].begin_epoch(federation.epoch(c=1))
    assert not federation.home("alpha").runs.exists()


@pytest.mark.promise("keys-confirmed")
def test_a_plan_that_admits_to_them_does_not_let_them_in(tmp_path: Path) -> None:
    """c = 3: the two and the largest confirmed organisation. But their adverts are nobody's."""
    federation = Federation(tmp_path, document=DOCUMENT, sites=FIVE, strangers=("delta", "epsilon"))
    federation.admit_all()
    gateway = federation.gateways["alpha"]
    with refusal("protocol.colluders"):
        gateway.begin_epoch(federation.epoch(c=2))
    adverts = federation.adverts(c=3)
    assert len(adverts) == 5
    with refusal("protocol.unknown_peer"):
        gateway.relay(federation.relay("advert", adverts))
    with refusal("protocol.manifest"):
        gateway.contribute(federation.manifest(rho="0" * 64), never)


@pytest.mark.parametrize("c", range(5))
def test_two_confirmed_organisations_and_any_number_of_invented_ones_are_two(tmp_path: Path, c: int) -> None:
    """Three of the five are the coordinator's: there is no c at which alpha takes part."""
    federation = Federation(tmp_path, document=DOCUMENT, sites=FIVE, strangers=("delta", "epsilon", "gamma"))
    federation.admit_all()
    with refusal("protocol.colluders"):
        federation.gateways["alpha"].begin_epoch(federation.epoch(c=c))


@pytest.mark.promise("colluders-assumed")
def test_a_confirmed_site_counts_for_the_organisation_that_the_owner_wrote(tmp_path: Path) -> None:
    """The coordinator's list says three hospitals; alpha's owner knows that two of them are one."""
    federation = Federation(tmp_path, document=DOCUMENT, organisations={"beta": "X", "gamma": "X"})
    federation.admit_all()
    with refusal("protocol.colluders"):  # X holds two of the three
        federation.gateways["alpha"].begin_epoch(federation.epoch(c=1))
    one = Federation(tmp_path / "own", document=DOCUMENT, organisations={"beta": "alpha hospital"})
    one.admit_all()
    with refusal("policy.min_organisations"):  # its own organisation, and gamma's
        one.gateways["alpha"].begin_epoch(one.epoch(c=1))


def test_a_peer_that_is_struck_off_while_a_round_runs_does_not_count_in_its_sum(tmp_path: Path) -> None:
    federation = Federation(tmp_path, document=DOCUMENT, sites=FOUR)
    federation.set_up()
    answers = federation.answers(federation.manifest())
    forget(federation, "alpha", "gamma")
    said = [answer.contribution for answer in answers.values()]
    with refusal("protocol.unknown_peer"):
        federation.gateways["alpha"].relay(federation.relay("contribution", said))
    assert federation.gateways["beta"].relay(federation.relay("contribution", said)) is not None  # control


def test_three_survivors_of_two_organisations_are_refused(tmp_path: Path) -> None:
    """Five sites; alpha and beta belong together, and so do delta and gamma."""
    organisations = {"alpha": "X", "beta": "X", "delta": "Y", "gamma": "Y"}
    federation = Federation(tmp_path, document=DOCUMENT, sites=FIVE, organisations=organisations, c=2)
    federation.set_up()
    manifest = federation.manifest()
    answers = federation.answers(manifest)
    without_epsilon = [answers[site].contribution for site in FOUR]
    with refusal("policy.min_organisations"):
        federation.gateways["alpha"].relay(federation.relay("contribution", without_epsilon))
    # control: with the third organisation the same site agrees
    everyone = [answer.contribution for answer in answers.values()]
    assert federation.gateways["alpha"].relay(federation.relay("contribution", everyone)) is not None


def test_control_confirmed_by_the_owner_they_count(tmp_path: Path) -> None:
    federation = Federation(tmp_path, document=DOCUMENT)
    federation.set_up()
    manifest = federation.manifest()
    assert federation.open_sum(list(federation.answers(manifest).values()), manifest)[:6].tolist() == [0] * 6
