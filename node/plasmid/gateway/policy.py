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
from plasmid.privacy.statements import Digest


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
    max_update_clip
        Largest L2 bound of a fine-tuning update; None for no limit.
    """

    protect: Literal["masked", "none"] = "masked"
    min_sites: int = Field(default=3, ge=3)
    max_update_clip: float | None = Field(default=None, gt=0)


class Policy(_Part):
    """The contents of ``policy.yaml``."""

    allow: list[Digest] = []
    require: Requirements = Requirements()

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
        clip = getattr(document.privacy, "update_clip", None)
        if wanted.max_update_clip is not None and clip is not None and clip > wanted.max_update_clip:
            raise PolicyRefused(
                "policy.clip",
                f"the document says update_clip: {clip}, the policy accepts up to {wanted.max_update_clip}.",
            )


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
