"""List, import and show base models."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from plasmid.bases import catalogue
from plasmid.bases.architectures import InputKind, OwnHead
from plasmid.bases.catalogue import Described, Entry
from plasmid.bases.store import BaseModel, model_folder, open_model
from plasmid.cli.output import Format, FormatOption, plain, reply
from plasmid.cli.verbs.hub_options import EndpointOption, TokenOption, hub_of
from plasmid.core.errors import ModelError, UsageError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


class Input(StrEnum):
    """What a model reads."""

    protein = "protein"
    nucleotide = "nucleotide"
    molecule = "molecule"
    text = "text"


def _describe(entry: Entry | Described) -> dict[str, Any]:
    if isinstance(entry, Described):
        told = entry.model_dump(mode="json", exclude={"repo", "spaced", "config"})
        return {**told, "revision": None, "digest": None, "source": entry.repo, "imported": False}
    folder = model_folder(entry.id, entry.revision)
    source = entry.source
    where = {"own": "plasmid", "folder": "folder"}.get(source.kind)
    if isinstance(source, catalogue.WheelSource | catalogue.HubSource):
        where = source.package if source.kind == "wheel" else source.repo
    return {
        **entry.model_dump(mode="json", exclude={"source", "spaced"}),
        "source": where,
        "imported": catalogue.read_record(folder) is not None,
    }


@app.command("ls")
def list_models(format: FormatOption = Format.text) -> None:  # noqa: A002 - the option's name
    """List the base models of the catalogue, those imported, and those whose weights are to be imported."""
    with reply(format) as answer:
        from rich.table import Table

        known: list[Entry | Described] = [*catalogue.ls(), *catalogue.absent()]
        entries = [_describe(entry) for entry in known]
        answer.data["models"] = entries
        names = ("model", "revision", "reads", "for", "licence", "imported", "what")
        table = Table(*names, box=None, pad_edge=False)
        for entry in entries:
            imported = "yes" if entry["imported"] else "no"
            shown = [entry["id"], entry["revision"] or "-", entry["input"], ", ".join(entry["tasks"])]
            table.add_row(*shown, entry["licence"], imported, entry["title"])
        answer.say(table)


@app.command("import")
def import_model(
    source: Annotated[
        str,
        typer.Argument(
            help="A name of the catalogue, a folder in the Hugging Face layout, or OWNER/NAME on a hub"
        ),
    ],
    model_id: Annotated[
        str | None, typer.Option("--id", help="Its name here, but for the catalogue's")
    ] = None,
    reads: Annotated[
        Input | None, typer.Option("--input", help="What the model reads, but for the catalogue's")
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="From a hub: a tag, branch or commit")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", help="Of the authors, an SPDX name; else what is known")
    ] = None,
    causal: Annotated[
        bool, typer.Option("--causal", help="Keep it as a language model that writes text, not as an encoder")
    ] = False,
    masked: Annotated[
        bool, typer.Option("--masked", help="Keep its head for masked tokens, for 'task.kind: masked-lm'")
    ] = False,
    chat_template: Annotated[
        str | None,
        typer.Option(help="Of a causal model that answers: chatml or llama3, one of Plasmid's own"),
    ] = None,
    push: Annotated[
        str | None, typer.Option("--push", metavar="OWNER/NAME", help="Put it on the hub of HF_ENDPOINT, too")
    ] = None,
    endpoint: EndpointOption = None,
    token_file: TokenOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Convert a base model to safetensors, once, and keep it; with --push also on a hub.

    --endpoint says where OWNER/NAME is fetched from.
    """
    with reply(format, extra="worker") as answer:
        if causal and masked:
            raise UsageError(
                "usage.own_head", "--causal and --masked exclude each other.", "Say what it is trained for."
            )
        from plasmid.hubclient.client import configured_hub

        head: OwnHead = "causal" if causal else "masked" if masked else "none"
        target = None if push is None else hub_of(None, token_file)
        described = catalogue.described(source)
        if described is not None and model_id is None:
            if endpoint is None and configured_hub() is None:
                raise catalogue.not_here(described)
            source, model_id = described.repo, described.id
        if _is_on_a_hub(source):
            from plasmid.hubclient.bases import import_repo

            hub = hub_of(endpoint, token_file)
            base = import_repo(
                hub,
                source,
                revision=revision,
                model_id=model_id,
                kind=_kind(reads),
                licence=licence,
                head=head,
                template=chat_template,
            )
        else:
            base = _import(source, model_id, reads, licence, head=head, template=chat_template)
        _show(answer, base)
        if push is not None and target is not None:
            from plasmid.hubclient.bases import push_base

            commit = push_base(target, base, push, licence=licence)
            answer.data |= {"pushed": push, "commit": commit}
            answer.say(plain(f"on the hub: {push}, tag {base.revision}, commit {commit[:12]}"))
        use = f"serve it ('plasmid serve --local --base {base.id}')"
        if not base.entry.causal:
            use = f"name it in a recipe (model.base: {base.id})"
        answer.say(f"Next: {use}, or 'plasmid models show {base.id}'")


def _is_on_a_hub(source: str) -> bool:
    """Return whether *source* names a repository, and no folder, be it there or not."""
    is_path = source.startswith((".", "/", "~")) or source.endswith("/")
    return "/" in source and not is_path and not Path(source).exists()


def _kind(reads: Input | None) -> InputKind | None:
    return None if reads is None else reads.value


def _import(
    source: str,
    model_id: str | None,
    reads: Input | None,
    licence: str | None,
    *,
    head: OwnHead,
    template: str | None,
) -> BaseModel:
    named = model_id is not None or reads is not None or head != "none" or template is not None
    shipped = {entry.id: entry for entry in catalogue.ls() if entry.installed}
    if not named and source in shipped:
        from plasmid.bases.importer import import_entry

        return import_entry(shipped[source])
    if not Path(source).is_dir():
        if not named and "/" not in source:
            catalogue.get(source)
        raise UsageError(
            "usage.no_folder",
            f"{source} is not a folder.",
            "Give a folder that holds config.json and weights.",
        )
    from plasmid.bases.importer import import_folder

    return import_folder(
        Path(source),
        model_id=model_id,
        kind=_kind(reads),
        licence=licence,
        head=head,
        template=template,
    )


def _show(answer: Any, base: BaseModel) -> None:
    record = catalogue.read_record(base.path)
    answer.data |= {
        **_describe(record.entry if record else catalogue.about(base.id)),
        "path": str(base.path),
        "digest": base.digest,
        "files": record.files if record else {},
    }
    answer.say(
        f"[bold]{base.id}[/bold] {base.revision}: {base.entry.title}",
        f"reads {base.entry.input}, licence {base.entry.licence}",
        f"digest {base.digest}",
        str(base.path),
    )


@app.command()
def show(
    model_id: Annotated[str, typer.Argument(metavar="MODEL", help="A name that 'plasmid models ls' lists")],
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Check every file of an imported base model, and say where it is."""
    with reply(format) as answer:
        try:
            base = open_model(model_id)
        except ModelError as error:
            if error.code == "model.not_imported":
                answer.data |= _describe(catalogue.about(model_id))
            raise
        _show(answer, base)
