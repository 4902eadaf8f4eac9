"""People at a site of the in-memory federation who approve, quickly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from plasmid.gateway.approvals.files import Case
from plasmid.gateway.approvals.quorum import Signature
from plasmid.gateway.approvals.register import Approvals
from plasmid.gateway.keys.keystore import Cost
from support.federation.in_memory import Federation

CHEAP = Cost(n=2)
SECRET = "correct horse battery of {}"


def allow_approved(federation: Federation, site: str = "alpha", **approvers: Any) -> None:
    """Write a policy under which people decide: by default ann and bob, both of them."""
    rule = {"approvers": {"people": ["ann", "bob"], "quorum": 2} | approvers}
    write_policy(federation, site, [rule])


def write_policy(federation: Federation, site: str, rules: Sequence[Any], **sections: Any) -> None:
    """Write a site's policy."""
    if getattr(federation.document, "bundle", None) is not None:  # tables of tests are tiny
        require = dict(sections.get("require", {}))
        sections["require"] = {"disclosure": {"max_parameters_share": None}, **require}
    policy = {"allow": list(rules), "budgets": dict(federation.budgets), **sections}
    federation.home(site).policy.write_text(json.dumps(policy), encoding="utf-8")


def add_people(federation: Federation, *names: str, site: str = "alpha") -> Approvals:
    """Record people at a site; return its approvals."""
    approvals = federation.gateways[site].approvals
    for name in names or ("ann", "bob"):
        approvals.add_person(
            name,
            full_name=f"{name.capitalize()} Example",
            role="officer",
            passphrase=partial(SECRET.format, name),
            cost=CHEAP,
        )
    return approvals


def sign(approvals: Approvals, case: Case, name: str, **changes: Any) -> Signature:
    """Have *name* sign *case*."""
    values: dict[str, Any] = {
        "meaning": "approved",
        "reason": "as discussed on Monday",
        "days": 30,
        "passphrase": lambda: SECRET.format(name),
    }
    return approvals.sign(case, name, **values | changes)


def revoke(approvals: Approvals, said: Signature, name: str) -> Signature:
    """Have *name* revoke an approval."""
    return approvals.revoke(said.digest, name, reason="a mistake", passphrase=lambda: SECRET.format(name))
