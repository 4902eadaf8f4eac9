"""The card of an adapter: what it is, and a code block that scores rows with stock libraries alone.

Rules
-----
1. The block has at most 12 lines, needs only transformers, peft, safetensors and what they bring, and
   runs as it stands in the adapter's folder, with the hub that has the base model as ``HF_ENDPOINT`` or
   once ``base`` names the base model's folder.
2. Its rows are made up; the card holds nothing from anybody's data.
3. It gives the answers of ``plasmid predict``; near ones, as the card says, where training was over weights
   in 4 bits: no stock library packs them as we do.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from plasmid.adapters.language_card import language_code
from plasmid.encoders.slots import CODE

if TYPE_CHECKING:
    from plasmid.adapters.files import HeadFile

_EXAMPLE = {
    "protein": ("ACDEFGHIKLMNPQ", "ACDEFGHIKLMNPQRSTVWY"),
    "nucleotide": ("CAGGTAAGT", "TTTCAG"),
    "molecule": ("CC(=O)Oc1ccccc1C(=O)O", "CCO"),
    "text": ("An anomaly of the hand.", "A tall person."),
}


class CardFacts(BaseModel):
    """What a card says beside the code.

    Attributes
    ----------
    license
        An SPDX name.
    recipe, task
        The recipe's name and the kind of its task; empty where there is no recipe. A hub finds the
        adapter by them.
    results
        Lines of the honest table, name to value of the metric on unseen data, in order.
    attested
        Who signed that this follows from the run.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    title: str
    license: str
    recipe: str = ""
    task: str = ""
    data: str = ""
    intended_use: str = ""
    limitations: str = ""
    privacy: str = ""
    project: str = ""
    attested: str = ""
    results: Annotated[dict[str, float], Field(default_factory=dict)]


def card(about: HeadFile, facts: CardFacts, parameters: int, *, base: str) -> str:
    """Return ``README.md``.

    Parameters
    ----------
    parameters
        How many were trained.
    base
        The base model's name on the hub.
    """
    of = about.base
    tags = ["plasmid", "lora", "federated", about.kind, *([facts.task] if facts.task else [])]
    tags += [json.dumps(facts.recipe)] if facts.recipe else []  # quoted: a name may look like a number
    ours = f"pipeline_tag: {about.head.pipeline_tag}\n" if about.head.pipeline_tag else ""
    ours += f"plasmid: {{task: {facts.task}}}\n" if facts.task else ""
    included = " (head included)" if about.head.own_head == "none" else ""
    sections = [
        f"""---
library_name: peft
license: {facts.license.lower()}
base_model: {base}
tags: [{", ".join(tags)}]
{ours}---

# {facts.title}

A LoRA adapter of {parameters:,} parameters{included} for the base model `{of.id}`, revision
`{of.revision}`. It reads the column `{about.input}` ({about.kind}) and {about.head.says()}.
""",
        f"""## Use it
{_over(about)}
`plasmid predict . --data FILE`, or without Plasmid, in this folder:

```python
{code_block(about, base)}
```
""",
    ]
    if facts.results:
        rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in facts.results.items())
        sections.append(
            f"## Results on data never trained on\n\n| model | {about.metric} |\n|---|---|\n{rows}\n"
        )
    for title, text in (
        ("Data", facts.data),
        ("Intended use", facts.intended_use),
        ("Limitations", facts.limitations),
        ("Privacy", facts.privacy),
        ("Project", facts.project),
    ):
        if text:
            sections.append(section(title, text))
    sections.append(
        f"## Provenance\n\n`provenance.json` says from which recipe, sites and code this adapter comes. "
        f"Digest of the base model: `{of.digest}`.\n"
    )
    if facts.attested:
        sections.append(section("Signatures", facts.attested))
    return "\n".join(sections)


def _over(about: HeadFile) -> str:
    """Return what weights it was trained and judged over, where they are not those that are published."""
    if about.base.quantization == "none":
        return ""
    return (
        "\nTrained over a copy of the base's weights in 4 bits (4-bit NormalFloat). `plasmid predict` "
        "answers, and any results\nbelow were measured, over that copy. The code, a merged export and a "
        "server compute with the published\nweights, and their answers differ a little.\n"
    )


def section(title: str, text: str) -> str:
    """Return a section as a card has it."""
    return f"## {title}\n\n{text.strip()}\n"


def code_block(about: HeadFile, base: str) -> str:
    """Return the lines that turn ``rows`` into the adapter's answers."""
    if about.head.own_head != "none":
        return language_code(about, base, _EXAMPLE[about.kind][0])
    covariates = about.head.covariates
    text = '" ".join(row[about["input"]])' if about.spaced else 'row[about["input"]]'
    lines = [
        "import json, peft, safetensors.torch, torch, transformers",
        f"base = \"{base}\"  # on the hub; or the folder that 'plasmid models show {about.base.id}' prints",
        f"rows = [{', '.join(_example(about, place) for place in (0, 1))}]"
        + "  # None: missing" * bool(covariates),
        'about, head = json.load(open("head.json")), safetensors.torch.load_file("head.safetensors")',
        'model = peft.PeftModel.from_pretrained(transformers.AutoModel.from_pretrained(base), ".").eval()',
        "read = transformers.AutoTokenizer.from_pretrained(base)",
        (
            f"tokens = read([{text} for row in rows], padding=True, truncation=True, "
            'max_length=about["max_length"], return_special_tokens_mask=True, return_tensors="pt")'
        ),
        'own = 1 - tokens.pop("special_tokens_mask")[:, :, None]  # 0 for padding too',
    ]
    features = "model(**tokens).last_hidden_state.detach()"
    if not about.head.per_token:
        features = f"({features} * own).sum(1) / own.sum(1).clamp(1)"
    if covariates:
        lines += (line for kind in dict.fromkeys(one.type for one in covariates) for line in CODE[kind])
        kinds = sorted({one.type for one in covariates})
        known = ", ".join(f"{kind}={kind}" for kind in kinds)
        slots = f'dict({known})[c["type"]]' if len(kinds) > 1 else kinds[0]
        lines.append(
            'slots = [[slot for c in about["head"]["covariates"] '
            f'for slot in {slots}(row[c["name"]], c)] for row in rows]'
        )
        features = f"torch.cat([{features}, torch.tensor(slots)], 1)"
    return "\n".join([*lines, *about.head.code(f'{features} @ head["weight"].T + head["bias"]')])


def _example(about: HeadFile, place: int) -> str:
    """Return a made-up row as a Python literal: the first one complete, the second without covariates."""
    row: dict[str, str | float | None] = {about.input: _EXAMPLE[about.kind][place]}
    for covariate in about.head.covariates:
        if covariate.name != about.input:
            row[covariate.name] = None if place else covariate.example
    return repr(row)
