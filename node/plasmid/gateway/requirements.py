"""What a site asks of every document, whatever its digest: the ``require`` section of its policy.

Rules
-----
1. A line of ``require`` accepts or refuses; it never changes a document.
2. Every line is looked at, and each refusal names the value that would be accepted, so that all of them can
   be told at once.
3. What follows from the document alone is checked before any data or base model is touched
   (:meth:`Requirements.findings`); what needs the site's own figures, afterwards (:meth:`Requirements.here`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from plasmid.computations import api
from plasmid.computations.api import Shape
from plasmid.core.clock import stamp
from plasmid.disclosure.rules import Disclosure
from plasmid.dp.rotation import padded_length
from plasmid.gateway.hours import Hours
from plasmid.gateway.open_view import Opened
from plasmid.planner.attempts import AUDIT_LENGTH, attempts
from plasmid.protocol.body import body_bytes
from plasmid.recipes.weights import weights_of
from plasmid.secagg.ring import TAIL

UNITS = ("none", "record", "patient", "site")
"""From the weakest privacy unit to the strongest."""


@dataclass(frozen=True)
class Finding:
    """What one rule says about one document.

    Attributes
    ----------
    code
        Of the refusal.
    rule
        The rule's name, as the policy file spells it.
    given, accepts
        The document's value, and what the policy would accept.
    """

    code: str
    rule: str
    given: str
    accepts: str
    accepted: bool

    @property
    def sentence(self) -> str:
        """The rule's name and the two values in a sentence."""
        return f"{self.rule}: {self.given}, the policy accepts {self.accepts}."


class Requirements(BaseModel):
    """What every document must give.

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
    max_rounds, max_steps, max_rank
        Most rounds, most optimiser steps in one round, largest rank of LoRA factors; None for no limit.
    max_bytes_out
        Largest size of all vectors that may leave in one run, spare attempts included; None for no limit.
    disclosure
        The rules for what leaves without a privacy unit; see :class:`~plasmid.disclosure.rules.Disclosure`.
    min_cohort
        Fewest people in the view at this site: patients where the document names their column, else rows;
        None for no limit. A refusal tells one bit about the true number. Under a privacy unit that would be
        outside epsilon: there the public size counts.
    row_counts
        ``coarse`` accepts recipes that count sites by their rows (``federation.weights``), which publish a
        coarse sum of such numbers; ``secret`` refuses them.
    isolation
        The weakest isolation of the worker that is accepted.
    hours
        When this site takes part; None for always.
    error_detail
        What leaves when something goes wrong: a ``code`` alone, or with its constant ``sentence``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    protect: Literal["masked", "none"] = "masked"
    min_sites: int = Field(default=3, ge=3)
    min_organisations: int = Field(default=3, ge=3)
    max_update_clip: float | None = Field(default=None, gt=0)
    unit: Literal["none", "record", "patient", "site"] = "none"
    max_epsilon: float | None = Field(default=None, gt=0)
    max_delta: float | None = Field(default=None, gt=0, lt=1)
    max_rounds: int | None = Field(default=None, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    max_rank: int | None = Field(default=None, ge=1)
    max_bytes_out: int | None = Field(default=None, ge=1)
    min_cohort: int | None = Field(default=None, ge=1)
    row_counts: Literal["secret", "coarse"] = "secret"
    disclosure: Disclosure = Disclosure()
    isolation: Literal["bubblewrap", "landlock", "none"] = "none"
    hours: Hours | None = None
    error_detail: Literal["code", "sentence"] = "sentence"

    def findings(self, document: Any, now: datetime) -> Iterator[Finding]:
        """Yield what each line says about *document*, in the order of the file."""
        privacy = document.privacy
        if self.protect == "masked" or privacy.protect == "none":
            yield Finding(
                "policy.protection",
                "protect",
                f"the document says protect: {privacy.protect}",
                "protect: masked" if self.protect == "masked" else "any",
                privacy.protect == "masked" or self.protect == "none",
            )
        if privacy.protect == "masked":
            given = document.federation.min_sites
            yield _least("policy.min_sites", "min_sites", given, self.min_sites)
        yield Finding(
            "policy.unit",
            "unit",
            f"the document says unit: {privacy.unit}",
            f"{self.unit} or stronger",
            UNITS.index(privacy.unit) >= UNITS.index(self.unit),
        )
        training, adapter = getattr(document, "training", None), getattr(document, "adapter", None)
        yield from _most("policy.epsilon", "epsilon", privacy.epsilon, self.max_epsilon)
        yield from _most("policy.delta", "delta", privacy.delta, self.max_delta)
        clip = getattr(privacy, "update_clip", None)
        yield from _most("policy.clip", "update_clip", clip, self.max_update_clip)
        yield from _most("policy.rounds", "rounds", document.rounds, self.max_rounds)
        yield from _most("policy.steps", "steps", training and training.most_steps, self.max_steps)
        yield from _most("policy.rank", "rank", adapter and adapter.lora.rank, self.max_rank)
        weights = weights_of(document)
        if weights is not None and weights.by == "records":
            said, coarse = "the document counts sites by their rows", self.row_counts == "coarse"
            accepts = "any" if coarse else "row_counts: secret"
            yield Finding("policy.row_counts", "row_counts", said, accepts, coarse)
        if self.hours is not None:
            open_now = self.hours.open_at(now)
            following = "" if open_now else f", and opens next at {stamp(self.hours.next_opening(now))}"
            yield Finding(
                "policy.hours", "hours", f"it is {stamp(now)}", f"{self.hours}{following}", open_now
            )

    def here(
        self, document: Any, shape: Shape, view: Opened | None, size: int | None = None
    ) -> Iterator[Finding]:
        """Yield what the lines say that need the vector's *shape* and this site's *view* of public *size*."""
        if self.max_bytes_out is not None:
            most = most_bytes(document, shape)
            yield Finding(
                "policy.bytes_out",
                "max_bytes_out",
                f"the run may send {most:,} bytes",
                f"up to {self.max_bytes_out:,}",
                most <= self.max_bytes_out,
            )
        if self.min_cohort is not None and view is not None:
            number, what = cohort(view)
            given = f"the view has {number:,} {what} here"
            if document.privacy.unit != "none":
                number, given = size or 0, f"the view's public_size is {size or 'not declared'}"
            yield Finding(
                "policy.cohort",
                "min_cohort",
                given,
                f"{self.min_cohort:,} or more",
                number >= self.min_cohort,
            )
        share = self.disclosure.max_parameters_share
        if share and view is not None and _is_uncelled(document):
            number, what = cohort(view)
            yield Finding(
                "policy.parameters",
                "disclosure.max_parameters_share",
                f"the vector holds {shape.schema.size:,} numbers about {number:,} {what} here",
                f"up to {share:g} for each",
                shape.schema.size <= share * number,
            )


def _is_uncelled(document: Any) -> bool:
    """Return whether what leaves is a statistic without a unit whose cells the rules for cells cannot see."""
    computation = api.load(document.computation)
    statistic = document.privacy.unit == "none" and not api.makes_adapter(computation)
    return statistic and api.layout(computation, document) is None


def most_bytes(document: Any, shape: Shape) -> int:
    """Return the most bytes of vectors that a site sends in one run, whatever the roster.

    The width of a word follows from the roster where noise is shared; the wider one counts.
    """
    privacy = document.privacy
    length = padded_length(shape.schema.size) if privacy.rotation == "hadamard" else shape.schema.size
    shared = privacy.shares_noise and privacy.unit != "none"
    dtype = np.dtype("<u8" if shared or shape.bits == 64 else "<u4")
    audit = getattr(privacy, "audit", None)
    extra = 0 if audit is None else body_bytes("words", AUDIT_LENGTH + TAIL, np.dtype("<u8"))
    return attempts(document) * body_bytes("words", length + TAIL, dtype) + extra


def cohort(view: Opened) -> tuple[int, str]:
    """Return how many people a view shows, and what was counted: patients, or else rows."""
    return view.people, "patients" if view.by_patient else "rows"


def _least(code: str, name: str, given: int, least: int) -> Finding:
    said = f"the document says {name}: {given}"
    return Finding(code, name, said, f"{least} or more", given >= least)


def _most(code: str, name: str, given: float | None, most: float | None) -> Iterator[Finding]:
    """Yield whether *given* is at most *most*; nothing where the document or the policy has no such value."""
    if given is not None and most is not None:
        said = f"the document says {name}: {given}"
        yield Finding(code, f"max_{name}", said, f"up to {most}", given <= most)
