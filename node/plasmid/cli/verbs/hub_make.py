"""Make something of adapters: merge several into one, export one as a model of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from plasmid.cli.output import Format, FormatOption, plain, reply
from plasmid.cli.verbs.hub_options import EndpointOption, TokenOption, hub_of
from plasmid.core.errors import UsageError

_AdapterArgument = typer.Argument(help="Folders, or ids on a hub: OWNER/NAME[@REVISION]")


@contextmanager
def _folders(given: list[str], endpoint: str | None, token_file: Path | None) -> Iterator[list[Any]]:
    """Yield each as folder, repository or None, commit or None; what is on a hub is fetched and verified."""
    from plasmid.exchange import sharing

    with tempfile.TemporaryDirectory() as scratch:
        found: list[Any] = []
        for place, one in enumerate(given):
            if Path(one).is_dir():
                found.append((Path(one), None, None))
                continue
            hub = hub_of(endpoint, token_file)
            name, revision = sharing.split_name(one)
            pulled = sharing.pull(hub, name, Path(scratch) / str(place), revision=revision)
            found.append((pulled.folder, name, pulled.commit))
        yield found


def merge(
    adapters: Annotated[list[str], _AdapterArgument],
    out: Annotated[Path, typer.Option("--out", help="The child's folder; replaced if it is there")],
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="cat (exact, ranks add), svd (then cut), linear, ties, dare_linear, dare_ties, ..._svd",
        ),
    ] = "svd",
    weights: Annotated[
        str | None, typer.Option("--weights", help="0.5,0.5; else all the same, summing to 1")
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", help="For svd methods; else the largest", min=1)
    ] = None,
    density: Annotated[
        float | None, typer.Option("--density", help="For ties and dare: the part of the values that is kept")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of what dare drops")] = 0,
    licence: Annotated[str | None, typer.Option("--licence", help="What you state, if none follows")] = None,
    title: Annotated[str | None, typer.Option("--title", help="The card's")] = None,
    disjoint: Annotated[
        bool,
        typer.Option(
            "--disjoint", help="You state that nobody is in the data of two runs: epsilons do not add"
        ),
    ] = False,
    endpoint: EndpointOption = None,
    token_file: TokenOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Merge adapters of one base into one, their licences and privacy composed in its card."""
    with reply(format, extra="worker") as answer, _folders(adapters, endpoint, token_file) as found:
        from plasmid.adapters.merge_factors import Method
        from plasmid.exchange.merging import merge_adapters, read_parent

        parents = [read_parent(folder, repo=repo, commit=commit) for folder, repo, commit in found]
        child = merge_adapters(
            parents,
            _weights(weights, len(parents)),
            out,
            method=cast(Method, method),
            rank=rank,
            density=density,
            seed=seed,
            licence=licence,
            title=title,
            disjoint=disjoint,
        )
        from plasmid.dp.composition import composed_statement

        answer.data |= {
            "folder": str(out),
            "method": method,
            "rank": child.merged.lora.rank,
            "distance": child.merged.distance,
            "licence": child.licence.name or child.licence.license,
            "privacy": child.privacy.as_json(),
        }
        answer.say(
            plain(f"{out}: rank {child.merged.lora.rank}, {child.merged.distance:.3g} from the weighted sum"),
            plain(f"licence: {child.licence.name or child.licence.license}. {child.licence.sentence}"),
            *(plain(f"privacy: {sentence}") for sentence in composed_statement(child.privacy)[:2]),
            plain(f"Next: evaluate it: plasmid evaluate {out} --data FILE"),
        )


def _weights(text: str | None, count: int) -> list[float]:
    if text is None:
        return [1.0 / count] * count
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        problem = UsageError(
            "usage.merge", f"--weights {text!r} is no list of numbers.", "For example: --weights 0.7,0.3"
        )
    raise problem


def export(
    adapter: Annotated[str, typer.Argument(help="A folder, or an id on a hub: OWNER/NAME[@REVISION]")],
    out: Annotated[Path, typer.Option("--out", help="The model's folder; replaced if it is there")],
    merged: Annotated[
        bool, typer.Option("--merged", help="With the base's weights in it: what there is")
    ] = False,
    licence: Annotated[str | None, typer.Option("--licence", help="What you state, if none follows")] = None,
    endpoint: EndpointOption = None,
    token_file: TokenOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Write an adapter and its base as one model that transformers and sentence-transformers load."""
    with reply(format, extra="worker") as answer, _folders([adapter], endpoint, token_file) as found:
        from plasmid.adapters.export import export_merged
        from plasmid.bases.licences import compose_licences
        from plasmid.bases.store import ensure_model
        from plasmid.exchange.merging import read_parent

        if not merged:
            raise UsageError(
                "usage.export", "an adapter by itself is a PEFT folder already.", "Give --merged."
            )
        (folder, repo, commit) = found[0]
        parent = read_parent(folder, repo=repo, commit=commit)
        of = parent.adapter.about.base
        base = ensure_model(of.id, revision=of.revision, digest=of.digest)
        under = compose_licences({parent.name: parent.licence, base.id: base.entry.licence}, licence)
        done = export_merged(parent.adapter, base, out, licence=under.license, name=parent.name)
        answer.data |= {
            "folder": str(out),
            "class": done.auto_class,
            "layers": done.layers,
            "licence": under.license,
        }
        answer.say(
            plain(f"{out}: {done.layers} layers of {base.id} changed; README.md says what loads it, and how"),
            plain(f"encoder and head: {done.auto_class or 'AutoModel, and head.safetensors beside it'}"),
        )
        if base.entry.own_head == "none":
            answer.say("Not in stock form: pipeline('text-classification'); README.md says why.")
