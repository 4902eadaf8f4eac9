"""vLLM's own OpenAI server, for causal bases on a GPU: our checks, then its command.

Rules
-----
1. Base and adapters are checked as if they were served here: every byte of the base against its digest; of
   an adapter settings, base, names, shapes and numbers; a signed release's signatures, too. vLLM reads them
   after that.
2. The chat template is Plasmid's. What a request brings as one vLLM does not take.
3. vLLM knows no tokens of ours, and no hub: it listens on loopback, or, with a key in ``VLLM_API_KEY``, where
   TLS or a proxy is in front of it. The key is not in the command, which everybody on the machine can see.
4. Requests are not logged, nothing is reported to vLLM's makers, and nothing is fetched.
5. vLLM is a program beside ours, found in this environment or on the PATH: it pins a torch of its own.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plasmid.adapters.causal_adapter import read_causal
from plasmid.bases.store import BaseModel
from plasmid.core.errors import ModelError, UsageError
from plasmid.core.files import home, write_atomic
from plasmid.language.chat_templates import chat_template
from plasmid.release.attestation import BUNDLE
from plasmid.release.folder import Trust, verify_release

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What ``--max-lora-rank`` takes."""
MOST_AT_ONCE = 8
"""Adapters in one batch of vLLM's; it keeps the others on the CPU."""
PORT = 8000
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
_DROPPED = ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_SERVER_DEV_MODE")
"""What would let callers load adapters by path, or reach its insides."""


@dataclass(frozen=True)
class Listening:
    """Where vLLM listens; *tls* is a certificate chain and its key, *behind_proxy*: a proxy does TLS."""

    host: str = "127.0.0.1"
    port: int = PORT
    tls: tuple[Path, Path] | None = None
    behind_proxy: bool = False


def program() -> str:
    """Return the path of ``vllm``.

    Raises
    ------
    UsageError
        ``usage.vllm_missing``.
    """
    found = shutil.which("vllm", path=str(Path(sys.executable).parent)) or shutil.which("vllm")
    if found is None:
        raise UsageError(
            "usage.vllm_missing",
            "vLLM is not installed in this environment, and there is no vllm on the PATH.",
            "On a machine with a GPU: pip install 'plasmid[vllm]', in an environment of its own. "
            "Without --engine the base is served here, on a CPU, too.",
        )
    return found


def command(
    base: BaseModel,
    adapters: Mapping[str, Path],
    listening: Listening,
    environment: Mapping[str, str],
    *,
    precision: str = "auto",
    trust: Trust | None = None,
) -> list[str]:
    """Return the command after ``vllm``, once base and adapters are checked; its template is then on disk.

    Parameters
    ----------
    base
        As :func:`plasmid.bases.store.ensure_model` returns it, which has looked at every byte.
    adapters
        Folders by name.
    environment
        Of this process.
    precision
        ``auto`` is ``bf16``.
    trust
        Keys that may have signed an adapter that is a release; None: those that it names itself.

    Raises
    ------
    ModelError
        ``model.not_causal``; what :func:`plasmid.adapters.causal_adapter.read_causal` raises; that a
        release's signatures are not good.
    UsageError
        ``usage.plain_http``: it would be open to the network; ``usage.lora_rank``: a rank that vLLM does not
        take.
    """
    if not base.entry.causal:
        raise ModelError(
            "model.not_causal",
            f"{base.id} is an encoder with heads of Plasmid's own, which vLLM does not serve.",
            "Serve it without --engine vllm, on a GPU with --device cuda.",
        )
    _check_open(listening, environment)
    ranks = []
    for folder in adapters.values():
        if (folder / BUNDLE).exists():
            verify_release(folder, trust)
        ranks.append(read_causal(folder, base).config.rank)
    made = ["serve", str(base.path), "--served-model-name", base.id]
    made += ["--host", listening.host, "--port", str(listening.port or PORT)]
    made += ["--dtype", "float32" if precision == "fp32" else "bfloat16"]
    made += ["--load-format", "safetensors", "--generation-config", "vllm"]
    if base.entry.chat_template is not None:
        made += ["--chat-template", str(_template(base.entry.chat_template))]
    if ranks:
        made += ["--enable-lora", "--max-lora-rank", str(_rank(max(ranks)))]
        made += ["--max-loras", str(min(len(ranks), MOST_AT_ONCE)), "--max-cpu-loras", str(len(ranks))]
        made += ["--lora-modules", *(f"{name}={folder.absolute()}" for name, folder in adapters.items())]
    if listening.tls is not None:
        made += ["--ssl-certfile", str(listening.tls[0]), "--ssl-keyfile", str(listening.tls[1])]
    return [*made, "--no-enable-log-requests", "--disable-uvicorn-access-log"]


def _check_open(listening: Listening, environment: Mapping[str, str]) -> None:
    if listening.host in LOOPBACK:
        return
    if not environment.get("VLLM_API_KEY") or not (listening.tls or listening.behind_proxy):
        raise UsageError(
            "usage.plain_http",
            f"vLLM would answer anybody who reaches {listening.host}, or keys would cross the network in the "
            "clear.",
            "Set VLLM_API_KEY, and give --tls-cert and --tls-key or say --behind-proxy.",
        )


def _rank(highest: int) -> int:
    fitting = next((rank for rank in RANKS if rank >= highest), None)
    if fitting is None:
        raise UsageError(
            "usage.lora_rank",
            f"an adapter has rank {highest}, and vLLM takes at most {RANKS[-1]}.",
            "Serve it without --engine vllm.",
        )
    return fitting


def _template(name: str) -> Path:
    path = home() / "serving" / f"{name}.jinja"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(path, chat_template(name).jinja().encode())
    return path


def started(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start ``vllm`` with *arguments*. Raises UsageError: see :func:`program`."""
    kept = {key: value for key, value in environment.items() if key not in _DROPPED}
    return subprocess.Popen([program(), *arguments], env=kept | _QUIET)  # noqa: S603 - see program
