"""The one decider: what a policy says about a run, whoever asks.

Admission, the steps of a run, ``policy explain``, ``approvals show`` and the owner's page call :func:`decide`
with what they know. None of them has a rule of its own.
"""

from __future__ import annotations

from plasmid.gateway.policy.file import Policy
from plasmid.gateway.policy.grants import GRANT_RULES, best
from plasmid.gateway.policy.require import Requirements
from plasmid.gateway.policy.rule import Facts, Finding, Rule, rules_of
from plasmid.gateway.policy.site_rules import SITE_RULES

REQUIRED = tuple(rules_of(Requirements))
RULES: tuple[Rule, ...] = (*GRANT_RULES, *REQUIRED, *SITE_RULES)
"""Every rule, in the order in which findings are told."""


def decide(policy: Policy, facts: Facts) -> list[Finding]:
    """Return what every rule says that can be looked at with these *facts*.

    Raises
    ------
    StorageError
        The site's own records are damaged: nothing is decided.
    """
    return [
        *best(policy.allow, facts),
        *(finding for rule in REQUIRED for finding in rule.look(policy.require, facts)),
        *(finding for rule in SITE_RULES for finding in rule.look(policy, facts)),
    ]


def not_looked_at(facts: Facts) -> list[str]:
    """Return the names of the rules that need a fact which could not be had."""
    return [rule.name for rule in RULES if set(rule.needs) & set(facts.unknown)]
