"""How much each site counts in the mean: alike, by public numbers, or by a coarse number of its rows.

Rules
-----
1. A weight is at most 1, the heaviest site's, and at least :data:`LEAST`, so that no rounding swallows it. It
   multiplies what a site sends, so that all bounds hold, and goes behind it as one more number of the same
   secure sum. A method steps with the weighted mean: the sum of the vectors over the sum of the weights
   (McMahan et al. 2017, arXiv 1602.05629, algorithm 1).
2. ``public``: the recipe names sites and numbers, and everybody knows them.
3. ``records``: the number of rows that a site trains on, at most the cap, rounded down to 1, 2 or 5 times a
   power of ten. All see its sum in each round. Where a site is in one of two rounds and not in the other, the
   difference is that site's own: so it is coarse, and tells between which two such numbers the rows are. A
   site lets it out only where its owner's policy says ``row_counts: coarse``.
4. Under a privacy unit a count is somebody's: ``records`` is refused. So is ``public`` where the sites share
   the noise, which would drown light sites and fall on the weights; with dp-sgd each site's vector is noised
   before it is weighted, by a public number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from plasmid.adapters.adapter import TensorSpec
from plasmid.bases.specs import Strict
from plasmid.core.problems import did_you_mean
from plasmid.recipes.protection import Location

LEAST = 1e-3
WEIGHT = TensorSpec("weight", (1,))
"""What a site adds to its vector: its weight, times the vector's bound."""

SiteName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Weight = Annotated[float, Field(gt=0, le=1e6)]


class PublicWeights(Strict):
    """``sites``: what each counts; one that is not named counts ``others``."""

    by: Literal["public"]
    sites: Annotated[dict[SiteName, Weight], Field(min_length=1, max_length=64)]
    others: Weight = 1.0

    @model_validator(mode="after")
    def _near(self) -> PublicWeights:
        every = (self.others, *self.sites.values())
        if min(every) < LEAST * max(every):
            raise ValueError(
                f"{min(every):g} is less than a thousandth of {max(every):g}; leave such a site out"
            )
        return self

    def of(self, site: str, rows: int) -> float:  # noqa: ARG002 - as RecordWeights
        """Return the weight of *site*."""
        return self.sites.get(site, self.others) / max(self.others, *self.sites.values())


class RecordWeights(Strict):
    """``cap``: a site of more rows counts as one of so many."""

    by: Literal["records"]
    cap: Annotated[int, Field(ge=1, le=100_000_000)]

    def of(self, site: str, rows: int) -> float:  # noqa: ARG002 - as PublicWeights
        """Return the weight of a site that trains on *rows*."""
        return max(LEAST, coarse(min(rows, self.cap)) / coarse(self.cap))


Weights = Annotated[PublicWeights | RecordWeights, Field(discriminator="by")]


def coarse(number: int) -> int:
    """Return the largest of 1, 2 and 5 times a power of ten that is at most *number*, from 1."""
    power: int = 10 ** (len(str(number)) - 1)
    return max(step * power for step in (1, 2, 5) if step * power <= number)


def weights_of(document: Any) -> PublicWeights | RecordWeights | None:
    """Return how *document* weighs sites; None where all count alike."""
    found: PublicWeights | RecordWeights | None = getattr(
        getattr(document, "federation", None), "weights", None
    )
    return found


def unknown_sites(document: Any, known: Collection[str]) -> list[str]:
    """Return in words which sites *document* has settings for that are not among the *known* ones."""
    named = {
        "adapter.ranks": getattr(getattr(document, "adapter", None), "ranks", {}),
        "federation.weights": getattr(weights_of(document), "sites", {}),
    }
    return [
        f"{path} names {site}{did_you_mean(site, sorted(known))}"
        for path, sites in named.items()
        for site in sorted(set(sites) - set(known))
    ]


def weight_contradictions(sections: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """Yield ``(path, what)`` where another of the *sections* does not allow ``federation.weights``."""
    federation, privacy = sections.get("federation"), sections.get("privacy")
    if federation is None or federation.weights is None or privacy is None:
        return
    secret, path = federation.weights.by == "records", ("federation", "weights")
    if secret and privacy.unit != "none":
        yield path, f"under unit: {privacy.unit} a number of rows is protected as they are; use by: public"
    elif secret and privacy.protect == "none":
        yield path, "each site's number would be seen by the coordinator; use protect: masked, or by: public"
    elif privacy.mechanism not in (None, "dp-sgd"):
        yield path, f"{privacy.mechanism} has one noise for all sites, whatever they weigh; leave weights out"
    if getattr(privacy, "audit", None) is not None:
        yield path, "a canary audit is of sites that count alike; leave one out"
