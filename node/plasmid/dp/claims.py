"""What a run promises to whom, in sentences that a data-protection officer can quote.

Rules
-----
1. Every number in a sentence is a fact, or computed from facts. An epsilon comes from
   :meth:`PrivacyFacts.spent`, which recomputes it, and is rounded up; there is no other way to print one.
   :data:`TOLD` alone was measured elsewhere, and is printed with what it was measured on.
2. Sentences are in the present tense, and the same before a run (no survivors yet) and after it.
3. What is not promised is said as plainly as what is: the claims of the threat model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from plasmid.dp.privacy_statement import PrivacyFacts, SiteFacts, shown
from plasmid.secagg.near_states import NEAR
from plasmid.secagg.samples import SAMPLES

__all__ = ["PrivacyFacts", "SiteFacts", "shown", "statement"]

UNITS = {
    "record": "any one record at a site",
    "patient": "all records of any one patient at a site",
    "site": "all data of any one site",
}

TOLD = "a cosine of .39 (median) and .52 (most) on tcr-covid's 50 rounds of six sites"
"""A site's update against the difference of two rounds' sums, without a unit: ``benchmarks.near_states``."""


def statement(facts: PrivacyFacts) -> list[str]:
    """Return what holds for the run of *facts*, and what does not, one thought an item.

    Raises
    ------
    ProtocolError
        ``protocol.claims``: the facts contradict one another.
    """
    spent = facts.spent()
    lines = []
    if facts.rehearsal:
        lines.append(
            "This is a rehearsal: every party is a process of one person, from whom nothing is hidden. What "
            "follows would hold between separate owners."
        )
    if facts.unit == "none":
        lines.append(
            "There is no differential privacy in this run: nothing bounds what its sums, and the result "
            "that follows from them, reveal about a record, a person or a site."
        )
    else:
        lines += [*_promise(facts, spent), *_noise(facts)]
    lines += [*_masks(facts), *_participation(facts), *_limits(facts)]
    if facts.audit is not None:
        lines.append(facts.audit.sentence)
    return lines


def _promise(facts: PrivacyFacts, spent: Mapping[str, float]) -> Iterator[str]:
    worst, delta = shown(max(spent.values())), f"{facts.delta:g}"
    yield (
        f"({worst}, {delta})-differential privacy for {UNITS[facts.unit]}: adding or removing it changes "
        f"the probability of anything that the run reveals by a factor of at most e^{worst}, but for a "
        f"probability of {delta}. Each site's ledger is charged epsilon {facts.epsilon:g}."
    )
    for site in facts.participants:
        yield f"{site.site}: epsilon {shown(spent[site.site])} at delta {delta}; {_figures(site)}."
    yield (
        f"Accountant: {facts.accountant}, over {facts.attempts} attempts at {facts.rounds} rounds; an "
        "attempt that fails is charged like one that succeeds."
    )
    if facts.mechanism == "dp-sgd":
        yield (
            "It holds against everyone who sees anything outside the site: the coordinator, every fellow "
            "site, and whoever receives the result. It trusts no mask and no other site."
        )
    else:
        yield (
            f"It holds against the coordinator together with up to {facts.c} of the {facts.n} sites, against "
            "each fellow site, and against whoever receives the result; not against more colluding sites. A "
            "site that leaves out its noise counts as one of these. It rests on the masks and their "
            "cryptography."
        )


def _figures(site: SiteFacts) -> str:
    told = [] if site.public_size is None else [f"N = {site.public_size:,} declared by its owner"]
    told.append(f"sampling rate {site.rate:.4g}" if site.rate < 1 else "every unit in every release")
    if site.noise_multiplier is not None:
        told.append(f"noise multiplier {site.noise_multiplier:g}")
    return ", ".join(told)


def _noise(facts: PrivacyFacts) -> Iterator[str]:
    if facts.mechanism == "dp-sgd":
        yield (
            f"Each {facts.unit}'s gradient is clipped to an L2 norm of {facts.record_clip:g}, and each site "
            f"adds Gaussian noise in each of {facts.steps} steps of a round, before anything leaves it."
        )
    else:
        honest, whose = facts.min_sites - facts.c, f"Each {facts.unit}'s contribution"
        if facts.record_clip is None:
            whose = "Each site's whole vector, whatever computed it,"
        bound = facts.update_clip if facts.record_clip is None else facts.record_clip
        yield (
            f"{whose} is clipped to an L2 norm of {bound:g}. Each site adds a share of Skellam noise; "
            f"{honest} shares (m - c = {facts.min_sites} - {facts.c}) alone give each value of a sum a "
            f"standard deviation of {facts.noise_std:.4g}, and epsilon is accounted as if only these were "
            "there."
        )
    if facts.unit == "patient" and facts.record_clip is not None and facts.max_records is not None:
        yield f"At most {facts.max_records} records of a patient count in a sample, summed, then clipped."


def _masks(facts: PrivacyFacts) -> Iterator[str]:
    if facts.protect == "none":
        yield "Contributions are not masked: the coordinator sees what each site sends."
        if facts.mechanism == "dp-sgd":
            yield (
                "That is why fewer than three organisations may take part: with two, a mask would hide "
                "nothing, since each subtracts its own part, and the epsilon above needs none."
            )
        return
    honest = facts.min_sites - facts.c
    yield (
        f"Contributions are masked ({facts.protocol}) for n = {facts.n} sites, of which c = {facts.c} may "
        f"collude with the coordinator or one another: they learn sums over at least m = {facts.min_sites} "
        f"sites, at least {honest} of them honest, and nothing else of a contribution. Opening a sum takes "
        f"theta = {facts.theta} sites, so {facts.n - facts.theta} may drop out of a round."
    )
    yield (
        "Every site that agreed to a sum checks what is published of it: by a tag that the coordinator alone "
        f"cannot make, and by {SAMPLES} leaves of all contributions. A sum that is false in a share f of its "
        f"leaves passes one site with a probability of (1 - f)^{SAMPLES} at most, also where another site "
        "helps the coordinator."
    )
    yield (
        "Every site sees every sum and can subtract its own part; what the rest reveals about the other "
        "sites together is revealed. Masks rest on X25519 with ML-KEM-768, HKDF and AES-128."
    )


def _participation(facts: PrivacyFacts) -> Iterator[str]:
    if facts.survivors:
        least, most = min(facts.survivors), max(facts.survivors)
        sizes = f"{least}" if least == most else f"{least} to {most}"
        opened = f"{len(facts.survivors)} sums were opened, over {sizes} sites"
        yield f"{opened}; m = {facts.min_sites} are required."


def _limits(facts: PrivacyFacts) -> Iterator[str]:
    match facts.unit:
        case "record":
            yield (
                "A record is protected, not a person: for someone with k records at a site, epsilon is k "
                "times as large and delta grows faster. Where all records of a site are one person's, that "
                "person is not protected."
            )
        case "patient":
            yield "A patient is what the identifier column says: one person under two identifiers is two."
        case "site":
            yield "That a site takes part is public; its data are what is protected."
    if facts.unit in ("record", "patient"):
        yield (
            "A person at several sites is covered by the sum of their epsilons and deltas. Such overlap is "
            "not detected."
            if facts.mechanism == "dp-sgd"
            else "A person is assumed to be at one site only. Overlap is not detected, and would cost more."
        )
    if facts.unit == "none" and facts.protect == "masked" and facts.rounds > 1:
        yield (
            "A site that drops out between two rounds leaves a trace of its update in the difference of the "
            f"sums, the clearer the nearer the states are: {TOLD}. Sites "
            f"refuse a sum at a state within {NEAR:g} of one that was summed over others."
        )
    if facts.unit != "none":
        yield (
            "Across runs on the same population epsilons and deltas add up in each site's ledger. Peers who "
            "collude in rolling a ledger back are not detected."
        )
    yield (
        "Each site is trusted with its own data and to run the released node; a poisoned contribution within "
        "its bound is limited, not detected."
        + (" Nobody proves that the published totals are honest." if facts.protect == "none" else "")
    )
