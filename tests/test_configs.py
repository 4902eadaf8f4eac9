"""The examples in ``configs/`` are what the node reads."""

from __future__ import annotations

from pathlib import Path

from plasmid.cli.verbs.site import PeersFile
from plasmid.core.settings import read_settings
from plasmid.gateway.policy import Policy, Requirements, read_policy

CONFIGS = Path(__file__).parent.parent / "configs"


def test_the_example_policy_allows_nothing_yet() -> None:
    assert read_policy(CONFIGS / "policy.example.yaml") == Policy(allow=[], require=Requirements())


def test_the_example_peers_are_two_sites() -> None:
    assert [p.name for p in read_settings(CONFIGS / "peers.example.yaml", PeersFile).sites] == [
        "hospital-a",
        "hospital-b",
    ]


def test_every_example_is_tested() -> None:
    assert sorted(path.name for path in CONFIGS.iterdir()) == ["peers.example.yaml", "policy.example.yaml"]
