"""The site's policy: one small YAML file, default deny.

Rules
-----
1. No file, or one that does not parse: nothing runs.
2. A document runs only if ``allow`` names its digest and it meets every line of ``require``.
3. A policy never edits a document: it accepts, or refuses with the rule's name and the value that it
   would accept.
4. The file is read anew for every decision, so a change holds from the next one on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from plasmid.core.errors import PolicyRefused, RecipeError
from plasmid.core.settings import read_settings
from plasmid.gateway.ledger import Budget
from plasmid.privacy.statements import Digest

_UNITS = ("none", "record", "patient", "site")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Requirements(_Part):
    """What every document must give, whatever its digest.

    Attributes
    ----------
    protect
        ``masked``: only masked contributions leave. ``none`` also allows contributions in the clear.
    min_sites
        Smallest survivor set of a masked sum, at least 3.
    min_organisations
        Organisations, this site's own included, that this owner has confirmed and that must be behind the
        survivors of every masked sum; at least 3, since each of 2 would subtract itself.
    max_update_clip
        Largest L2 bound of a fine-tuning update; None for no limit.
    unit
        The weakest privacy unit accepted: ``none`` < ``record`` < ``patient`` < ``site``.
    max_epsilon, max_delta
        Largest values of one run; None for no limit beside the budget's.
    """

    protect: Literal["masked", "none"] = "masked"
    min_sites: int = Field(default=3, ge=3)
    min_organisations: int = Field(default=3, ge=3)
    max_update_clip: float | None = Field(default=None, gt=0)
    unit: Literal["none", "record", "patient", "site"] = "none"
    max_epsilon: float | None = Field(default=None, gt=0)
    max_delta: float | None = Field(default=None, gt=0, lt=1)


class Policy(_Part):
    """The contents of ``policy.yaml``. ``budgets`` is what each population may spend, over all runs ever."""

    allow: list[Digest] = []
    require: Requirements = Requirements()
    budgets: dict[str, Budget] = {}

    def check(self, document: Any, digest: str) -> None:
        """Refuse a document that this policy does not accept. Raises PolicyRefused."""
        if digest not in self.allow:
            raise PolicyRefused(
                "policy.digest_not_allowed",
                f"the policy does not name the digest {digest}.",
                "Read the recipe, then add its digest under 'allow' in policy.yaml.",
            )
        wanted = self.require
        if wanted.protect == "masked" and document.privacy.protect != "masked":
            raise PolicyRefused(
                "policy.protection",
                f"the document says protect: {document.privacy.protect}, the policy accepts protect: masked.",
            )
        if document.privacy.protect == "masked" and document.federation.min_sites < wanted.min_sites:
            raise PolicyRefused(
                "policy.min_sites",
                f"the document says min_sites: {document.federation.min_sites}, "
                f"the policy accepts {wanted.min_sites} or more.",
            )
        self._check_unit(document.privacy)
        clip = getattr(document.privacy, "update_clip", None)
        if wanted.max_update_clip is not None and clip is not None and clip > wanted.max_update_clip:
            raise PolicyRefused(
                "policy.clip",
                f"the document says update_clip: {clip}, the policy accepts up to {wanted.max_update_clip}.",
            )

    def _check_unit(self, privacy: Any) -> None:
        wanted = self.require
        if _UNITS.index(privacy.unit) < _UNITS.index(wanted.unit):
            raise PolicyRefused(
                "policy.unit",
                f"the document says unit: {privacy.unit}, the policy accepts {wanted.unit} or stronger.",
            )
        if wanted.max_epsilon is not None and (privacy.epsilon or 0.0) > wanted.max_epsilon:
            raise PolicyRefused(
                "policy.epsilon",
                f"the document says epsilon: {privacy.epsilon}, "
                f"the policy accepts up to {wanted.max_epsilon}.",
            )
        if wanted.max_delta is not None and (privacy.delta or 0.0) > wanted.max_delta:
            raise PolicyRefused(
                "policy.delta",
                f"the document says delta: {privacy.delta}, the policy accepts up to {wanted.max_delta}.",
            )

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
    """Return the policy in *path*.

    Raises
    ------
    PolicyRefused
        ``policy.absent`` or ``policy.invalid``.
    """
    if not path.exists():
        raise PolicyRefused(
            "policy.absent", f"there is no policy at {path}, so nothing runs.", "Write one; see docs/cli.md."
        )
    try:
        return read_settings(path, Policy)
    except RecipeError as error:
        raise PolicyRefused("policy.invalid", error.message, error.hint) from error
