"""The site's policy: one small YAML file, default deny.

Rules
-----
1. No file, or one that does not parse: nothing runs.
2. A document runs only if one grant of ``allow`` accepts it (its digest, or its approvals; project, purpose
   and view) and it meets every line of ``require``.
3. The file is read again for every decision, so a change holds from the next one on, in a run under way too.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pydantic import Field

from plasmid.core.errors import PolicyRefused, RecipeError
from plasmid.core.settings import parse_settings
from plasmid.gateway.ledger import Budget
from plasmid.gateway.notify import Notify
from plasmid.gateway.policy.grants import Grant
from plasmid.gateway.policy.require import Requirements
from plasmid.gateway.policy.rule import Section


class Policy(Section):
    """The contents of ``policy.yaml``."""

    allow: list[Grant] = Field([], description="who comes in: one rule must accept a run")
    require: Requirements = Field(Requirements(), description="what every run must give")
    budgets: dict[str, Budget] = Field({}, description="what each population may spend over all runs ever")
    notify: Notify = Field(Notify(), description="who is told that a run waits for approval")

    def budget(self, population: str) -> Budget:
        """Return what *population* may spend. Raises PolicyRefused (``policy.no_budget``)."""
        if population not in self.budgets:
            raise PolicyRefused(
                "policy.no_budget",
                f"the policy gives the population {population!r} no privacy budget.",
                "Add it under 'budgets' in policy.yaml: {unit, epsilon, delta}.",
            )
        return self.budgets[population]


def read_policy(path: Path) -> Policy:
    """Return the policy in *path* as it is now; it is parsed again only when its bytes have changed.

    Raises
    ------
    PolicyRefused
        ``policy.absent`` or ``policy.invalid``.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise PolicyRefused(
            "policy.absent",
            f"there is no policy at {path}, so nothing runs.",
            "Write one; see docs/site-files.md.",
        ) from None
    except OSError as error:
        raise PolicyRefused(
            "policy.invalid",
            f"{path}: cannot be read ({error.strerror}).",
            "Let the site's own user read it.",
        ) from error
    try:
        return _parsed(content, path)
    except RecipeError as error:
        raise PolicyRefused("policy.invalid", error.message, error.hint) from error


@lru_cache(maxsize=64)
def _parsed(content: bytes, path: Path) -> Policy:
    return parse_settings(content, path, Policy)
