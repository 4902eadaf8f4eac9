"""Rules that hold at every site, whatever its policy says, and the budget."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from plasmid.computations import api
from plasmid.gateway.open_view import told_alike
from plasmid.gateway.policy.rule import Facts, Rule, Said
from plasmid.gateway.policy.site_half import check_half
from plasmid.gateway.site_parameters import check_size

if TYPE_CHECKING:
    from plasmid.gateway.policy.file import Policy

T = TypeVar("T")


def _known(fact: T | None) -> T:
    """Return a fact that the rule needs, for it is looked at only then."""
    assert fact is not None
    return fact


def _half(_: Policy, facts: Facts) -> Iterator[Said]:
    check_half(api.load(facts.document.computation), facts.document)
    yield from ()


def _judged(_: Policy, facts: Facts) -> Iterator[Said]:
    document = facts.document
    if document.computation != "gain" or document.privacy.unit != "none" or document.run is not None:
        return
    known = any(
        entry["action"] == "countersigned" and entry["facts"].get("adapter") == document.given
        for entry in _known(facts.log).entries()
    )
    yield f"the adapter is {document.given[:12]}", "those that this site has countersigned", known


def _public_size(_: Policy, facts: Facts) -> Iterator[Said]:
    check_size(facts.document, _known(facts.part).public_size)
    yield from ()


def _population(_: Policy, facts: Facts) -> Iterator[Said]:
    opened = _known(facts.opened)
    if opened.by_patient:
        with told_alike(facts.document):
            _known(facts.lineage).check_population(_known(facts.part).population, opened.keys)
    yield from ()


def _budget(policy: Policy, facts: Facts) -> Iterator[Said]:
    privacy, population = facts.document.privacy, _known(facts.part).population
    if privacy.unit == "none":
        return
    given = f"the run costs epsilon {privacy.epsilon:g} and delta {privacy.delta:g} for one {privacy.unit}"
    _known(facts.ledger).check(
        run=facts.run,
        population=population,
        unit=privacy.unit,
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        budget=policy.budget(population),
    )
    yield given, f"what the population {population} has left", True


SITE_RULES = (
    Rule(
        "policy.gain",
        "Without a privacy unit the site judges only adapters that it has countersigned.",
        name="judged adapter",
        asks="without a privacy unit, an adapter that the site has countersigned",
        when="what an adapter is worth to the site is asked without a privacy unit, and it is none that the "
        "site has countersigned",
        do="give `--epsilon` and `--delta`, or ask about the adapter of a run that the site took part in",
        test=_judged,
        needs=("log",),
        hint="Ask with --epsilon and --delta, or about the adapter of a run that the site took part in.",
    ),
    Rule(
        "data.no_public_size",
        "The site has not declared a public size, which a privacy unit needs.",
        name="public size",
        part="Rows and their contract",
        asks="a declared public size above 1/delta under a privacy unit of records or patients",
        when="the recipe has a privacy unit, and `site.yaml` no `public_size`",
        do="put a rounded number of records or patients there; it is public from then on",
        test=_public_size,
        needs=("part",),
    ),
    Rule(
        "recipe.opaque",
        "The computation returns a finished vector, which that mechanism cannot protect.",
        name="site half",
        asks="a site half that this host can run, and whose records the mechanism can clip",
        when="a mechanism that clips records, and a computation that returns a finished vector",
        do="use `mechanism: output`",
        test=_half,
        needs=("part",),
    ),
    Rule(
        "data.population_overlap",
        "The site's views name different populations for the same people.",
        name="population",
        part="Views",
        asks="people who were shown as no other population",
        when="eleven or more people of a view were in a view of another population",
        do="give both views one `population`",
        test=_population,
        needs=("part", "opened", "lineage"),
    ),
    Rule(
        "policy.budget",
        "The site's privacy budget has too little left for the run.",
        name="budgets",
        asks="what the population has left",
        when="the population has less left than the run needs, nothing is reserved for it, or the ledger "
        "holds other figures for it",
        do="ask for a recipe within what is left (`plasmid privacy ledger`)",
        test=_budget,
        needs=("part", "ledger"),
    ),
)
