"""What a run would be, computed before anything starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from plasmid.bases.outline import planned_model
from plasmid.bases.store import BaseModel, check_pinned, ensure_model
from plasmid.computations import api
from plasmid.core.errors import ProtocolError, RecipeError
from plasmid.planner.attempts import attempt_plan, attempts, check_ranks
from plasmid.planning.traffic import body_sizes
from plasmid.protocol.messages import Planned
from plasmid.recipes.beside import shape_of
from plasmid.recipes.digest import recipe_digest
from plasmid.recipes.documents import parse_document
from plasmid.recipes.weights import unknown_sites


@dataclass(frozen=True)
class Job:
    """A document with everything that follows from it alone.

    Attributes
    ----------
    document
        The parsed recipe or query.
    digest
        Its digest, as sites compute it.
    """

    document: Any
    digest: str
    base: BaseModel | None
    shape: api.Shape

    @property
    def masked(self) -> bool:
        """Whether contributions are masked."""
        return bool(self.document.privacy.protect == "masked")

    def planned(self, sites: int, c: int, rate: float) -> Planned:
        """Return what a first epoch of *sites*, *c* of them colluding, fixes; *rate* is their largest."""
        return Planned(sites=sites, c=c, noise_rate=rate if self.document.privacy.shares_noise else 0.0)

    def plan(self, sites: int, c: int, planned: Planned) -> dict[str, Any]:
        """Return the figures of an epoch of *sites*, *c* of them colluding: JSON values."""
        attempt = attempt_plan(self.document, self.shape, sites=sites, c=c, planned=planned)
        encoding, privacy = attempt.encoding, self.document.privacy
        up, down = body_sizes(self.document, self.shape, attempt)
        return {
            "digest": self.digest,
            "trainable_parameters": self.shape.schema.size,
            "rounds": self.document.rounds,
            "bytes_up_per_round": up,
            "bytes_down_per_round": down,
            "protect": privacy.protect,
            "min_sites": attempt.min_sites,
            "theta": attempt.theta,
            "survives": sites - attempt.min_sites,
            "attempts": attempts(self.document),
            "step": encoding.step,
            "unit": privacy.unit,
            "mechanism": privacy.mechanism,
            "epsilon": privacy.epsilon,
            "delta": privacy.delta,
            "noise_std": attempt.noise_std,
            "scale_log2": encoding.scale_log2,
            "length": encoding.length,
        }


def prepare(document: dict[str, Any], digest: str, *, planning: bool = False) -> Job:
    """Return the job of a resolved document.

    Parameters
    ----------
    planning
        Nothing will run, so that the outline of a base model whose weights are not here is enough.

    Raises
    ------
    RecipeError
        The document is malformed, or names a computation that does not exist.
    ProtocolError
        ``protocol.digest``: *digest* isn't the document's.
    ModelError
        The base model cannot be had here, or is not pinned (``model.unpinned``).
    """
    own = recipe_digest(document, str(document.get("computation")))
    if own != digest:
        raise ProtocolError(
            "protocol.digest",
            f"the document's digest at the coordinator is {own}, the request says {digest}.",
            "Use the same release of the computation at both ends.",
        )
    parsed: Any = parse_document(document)
    model = getattr(parsed, "model", None)
    base = None
    if model is not None:
        if not planning:
            check_pinned(model.base, model.digest)
        had = planned_model if planning else ensure_model
        base = had(model.base, revision=model.revision, digest=model.digest)
    return Job(parsed, own, base, shape_of(api.load(parsed.computation), parsed, base))


def colluders(organisations: Mapping[str, str], largest: int) -> int:
    """Return the plan's c: the sites of the *largest* largest organisations, at least 1."""
    sizes = Counter(organisations.values())
    return max(1, sum(count for _, count in sizes.most_common(largest)))


def check_named(job: Job, invited: Collection[str]) -> None:
    """Raise RecipeError (``recipe.site_unknown``) if the document has settings for a site not *invited*."""
    if unknown := unknown_sites(job.document, invited):
        raise RecipeError(
            "recipe.site_unknown",
            f"{'; '.join(unknown)}: not among the sites that are invited ({', '.join(sorted(invited))}).",
            "Correct the name, leave it out, or invite that site.",
        )


def check_roster(job: Job, roster: list[str], refused: dict[str, str], c: int) -> None:
    """Refuse a roster that the document or the protocol does not allow.

    Raises
    ------
    RecipeError
        ``recipe.too_few_sites``, with who refused and why, ``recipe.colluders`` or ``recipe.most_sites``.
    """
    limits = job.document.federation
    if len(roster) < limits.min_sites:
        why = "".join(f"\n  {site}: {reason}" for site, reason in sorted(refused.items()))
        raise RecipeError(
            "recipe.too_few_sites",
            f"{len(roster)} sites accept, federation.min_sites is {limits.min_sites}.{why}",
            "Settle what the sites object to, or invite more of them.",
        )
    if job.masked and c >= len(roster) - 1:
        raise RecipeError(
            "recipe.colluders",
            f"{len(roster)} sites of which {c} may collude: a mask would hide nothing.",
            "Invite more organisations, or lower federation.colluding_organisations.",
        )
    check_ranks(job.document, job.shape, roster)
