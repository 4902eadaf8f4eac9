"""Score the rows of a table with an adapter, however many there are."""

from __future__ import annotations

import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from plasmid.cli.output import Format, FormatOption, Reply, plain, reply
from plasmid.cli.site_home import HomeOption, site_at
from plasmid.core.errors import UsageError

app = typer.Typer(add_completion=False, help=__doc__)

LINE_EVERY_S = 5.0
DEFAULT_BLOCK_ROWS = 1024


@app.command()
def predict(
    adapter: Annotated[
        str,
        typer.Argument(
            help="The adapter's folder, its id on a hub (owner/name[@revision]), or personal:RUN at a site"
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="A file with the adapter's columns (CSV, Parquet, Arrow, FASTA, FASTQ, SD)"
        ),
    ] = None,
    view: Annotated[
        str | None, typer.Option("--view", help="At a site: the recipe whose view has the rows")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the scores to this .parquet or .csv; again: go on")
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", help="local: this process; ray: several, with the platform installed")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option("--workers", help="Processes that score, with --engine ray; default: cores", min=1),
    ] = None,
    batch_rows: Annotated[
        int,
        typer.Option("--batch-rows", help="Rows of a block; a killed prediction loses one at most", min=1),
    ] = DEFAULT_BLOCK_ROWS,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", help="NAME=THEIRS: a column of the adapter is called otherwise in the file"),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help="A column to be handed on beside the scores")
    ] = None,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Score rows: labels, or numbers. With --out any number of rows, and a killed one goes on.

    ADAPTER is a folder, OWNER/NAME[@REVISION] on the hub of HF_ENDPOINT, or
    personal:RUN. Labels are not needed, and the file may hold more columns.
    Without --out the scores are printed. With --out the same command
    continues where it was killed.
    """
    with reply(format, extra="worker") as answer:
        from plasmid.prediction.adapters import adapter_folder

        _check(data, view, out, engine, workers, column, keep)
        folder = adapter_folder(adapter, site_at(home))
        if data is not None and out is None:
            _few(answer, folder, data)
            return
        from plasmid.adapters.artifact import read_head
        from plasmid.prediction.job import Progress, predict_to

        told = time.monotonic() - LINE_EVERY_S

        def progress(now: Progress) -> None:
            nonlocal told
            if time.monotonic() - told >= LINE_EVERY_S or now.done == now.rows:
                told = time.monotonic()
                rate = f", {now.rate:,.0f} rows/s" if now.rate else ""
                answer.note(plain(f"{now.done:,} of {now.rows:,} rows{rate}"))

        source, path, settings = _input(answer, folder, data, view, out, column, keep, home)
        done = predict_to(
            path,
            folder,
            source,
            block_rows=batch_rows,
            engine=_engine(engine, workers),
            progress=progress,
            **settings,
        )
        answer.data |= {
            "out": str(done.out),
            "rows": done.rows,
            **read_head(folder).head.facts(),
            "columns": list(done.columns),
            "rows_cut": done.cut,
            "rows_resumed": done.resumed,
            "rows_per_s": round(done.rate, 1),
        }
        for notice in done.notices:
            answer.note(plain(notice))
        answer.say(plain(f"{done.rows:,} rows in {done.out}"))


def _check(
    data: Path | None,
    view: str | None,
    out: Path | None,
    engine: str,
    workers: int | None,
    column: list[str] | None,
    keep: list[str] | None,
) -> None:
    """Refuse options that do not go together. Raises UsageError (``usage.predict_options``)."""
    many = out is not None or view is not None
    wrong = [
        said
        for said, is_wrong in (
            ("give either --data or --view", (data is None) == (view is None)),
            ("--engine is local or ray", engine not in ("local", "ray")),
            (
                "--engine ray, --column and --keep need --out",
                not many and (engine != "local" or column or keep),
            ),
            ("--workers needs --engine ray", workers is not None and engine != "ray"),
            ("a view is scored where it is: --engine local", view is not None and engine == "ray"),
            ("a view has its own mapping, so --column is for files", view is not None and column),
            ("--column is NAME=THEIRS", any(not all(one.partition("=")[::2]) for one in column or [])),
        )
        if is_wrong
    ]
    if wrong:
        raise UsageError(
            "usage.predict_options", f"these options do not go together: {'; '.join(wrong)}.", "See --help."
        )


def _few(answer: Reply, folder: Path, data: Path) -> None:
    from rich.text import Text

    from plasmid.prediction.evaluation import predict_file

    scores = predict_file(folder, data)
    answer.data |= {"scores": scores.as_json(), **scores.head.facts()}
    for notice in scores.notices:
        answer.note(notice)
    answer.say(Text("\n".join(scores.lines())))


def _input(
    answer: Reply,
    folder: Path,
    data: Path | None,
    view: str | None,
    out: Path | None,
    column: list[str] | None,
    keep: list[str] | None,
    home: Path | None,
) -> tuple[Any, Path, dict[str, Any]]:
    """Return the rows, where their scores go, and what else :func:`predict_to` is to know."""
    from plasmid.adapters.artifact import read_head

    about = read_head(folder)
    if data is not None:
        from plasmid.prediction.inputs import file_input

        assert out is not None, "few rows were scored before"
        columns = {name: theirs for name, _, theirs in (one.partition("=") for one in column or [])}
        return file_input(data, about, columns=columns, keep=keep or []), out, {}
    from plasmid.prediction.at_site import MODE, opened_view, scores_file
    from plasmid.prediction.job import adapter_digest
    from plasmid.recipes.load import load_recipe

    assert view is not None, "one of the two is given"
    site, recipe = site_at(home), load_recipe(view)
    site.config()
    digest = adapter_digest(folder)
    path = scores_file(site, recipe.parsed.name, digest, out)
    source = opened_view(
        site,
        recipe,
        about,
        digest,
        keep=keep or [],
        progress=lambda rows: answer.note(plain(f"{rows:,} rows read")),
    )
    return source, path, {"mode": MODE}


def _engine(name: str, workers: int | None) -> Any:
    """Return the engine: in this process, or one of the platform's, which is an entry point.

    Raises
    ------
    ModuleNotFoundError
        The platform's packages are not installed; :func:`plasmid.cli.output.reply` says what to do.
    """
    from plasmid.prediction.job import local

    if name == "local":
        return local
    found = entry_points(group="plasmid.engines", name=name)
    if not found:
        raise ModuleNotFoundError(f"no engine {name}", name=name)
    return next(iter(found)).load()(workers)
