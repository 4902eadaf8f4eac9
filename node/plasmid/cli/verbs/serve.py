"""Serve a base model and its adapters over HTTP: embeddings and predictions."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plasmid.cli.output import Format, FormatOption, Reply, reply
from plasmid.cli.site_home import HomeOption, site_at
from plasmid.core.errors import UsageError

if TYPE_CHECKING:
    from plasmid.endpoint.app import AnyService
    from plasmid.endpoint.service import Settings
    from plasmid.gateway.home import SiteHome

app = typer.Typer(add_completion=False, help=__doc__)
SERVERS = "plasmid.servers"
"""Entry points that serve what is not local; the node knows of none by itself."""


@app.command()
def serve(
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FOLDER of an adapter of your own; at a site with --local also NAME=personal:RUN; "
            "repeatable"
        ),
    ] = None,
    base: Annotated[str, typer.Option(help="The base model; by default that of the first --adapter")] = "",
    hub: Annotated[
        str, typer.Option(help="The hub that other adapters come from, by id; default HF_ENDPOINT")
    ] = "",
    trust: Annotated[
        Path | None,
        typer.Option(help="Keys that you have compared: who may have signed the hub's adapters (peers.yaml)"),
    ] = None,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Serve adapters of the hub that nobody has signed, too")
    ] = False,
    pin: Annotated[
        list[str] | None, typer.Option(help="An adapter to load now and keep in memory; repeatable")
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="On loopback, in this process, for whoever is on this machine")
    ] = False,
    host: Annotated[str, typer.Option(help="The address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 lets the system choose", min=0, max=65535)] = 0,
    tokens: Annotated[
        Path | None, typer.Option(help="A file of tokens; without it the hub's tokens are good")
    ] = None,
    new_token: Annotated[
        str, typer.Option(help="Add a token for this name to --tokens, print it, and end")
    ] = "",
    tls_cert: Annotated[Path | None, typer.Option(help="A certificate chain (PEM)")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM)")] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="Plain HTTP: a proxy in front of it does TLS")
    ] = False,
    url: Annotated[
        str | None, typer.Option(help="The address that callers use, if it is another one: a proxy's")
    ] = None,
    memory: Annotated[int, typer.Option(help="MB for adapters in memory, per replica", min=1)] = 2048,
    target: Annotated[float, typer.Option(help="ms that 95 of 100 rows should stay under", min=1)] = 200.0,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1 ...; auto is a GPU if there is one")
    ] = "auto",
    precision: Annotated[str, typer.Option(help="fp32 or bf16; auto is bf16 on a GPU")] = "auto",
    replicas: Annotated[int, typer.Option(help="Processes, each with the base model", min=1)] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads of each replica", min=1)] = 1,
    until_stdin_closes: Annotated[
        bool, typer.Option(help="End when standard input does (for launchers)")
    ] = False,
    home: HomeOption = None,
    format: FormatOption = Format.text,  # noqa: A002 - the option's name
) -> None:
    """Serve until Ctrl-C: --local in this process, else on Ray Serve.

    Also: an address beyond loopback needs --tls-cert and --tls-key, or
    --behind-proxy. Without --tokens the hub's tokens are accepted.
    --new-token adds a token to that file, prints it, and ends.
    """
    with reply(format, extra="worker") as answer:
        if new_token:
            _make_token(answer, tokens, new_token)
            return
        if precision not in ("auto", "fp32", "bf16"):
            raise UsageError("usage.precision", f"{precision!r} is no precision.", "Use auto, fp32 or bf16.")
        from plasmid.endpoint.service import Settings
        from plasmid.release.folder import read_trust

        folders = _folders(adapter or [], site_at(home) if local else None)
        settings = Settings(
            base=base or _base_of(folders),
            adapters=folders,
            pinned=tuple(pin or ()),
            hub=hub or os.environ.get("HF_ENDPOINT") or None,
            capacity_bytes=memory * 2**20,
            target_ms=target,
            device=device,
            precision=precision,
            personal=local,
            trust=None if trust is None else read_trust(trust),
            unsigned=unsigned,
        )
        if settings.hub is not None and trust is None:
            answer.note(
                "No key is pinned: whose signatures the hub's adapters have is their own word (--trust)."
            )
        if local:
            _serve_local(answer, settings, port=port, threads=threads, until_stdin_closes=until_stdin_closes)
            return
        _check_remote(settings, host=host, tokens=tokens, tls=bool(tls_cert and tls_key), proxy=behind_proxy)
        if url is not None and not url.startswith(("http://", "https://")):
            raise UsageError(
                "usage.url", f"{url!r} is no address.", "Write --url https://HOST or http://HOST:PORT."
            )
        _server("ray")(
            answer,
            settings,
            tokens=tokens,
            host=host,
            port=port,
            tls=(tls_cert, tls_key) if tls_cert and tls_key else None,
            url=url,
            replicas=replicas,
            threads=threads,
            until_stdin_closes=until_stdin_closes,
        )


def _make_token(answer: Reply, tokens: Path | None, name: str) -> None:
    from plasmid.endpoint.access import new_token

    if tokens is None:
        raise UsageError("usage.tokens", "--new-token needs a file.", "Give --tokens FILE.")
    token = new_token(tokens, name)
    answer.data |= {"token": token, "file": str(tokens)}
    answer.say(f"Token for {name}: {token}", f"{tokens} holds its hash; the token itself is kept nowhere.")


def _folders(given: list[str], site: SiteHome | None) -> dict[str, str]:
    from plasmid.prediction.adapters import adapter_folder

    found: dict[str, str] = {}
    for one in given:
        name, equals, folder = one.partition("=")
        if not (name and equals and folder) or "/" in name or name in found:
            raise UsageError(
                "usage.adapter_name",
                f"{one!r} is not NAME=FOLDER with a new name without a slash.",
                "Write --adapter NAME=FOLDER; an adapter of the hub needs no option.",
            )
        own = folder.startswith("personal:")
        if own and site is None:
            raise UsageError(
                "usage.personal_local",
                f"{folder} is this site's own, which is served on this machine alone.",
                "Give --local.",
            )
        found[name] = str((adapter_folder(folder, site) if own else Path(folder)).absolute())
    return found


def _base_of(folders: dict[str, str]) -> str:
    from plasmid.adapters.artifact import read_head
    from plasmid.adapters.causal_adapter import is_causal, read_causal_config

    if not folders:
        raise UsageError(
            "usage.no_base", "which base model is to be served is not known.", "Give --base ID, or --adapter."
        )
    first = Path(next(iter(folders.values())))
    return read_causal_config(first).base if is_causal(first) else read_head(first).base.id


def _check_remote(settings: Settings, *, host: str, tokens: Path | None, tls: bool, proxy: bool) -> None:
    if tokens is None and settings.hub is None:
        raise UsageError(
            "usage.tokens",
            "nobody could call this server: there are no tokens.",
            "Give --tokens FILE (--new-token makes one), --hub URL, or --local.",
        )
    if host not in ("127.0.0.1", "localhost", "::1") and not (tls or proxy):
        raise UsageError(
            "usage.plain_http",
            f"tokens and inputs would cross the network to {host} in the clear.",
            "Give --tls-cert and --tls-key, or say --behind-proxy where a proxy does TLS.",
        )


def _server(name: str) -> Any:
    """Return the platform's server; its absence is told as a missing extra."""
    for point in entry_points(group=SERVERS, name=name):
        return point.load()
    raise ModuleNotFoundError("No module named 'ray'", name="ray")


def _serve_local(
    answer: Reply, settings: Settings, *, port: int, threads: int, until_stdin_closes: bool
) -> None:
    import torch

    from plasmid.core.lifetime import end_event
    from plasmid.endpoint.access import Anybody
    from plasmid.endpoint.local import LocalServer

    torch.set_num_threads(threads)
    server = LocalServer(_opened(settings), Anybody(), port=port)
    ended = end_event(until_stdin_closes=until_stdin_closes)
    server.start()
    try:
        answer.note(f"{settings.base} is served at {server.url}/v1 (Ctrl-C ends it)")
        ended.wait()
    finally:
        server.close()
    answer.data["url"] = server.url


def _opened(settings: Settings) -> AnyService:
    """Return the service. Raises UsageError (``usage.pin``): an adapter to pin is not to be had."""
    from plasmid.endpoint.factory import open_service
    from plasmid.endpoint.problems import Problem

    try:
        return open_service(settings)
    except Problem as problem:
        said = problem.message
    raise UsageError("usage.pin", said, "Correct --pin, or what the message names (--unsigned, --trust).")
