"""What all documents beside recipes have: who takes part, what is promised, and a seed."""

from __future__ import annotations

from pydantic import Field

from plasmid.recipes.columns import Strict
from plasmid.recipes.protection import Limits, Protection, masked_limits, unit_limits
from plasmid.recipes.schema import Seed


class Question(Strict):
    """The base of the documents that ask for one sum."""

    federation: Limits = Field(default_factory=Limits)
    privacy: Protection = Field(default_factory=Protection)
    seed: Seed = 0

    def _check_limits(self) -> None:
        found = [*masked_limits(self.federation, self.privacy), *unit_limits(self.privacy)]
        if self.privacy.mechanism == "dp-sgd":
            found.append((("privacy", "mechanism"), "dp-sgd is for training; queries share noise"))
        if self.privacy.unit == "patient":
            found.append((("privacy", "unit"), "a query protects a record or a site, it has no patients"))
        if found:
            raise ValueError("; ".join(f"{'.'.join(map(str, path))}: {what}" for path, what in found))
