"""A site as its owner has it, without a node: keys, policy, peers, releases and a refusal in the log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from plasmid.gateway.home import SiteConfig, SiteHome
from plasmid.gateway.keys.keystore import Cost, EncryptedFile
from plasmid.gateway.ledger import Budget, Ledger
from plasmid.gateway.members.peers import Peer, Peers, write_peers
from plasmid.log.audit_log import AuditLog
from plasmid.protocol.identity import Identity

PASSPHRASE = "correct horse battery staple"
RUN = "tcr-covid-0123456789abcdef"
CHEAP = Cost(n=2**10)
BUDGET = Budget(unit="record", epsilon=8.0, delta=1e-4)


def release_facts(round_: int = 1, **changes: Any) -> dict[str, Any]:
    """Return what the log says of a release, as :mod:`plasmid.gateway.contribution_entry` has it."""
    facts: dict[str, Any] = {
        "bytes": 136_016,
        "phase": "train",
        "round": round_,
        "epoch": 1,
        "slot": round_ - 1,
        "manifest": "c" * 64,
        "tensors": ["layer.0.query.A [8, 512]", "head.weight [1, 560]"],
        "dtype": "float32",
        "norm": 2.5,
        "norm_after": 1.0,
        "clip_fraction": 0.6,
        "bound": 1.0,
        "mechanism": "dp-sgd",
        "epsilon": 3.0,
        "population": "default",
        "epsilon_spent": 3.0,
        "masked": True,
        "isolation": "landlock",
        "coordinator": "d" * 64,
        "project": "b" * 64,
        "roster": ["hospital-a", "hospital-b", "hospital-c"],
    }
    return facts | changes


def make_site(folder: Path) -> tuple[SiteHome, EncryptedFile]:
    """Make a site with a key, two confirmed peers, a policy and a budget, but no log yet."""
    home = SiteHome(folder)
    keys = EncryptedFile.create(home.keys, "hospital-a", lambda: PASSPHRASE, cost=CHEAP)
    home.write_config(SiteConfig(name="hospital-a", organisation="Hospital A", public_size=900))
    (folder / "data").mkdir()
    peers = [
        Peer(name=name, organisation=f"{name} trust", key=Identity.generate(name).public)
        for name in ("hospital-b", "hospital-c")
    ]
    write_peers(home.peers, Peers(coordinator=Identity.generate("coordinator").public, sites=peers))
    policy = {"allow": ["a" * 64], "budgets": {"default": BUDGET.model_dump()}}
    home.policy.write_text(json.dumps(policy), encoding="utf-8")
    return home, keys


def make_used_site(folder: Path) -> tuple[SiteHome, EncryptedFile]:
    """Make a site that has released three bodies in one run and refused another run."""
    home, keys = make_site(folder)
    log = AuditLog(home.audit, keys.identity())
    ledger = Ledger(home.ledger)
    log.write("started")
    figures = {"population": "default", "unit": "record", "epsilon": 3.0, "delta": 1e-5, "attempts": 4}
    ledger.reserve(run=RUN, digest="a" * 64, project="b" * 64, budget=BUDGET, **figures)  # type: ignore[arg-type]
    ledger.spend(RUN)
    for round_ in (1, 2, 3):
        log.write("released", object=f"{round_:064x}", run=RUN, **release_facts(round_))
    log.write(
        "refused",
        run="mean-fedcba9876543210",
        rule="policy.digest_not_allowed",
        reason="the digest is 1234 <script>alert('canary')</script>",
        result="refused",
    )
    return home, keys
