"""What a site asks of every document, whatever its digest: the ``require`` section of its policy.

A key and its rule stand together: to add one is to add it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from plasmid.computations import api
from plasmid.core.clock import stamp
from plasmid.disclosure.rules import Disclosure
from plasmid.gateway.policy.figures import cohort, most_bytes
from plasmid.gateway.policy.hours import Hours
from plasmid.gateway.policy.rule import Facts, Rule, Said, Section
from plasmid.isolation.levels import at_least
from plasmid.recipes.weights import weights_of

UNITS = ("none", "record", "patient", "site")
"""From the weakest privacy unit to the strongest."""


def _at_most(name: str, value: Callable[[Any], float | None]) -> Callable[[Any, Facts], Iterator[Said]]:
    """Return the test of the key ``max_<name>``: silent where a value is missing."""

    def test(require: Requirements, facts: Facts) -> Iterator[Said]:
        most, given = getattr(require, f"max_{name}"), value(facts.document)
        if most is not None and given is not None:
            yield f"the document says {name}: {given}", f"up to {most}", given <= most

    return test


def _steps(document: Any) -> int | None:
    training = getattr(document, "training", None)
    return None if training is None else training.most_steps


def _rank(document: Any) -> int | None:
    adapter = getattr(document, "adapter", None)
    return None if adapter is None else adapter.lora.rank


def _protect(require: Requirements, facts: Facts) -> Iterator[Said]:
    given = facts.document.privacy.protect
    accepts = "protect: masked" if require.protect == "masked" else "any"
    yield f"the document says protect: {given}", accepts, given == "masked" or require.protect == "none"


def _min_sites(require: Requirements, facts: Facts) -> Iterator[Said]:
    if facts.document.privacy.protect == "masked":
        given, least = facts.document.federation.min_sites, require.min_sites
        yield f"the document says min_sites: {given}", f"{least} or more", given >= least


def _min_organisations(require: Requirements, facts: Facts) -> Iterator[Said]:
    number, least = facts.organisations, require.min_organisations
    if number is not None and facts.document.privacy.protect == "masked":
        given = f"the sum would be over {number} confirmed organisations"
        yield given, f"{least} or more", number >= least


def _unit(require: Requirements, facts: Facts) -> Iterator[Said]:
    given = facts.document.privacy.unit
    enough = UNITS.index(given) >= UNITS.index(require.unit)
    yield f"the document says unit: {given}", f"{require.unit} or stronger", enough


def _bytes_out(require: Requirements, facts: Facts) -> Iterator[Said]:
    if require.max_bytes_out is not None and facts.shape is not None:
        most = most_bytes(facts.document, facts.shape)
        given = f"the run may send {most:,} bytes"
        yield given, f"up to {require.max_bytes_out:,}", most <= require.max_bytes_out


def _min_cohort(require: Requirements, facts: Facts) -> Iterator[Said]:
    if require.min_cohort is None or facts.opened is None:
        return
    number, what = cohort(facts.opened)
    given = f"the view has {number:,} {what} here"
    if facts.document.privacy.unit != "none":
        size = facts.part.public_size if facts.part is not None else None
        number, given = size or 0, f"the view's public_size is {size or 'not declared'}"
    yield given, f"{require.min_cohort:,} or more", number >= require.min_cohort


def _parameters(require: Requirements, facts: Facts) -> Iterator[Said]:
    share = require.disclosure.max_parameters_share
    if not share or facts.opened is None or facts.shape is None or not _is_uncelled(facts.document):
        return
    (number, what), size = cohort(facts.opened), facts.shape.schema.size
    given = f"the vector holds {size:,} numbers about {number:,} {what} here"
    yield given, f"up to {share:g} for each", size <= share * number


def _is_uncelled(document: Any) -> bool:
    """Return whether what leaves is a statistic without a unit whose cells the rules for cells cannot see."""
    computation = api.load(document.computation)
    statistic = document.privacy.unit == "none" and not api.makes_adapter(computation)
    return statistic and api.layout(computation, document) is None


def _row_counts(require: Requirements, facts: Facts) -> Iterator[Said]:
    weights = weights_of(facts.document)
    if weights is not None and weights.by == "records":
        coarse = require.row_counts == "coarse"
        accepts = "any" if coarse else "row_counts: secret"
        yield "the document counts sites by their rows", accepts, coarse


def _isolation(require: Requirements, facts: Facts) -> Iterator[Said]:
    if facts.isolation is not None:
        given, least = facts.isolation, require.isolation
        yield f"this site's workers run at {given}", f"{least} or stronger", at_least(given, least)


def _hours(require: Requirements, facts: Facts) -> Iterator[Said]:
    hours, now = require.hours, facts.now
    if hours is not None:
        open_now = hours.open_at(now)
        following = "" if open_now else f", and opens next at {stamp(hours.next_opening(now))}"
        yield f"it is {stamp(now)}", f"{hours}{following}", open_now


class Requirements(Section):
    """What every document must give. Each key says what it asks; None is no limit.

    Descriptions and examples (YAML) are what ``make docs`` writes into the example policy and its page.
    """

    protect: Annotated[
        Literal["masked", "none"],
        Field(description="masked: only masked contributions leave. none also accepts those in the clear"),
        Rule(
            "policy.protection",
            "The site's policy asks for stronger protection than the recipe gives.",
            when="the recipe says `protect: none`, the policy `masked`",
            do="ask for a masked recipe",
            test=_protect,
        ),
    ] = "masked"
    min_sites: Annotated[
        int,
        Field(ge=3, description="smallest survivor set of a masked sum, at least 3"),
        Rule(
            "policy.min_sites",
            "The site's policy asks for a larger smallest survivor set.",
            when="the recipe's `min_sites` is below the policy's",
            do="ask for a larger `min_sites`",
            test=_min_sites,
        ),
    ] = 3
    min_organisations: Annotated[
        int,
        # Each of 2 organisations would subtract its own vector.
        Field(ge=3, description="confirmed organisations behind a masked sum, this one included; at least 3"),
        Rule(
            "policy.min_organisations",
            "The site's policy asks for more organisations that its owner has confirmed.",
            when="a sum over fewer organisations that the owner has confirmed than `min_organisations`",
            do="confirm the peers, or invite more organisations",
            test=_min_organisations,
            needs=("organisations",),
        ),
    ] = 3
    max_update_clip: Annotated[
        float | None,
        Field(gt=0, description="largest L2 bound of a fine-tuning update", examples=["10.0"]),
        Rule(
            "policy.clip",
            "The site's policy asks for a smaller update clip.",
            when="the recipe's `update_clip` is above the policy's `max_update_clip`",
            do="ask for a smaller clip",
            test=_at_most("update_clip", lambda document: getattr(document.privacy, "update_clip", None)),
        ),
    ] = None
    unit: Annotated[
        Literal["none", "record", "patient", "site"],
        Field(
            description="weakest privacy unit accepted: none < record < patient < site", examples=["record"]
        ),
        Rule(
            "policy.unit",
            "The site's policy asks for a stronger privacy unit.",
            when="the recipe's privacy unit is weaker than the policy's",
            do="ask for a recipe with that unit",
            test=_unit,
        ),
    ] = "none"
    max_epsilon: Annotated[
        float | None,
        Field(gt=0, description="largest epsilon of one run; budgets bounds all runs", examples=["3.0"]),
        Rule(
            "policy.epsilon",
            "The site's policy asks for a smaller epsilon.",
            when="the recipe's epsilon is above the policy's `max_epsilon`",
            do="ask for a smaller one",
            test=_at_most("epsilon", lambda document: document.privacy.epsilon),
        ),
    ] = None
    max_delta: Annotated[
        float | None,
        Field(gt=0, lt=1, description="largest delta of one run", examples=["1.0e-6"]),
        Rule(
            "policy.delta",
            "The site asks for a smaller delta.",
            when="the recipe's delta is above the policy's `max_delta`, or not below one in `public_size`",
            do="ask for a smaller one",
            test=_at_most("delta", lambda document: document.privacy.delta),
        ),
    ] = None
    max_rounds: Annotated[
        int | None,
        Field(ge=1, description="most rounds", examples=["50"]),
        Rule(
            "policy.rounds",
            "The site's policy asks for fewer rounds.",
            when="the recipe has more rounds than the policy's `max_rounds`",
            do="ask for fewer",
            test=_at_most("rounds", lambda document: document.rounds),
        ),
    ] = None
    max_steps: Annotated[
        int | None,
        Field(ge=1, description="most optimiser steps in one round", examples=["20"]),
        Rule(
            "policy.steps",
            "The site's policy asks for fewer steps in a round.",
            when="more steps in a round than `max_steps`",
            do="ask for fewer",
            test=_at_most("steps", _steps),
        ),
    ] = None
    max_rank: Annotated[
        int | None,
        Field(ge=1, description="largest rank of LoRA factors", examples=["16"]),
        Rule(
            "policy.rank",
            "The site's policy asks for a smaller rank.",
            when="LoRA factors of a larger rank than `max_rank`",
            do="ask for a smaller rank",
            test=_at_most("rank", _rank),
        ),
    ] = None
    max_bytes_out: Annotated[
        int | None,
        Field(
            ge=1,
            description="most bytes of all vectors of one run, spare attempts included",
            examples=["50_000_000"],
        ),
        Rule(
            "policy.bytes_out",
            "The site's policy lets fewer bytes out in one run.",
            when="the run may send more bytes of vectors than `max_bytes_out`, spare attempts included",
            do="ask for a smaller vector, or fewer rounds",
            test=_bytes_out,
            needs=("shape",),
        ),
    ] = None
    min_cohort: Annotated[
        int | None,
        # A refusal tells one bit about the true number, which a unit would have to count in epsilon.
        Field(
            ge=1,
            description="fewest patients in the view, or rows where the recipe names no patients' column; "
            "under a privacy unit the public size counts",
            examples=["100"],
        ),
        Rule(
            "policy.cohort",
            "The site's policy asks for more people in the view.",
            when="fewer people in the view than `min_cohort`; under a privacy unit, a smaller public size",
            do="ask at larger sites, or about more people",
            test=_min_cohort,
            needs=("opened",),
        ),
    ] = None
    row_counts: Annotated[
        Literal["secret", "coarse"],
        Field(
            description="coarse accepts recipes that count sites by their rows (federation.weights)",
            examples=["coarse"],
        ),
        Rule(
            "policy.row_counts",
            "The site's policy lets no number of rows out, not even a coarse one.",
            when="the recipe counts sites by their rows (`federation.weights: {by: records}`), and the "
            "policy lets no such number out",
            do="ask for a recipe with `by: public`, or without weights; or the owner writes "
            "`row_counts: coarse`",
            test=_row_counts,
        ),
    ] = "secret"
    disclosure: Annotated[
        Disclosure,
        Field(
            description="rules for numbers that leave without a privacy unit; null turns one off",
            examples=["{min_cell: 20, rounding: 10}"],
        ),
        Rule(
            "policy.parameters",
            "The site's policy asks for fewer numbers about so many people.",
            name="disclosure.max_parameters_share",
            when="a vector of a recipe's own Python, or a level of a tree, without a privacy unit, holds "
            "more numbers per person here than `disclosure: max_parameters_share`",
            do="return fewer numbers (of trees: fewer edges, features or levels), or ask under a unit",
            test=_parameters,
            needs=("shape", "opened"),
        ),
    ] = Disclosure()
    isolation: Annotated[
        Literal["bubblewrap", "landlock", "none"],
        Field(
            description="weakest isolation of the worker: bubblewrap > landlock > none", examples=["landlock"]
        ),
        Rule(
            "policy.isolation",
            "The site's policy asks for a stronger isolation of the worker.",
            when="the site's worker is locked in more weakly than the policy's `isolation`",
            do="a stronger `isolation` in `site.yaml`; `plasmid doctor`",
            test=_isolation,
            needs=("isolation",),
            hint="Say a stronger level under 'isolation' in site.yaml, and restart the site.",
        ),
    ] = "none"
    hours: Annotated[
        Hours | None,
        Field(
            description="when this site takes part",
            examples=['{zone: Europe/Berlin, days: [mon, fri], opens: "18:00", closes: "06:00"}'],
        ),
        Rule(
            "policy.hours",
            "The site takes part at other hours.",
            when="outside the policy's `hours`; the log says when they begin",
            do="start it then",
            test=_hours,
        ),
    ] = None
    error_detail: Annotated[
        Literal["code", "sentence"],
        Field(
            description="what leaves of a refusal: its code alone, or a constant sentence too",
            examples=["code"],
        ),
    ] = "sentence"
