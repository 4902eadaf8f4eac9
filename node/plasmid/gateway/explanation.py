"""What people approve, in plain words: what runs, on which rows, what will leave, what it costs, who gets it.

Rules
-----
1. Everything is computed from the document, the project and this site's own figures; a recipe's own prose
   (title, descriptions, release texts) is never repeated as if it were a fact.
2. Every value that differs from the last approved version is named, also where no sentence speaks of it; a
   bundle's Python is shown as a diff, line by line.
3. Text from a document is shown with its control and direction characters made visible.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from plasmid.bases.store import ensure_model
from plasmid.computations import api
from plasmid.computations._personal import personal_parts
from plasmid.core.errors import PlasmidError
from plasmid.dp.budgets import Population
from plasmid.gateway.home import SiteHome
from plasmid.gateway.ledger import Ledger
from plasmid.gateway.open_view import open_view
from plasmid.gateway.policy.figures import cohort, most_bytes
from plasmid.gateway.policy.file import Policy
from plasmid.gateway.policy.rule import Facts
from plasmid.gateway.views import described, slice_of
from plasmid.planner.attempts import attempts
from plasmid.protocol.project import Project
from plasmid.recipes.beside import shape_of
from plasmid.recipes.stopping import stop_of
from plasmid.recipes.weights import weights_of

Section = Literal["what runs", "on which rows", "what will leave", "what it costs", "who receives"]
_PROSE = ("title", "task.description", "release.")
_LONGEST = 200


def _brought(name: str) -> str:
    package = api.brought()[name].dist
    whose = "a package" if package is None else f"{visible(package.name)} {visible(package.version)}"
    return f"{name}: a method of {whose}, which is installed here; its source is in the digest"


@dataclass(frozen=True)
class Fact:
    """One line of the explanation."""

    section: Section
    name: str
    value: str


def explain(
    home: SiteHome, policy: Policy | None, document: Any, project: Project, known: Facts | None = None
) -> list[Fact]:
    """Return the facts about a parsed *document* at this site; without a *policy* no budget is known.

    Parameters
    ----------
    known
        What the policy decided on, so that the view is not opened twice; None opens it here.
    """
    return [
        *_runs(document),
        *_rows(home, document, known),
        *_leaves(document),
        *_costs(home, policy, document),
        *_receives(project),
    ]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return every value in which two documents differ, a line each; Python files as unified diffs."""
    before, after = dict(_flat(old)), dict(_flat(new))
    lines = []
    for path in sorted(before.keys() | after.keys()):
        was, now = before.get(path), after.get(path)
        if was == now:
            continue
        if path.startswith("bundle.files."):
            lines += _diff(path.removeprefix("bundle.files."), str(was or ""), str(now or ""))
        elif path.startswith(_PROSE):
            lines.append(f"{path}: the text was changed")
        else:
            lines.append(f"{path}: {_value(was)} -> {_value(now)}")
    return lines


def changed(old: list[Fact], new: list[Fact]) -> list[str]:
    """Return what differs between two explanations, in sentences."""
    before = {(fact.section, fact.name): fact.value for fact in old}
    after = {(fact.section, fact.name): fact.value for fact in new}
    lines = []
    for key in [*after, *(key for key in before if key not in after)]:
        was, now = before.get(key, "nothing"), after.get(key, "nothing")
        if was != now:
            lines.append(f"{key[1]}: {now} (last approved: {was})")
    return lines


def visible(text: str) -> str:
    """Return *text* with every character that is not printed written as its escape."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _runs(document: Any) -> Iterator[Fact]:
    section: Section = "what runs"
    name = document.computation
    yield Fact(section, "computation", _brought(name) if name in api.brought() else api.words(name))
    model, training = getattr(document, "model", None), getattr(document, "training", None)
    if model is not None:
        yield Fact(section, "base model", f"{visible(model.base)}, digest {model.digest}")
        if model.quantization != "none":
            yield Fact(
                section, "frozen weights", f"held in 4 bits ({model.quantization}) while factors learn"
            )
    adapter = getattr(document, "adapter", None)
    if adapter is not None:
        lora = adapter.lora
        layers = "all layers" if lora.layers is None else f"the top {lora.layers} layers"
        targets = ", ".join(visible(target) for target in lora.targets)
        own = "".join(f", {visible(site)} of rank {rank}" for site, rank in sorted(adapter.ranks.items()))
        yield Fact(section, "adapter", f"LoRA of rank {lora.rank} on {targets} in {layers}{own}")
    if training is not None:
        steps = ", ".join([*map(str, training.first_steps), str(training.steps)])
        yield Fact(section, "training", f"{steps} steps on {training.batch} rows in each round")
    yield from _stays(section, document)
    trees = getattr(document, "trees", None)
    if trees is not None:
        yield Fact(section, "trees", f"{trees.count} of depth {trees.depth}; a level of one in each round")
    yield Fact(
        section, "rounds", f"{document.rounds}, and up to {attempts(document) - document.rounds} spare"
    )
    yield from _weighs(section, document)
    if stop := stop_of(document):
        yield Fact(
            section,
            "early end",
            f"{stop.share:.0%} of the rows are held back, their mean loss joins each sum; the run is over "
            f"after {stop.patience} rounds without a better one, and the {stop.release} state is released",
        )
    column = getattr(document, "column", None)
    if column is not None:
        low, high = document.bounds
        yield Fact(section, "column", f"{visible(column)}, within {low:g} to {high:g}")
    bundle = getattr(document, "bundle", None)
    if bundle is not None:
        sizes = ", ".join(f"{name} ({len(text.encode()):,} bytes)" for name, text in bundle.files.items())
        yield Fact(section, "Python of its own", f"{sizes}; it runs in the sandbox")
        if bundle.half == "flower":
            told = "once a round; it gets all rows as a file. Its metrics are dropped"
            yield Fact(section, "Flower ClientApp", told)


def _stays(section: Section, document: Any) -> Iterator[Fact]:
    """Tell what the site keeps for itself."""
    if not api.makes_adapter(api.load(document.computation)):
        return
    own, steps = sorted(personal_parts(document)), document.training.personal_steps
    if own:
        told = f"{', '.join(own)} of the adapter: it learns here, is never sent, and is kept after the run"
        yield Fact(section, "stays at the site", told)
    if steps:
        told = f"{steps} more steps on these rows after the run, for an adapter of the site's own"
        yield Fact(section, "for the site itself", told)


def _rows(home: SiteHome, document: Any, known: Facts | None) -> Iterator[Fact]:
    section: Section = "on which rows"
    contract = getattr(document, "contract", None)
    if contract is None:
        yield Fact(section, "data", "none: it reads no row")
        return
    part = slice_of(home, document)
    view = described(part, document)
    yield Fact(section, "population", view.population)
    yield Fact(section, "source", view.source or "none: no data file of this site fits")
    columns = ", ".join(f"{visible(name)} ({column['type']})" for name, column in view.columns.items())
    yield Fact(section, "columns", f"{columns}; every other column stays unread")
    if view.patient is not None:
        yield Fact(section, "rows of one patient", f"those with equal {visible(view.patient)}")
    try:
        opened = known.opened if known else None
        opened = opened or open_view(home, part, document, keep=False)
    except PlasmidError as error:
        yield Fact(section, "number", f"unknown: the data do not meet the contract ({error.code})")
        return
    for step in opened.steps:
        counts = ", ".join(f"{what}: {count:,}" for what, count in step["counts"].items())
        yield Fact(section, f"before: {step['name']}", f"{step['does']} {counts}".strip())
    number, what = cohort(opened)
    patients = f" of {number:,} patients" if what == "patients" else ""
    yield Fact(section, "number", f"{opened.rows:,} {'row' if opened.rows == 1 else 'rows'}{patients}")


def _weighs(section: Section, document: Any) -> Iterator[Fact]:
    weights = weights_of(document)
    if weights is None:
        return
    if weights.by == "public":
        named = ", ".join(f"{visible(site)} {value:g}" for site, value in sorted(weights.sites.items()))
        yield Fact(section, "weights", f"sites count {named}, others {weights.others:g}, for all to know")
        return
    yield Fact(
        section,
        "weights",
        f"a site counts by its number of rows, at most {weights.cap:,}, rounded down to 1, 2 or 5 times a "
        "power of ten. The sum over the sites is published in each round; where one site is in one round "
        "only, the difference of two sums is its own. It needs row_counts: coarse in the policy",
    )


def _leaves(document: Any) -> Iterator[Fact]:
    section: Section = "what will leave"
    privacy = document.privacy
    try:
        model = getattr(document, "model", None)
        base = None if model is None else ensure_model(
            model.base, revision=model.revision, digest=model.digest
        )  # fmt: skip
        shape = shape_of(api.load(document.computation), document, base)
    except PlasmidError as error:
        yield Fact(section, "vector", f"unknown here ({error.code})")
    else:
        length = f"{shape.schema.size:,} numbers" if shape.schema.size != 1 else "one number"
        yield Fact(
            section, "vector", f"one of {length} in each attempt, {attempts(document)} attempts at most"
        )
        yield Fact(section, "size", f"at most {most_bytes(document, shape):,} bytes in the whole run")
    clip, record = getattr(privacy, "update_clip", None), privacy.record_clip
    bounds = [f"each {privacy.unit} cut to length {record:g}"] if record is not None else []
    bounds += [f"the update cut to length {clip:g}"] if clip is not None else []
    yield Fact(section, "bound", " and ".join(bounds) or "each number within the computation's public bound")
    hidden = f"in a sum over {document.federation.min_sites} sites or more; nobody sees this site's own"
    clear = "in the clear: the coordinator sees this site's own vector"
    yield Fact(section, "protection", hidden if privacy.protect == "masked" else clear)
    noise = {
        None: "none",
        "dp-sgd": "in every step, at this site",
        "dp-fedsgd": "this site's share, inside the sum",
        "output": "this site's share, inside the sum, for the vector's whole bound",
    }[privacy.mechanism]
    yield Fact(section, "noise", noise)


def _costs(home: SiteHome, policy: Policy | None, document: Any) -> Iterator[Fact]:
    section: Section = "what it costs"
    privacy, population = document.privacy, slice_of(home, document).population
    if privacy.unit == "none":
        yield Fact(section, "privacy budget", "nothing: it promises no differential privacy")
        return
    cost = f"epsilon {privacy.epsilon:g}, delta {privacy.delta:g} for one {privacy.unit}"
    yield Fact(section, "privacy budget", cost)
    budget = policy.budgets.get(population) if policy else None
    if budget is None:
        yield Fact(section, "left at present", f"the policy gives the population {population} no budget")
        return
    epsilon, delta = Ledger(home.ledger).summary().get(population, Population()).left(budget)
    left = f"epsilon {epsilon:g} of {budget.epsilon:g}, delta {delta:g} of {budget.delta:g}"
    yield Fact(section, "left at present", f"{left}, for one {budget.unit}")


def _receives(project: Project) -> Iterator[Fact]:
    section: Section = "who receives"
    yield Fact(section, "project", f"{project.name}, for {project.purpose}, until {project.last_day}")
    people = [
        f"{person.name} ({visible(person.organisation)})"
        for person in project.people
        if "receive" in person.roles
    ]
    yield Fact(section, "results go to", ", ".join(people) or "nobody")
    sites = ", ".join(f"{site.name} ({visible(site.organisation)})" for site in project.sites)
    yield Fact(section, "sites", sites)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a document with their dotted paths; a list of leaves is one leaf."""
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from _flat(below, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _value(value: Any) -> str:
    text = visible(str(value)) if value is not None else "nothing"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text):,} characters)"


def _diff(name: str, old: str, new: str) -> list[str]:
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), f"approved/{name}", f"asked for/{name}", lineterm="", n=3
    )
    return [visible(line) for line in lines]
