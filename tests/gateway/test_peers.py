"""The identities that an owner has confirmed."""

from __future__ import annotations

from pathlib import Path

import pytest

from plasmid.core.errors import ProtocolError, RecipeError
from plasmid.gateway.members.peers import Peer, Peers, read_peers, write_peers

KEY, OTHER = "1" * 64, "2" * 64
PEERS = Peers(coordinator=OTHER, sites=[Peer(name="beta", organisation="B: \"#1\" 'é'", key=KEY)])


def test_peers_are_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "peers.yaml"
    write_peers(path, PEERS)
    assert read_peers(path) == PEERS


def test_a_peer_is_looked_up_by_name() -> None:
    assert PEERS.key("beta") == KEY
    assert PEERS.organisation("beta") == "B: \"#1\" 'é'"


def test_an_unconfirmed_site_has_no_key_and_no_organisation() -> None:
    assert PEERS.organisation("gamma") is None
    with pytest.raises(ProtocolError, match=r"the site gamma is not in peers\.yaml") as caught:
        PEERS.key("gamma")
    assert caught.value.code == "protocol.unknown_peer"
    assert "plasmid site join" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("sites: []\n", 1, "coordinator: is missing"),
        (f"coordinator: {KEY[:-1]}x\n", 1, "coordinator"),
        (f"coordinator: '{KEY}'\nsite: []\n", 2, "unknown key (did you mean 'sites'?)"),
        (f"coordinator: '{KEY}'\nsites:\n- name: B\n  organisation: b\n  key: '{KEY}'\n", 3, "sites.0.name"),
        (f"coordinator: '{KEY}'\nsites:\n- name: b\n  organisation: b\n", 3, "sites.0.key: is missing"),
    ],
)
def test_a_file_that_is_not_right_is_refused(tmp_path: Path, text: str, line: int, what: str) -> None:
    path = tmp_path / "peers.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_peers(path)
    assert f"{path}:{line}: " in caught.value.message
    assert what in caught.value.message


def test_without_a_file_nobody_is_known(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        read_peers(tmp_path / "peers.yaml")
