"""What comes as bytes or as a file: bodies, tensors, documents, exports of a log, settings, forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from fuzz.registry import ALPHA, json_object, maker, scratch
from fuzz.runner import Target
from plasmid.adapters.artifact import read_adapter
from plasmid.adapters.files import HeadFile
from plasmid.bases.specs import LoraSpec
from plasmid.bases.tensors import read_floats, write_floats
from plasmid.cli.verbs.site_peers import peers_of
from plasmid.core.canonical import canonical_json
from plasmid.core.errors import ProtocolError, RecipeError
from plasmid.gateway.policy.file import read_policy
from plasmid.log.audit_log import AuditLog
from plasmid.log.export import Known, Named, export, prove
from plasmid.log.verify import parse_export
from plasmid.owner.page.request_checks import read_form
from plasmid.protocol.body import pack, unpack
from plasmid.protocol.channel import parse_header
from plasmid.protocol.checkpoint import Checkpoint, Note, cosign, origin_of, parse_note
from plasmid.protocol.identity import Identity
from plasmid.recipes.bundle import BundleRecipe
from plasmid.recipes.documents import parse_document
from plasmid.recipes.load import load_recipe
from plasmid.recipes.query import PingDocument, QueryDocument
from plasmid.recipes.source import code_problems, not_installed
from plasmid.tasks.classification import ClassificationHead
from plasmid.uplink.network import read_network


@maker
def _vectors() -> Iterator[Target]:
    vector = np.arange(16, dtype=np.float32)
    words = np.arange(16, dtype=np.uint32)

    def body(data: bytes) -> None:
        for name, kind in (("state", np.float32), ("words", np.uint32)):
            try:
                unpack(data, name, length=16, dtype=np.dtype(kind))
                return
            except ProtocolError as error:
                refused = error
        raise refused

    frame = canonical_json({"type": "result", "steps": 3, "document": {"computation": "mean"}})
    yield Target("body", [pack("state", vector), pack("words", words)], body, structured=False)
    yield Target("frame's header", [frame], parse_header)


@maker
def _safetensors() -> Iterator[Target]:
    path = scratch() / "fuzz.safetensors"
    write_floats(path, {"a.b": np.arange(6, dtype=np.float32).reshape(2, 3), "head": np.zeros(2, np.float32)})
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")

    def header(data: bytes) -> None:
        path.write_bytes(len(data).to_bytes(8, "little") + data + whole[8 + size :])
        read_floats(path)

    def file(data: bytes) -> None:
        path.write_bytes(data)
        read_floats(path)

    yield Target("safetensors header", [whole[8 : 8 + size].rstrip()], header, cost=4)
    yield Target("safetensors file", [whole], file, structured=False, cost=4)


@maker
def _documents() -> Iterator[Target]:
    queries = {"name": "ages", "column": "age", "bounds": (0.0, 120.0)}
    models: list[Any] = [PingDocument(length=6, rounds=2), QueryDocument.model_validate(queries)]
    models.append(BundleRecipe.model_validate(_bundle()))
    seeds = [canonical_json(model.model_dump(mode="json")) for model in models]
    seeds.append(canonical_json(load_recipe("tcr-covid").document))
    yield Target("document", seeds, lambda data: parse_document(json_object(data)))
    for name, seed in (
        ("head.json", _HEAD),
        ("adapter_config.json", b'{"r":4,"lora_alpha":8.0}'),
        ("provenance.json", b'{"a":[1,2]}'),
    ):
        yield Target(f"adapter's {name}", [seed], lambda data, name=name: _adapter(name, data), cost=10)  # type: ignore[misc]


_PYTHON = """
import math
from .other import scale

def per_record(row, settings):
    return {"sums": [math.log1p(row["age"]) if row["age"] else 0.0, *map(scale, (1, 2))]}
"""


def _bundle() -> dict[str, Any]:
    return {
        "computation": "bundle",
        "name": "tested",
        "title": "A bundle",
        "data": {"columns": {"age": {"type": "number", "bounds": [0, 120], "missing": "allowed"}}},
        "bundle": {
            "files": {"entry.py": _PYTHON, "other.py": "def scale(x): return x"},
            "entry": "entry",
            "half": "per_record",
            "tensors": {"sums": [3]},
        },
        "federation": {},
        "privacy": {},
    }


@maker
def _code() -> Iterator[Target]:
    """The Python of a recipe, which is looked at before it is shown, and not run."""

    def run(data: bytes) -> None:
        files = {"entry.py": data.decode("utf-8", "replace"), "other.py": "def scale(x): return x"}
        if code_problems(files, "entry", "per_record"):
            raise RecipeError("recipe.bundle", "refused")
        not_installed(files)

    yield Target("recipe's Python", [_PYTHON.encode()], run, structured=False)


def _head() -> bytes:
    about = HeadFile.model_validate(
        {
            "input": "sequence",
            "kind": "protein",
            "spaced": False,
            "max_length": 30,
            "label": "label",
            "metric": "auc",
            "columns": {},
            "head": ClassificationHead(labels=["no", "yes"]),
            "lora": LoraSpec(rank=4, alpha=8.0, targets=["query"], layers=2),
            "base": {"id": "tiny", "revision": "1", "digest": "0" * 64},
        }
    )
    return canonical_json(about.model_dump(mode="json"))


def _adapter(name: str, data: bytes) -> None:
    """Read an adapter whose file *name* holds *data*."""
    folder = scratch() / f"adapter-{name}"
    folder.mkdir(exist_ok=True)
    others = {
        "head.json": _HEAD,
        "provenance.json": b"{}",
        "adapter_config.json": b'{"r":4,"lora_alpha":8.0}',
    }
    for other, content in others.items():
        if not (folder / other).exists():
            (folder / other).write_bytes(content)
    (folder / name).write_bytes(data)
    weight = {"weight": np.zeros((2, 4), np.float32), "bias": np.zeros(2, np.float32)}
    if not (folder / "head.safetensors").exists():
        write_floats(folder / "head.safetensors", weight)
        write_floats(folder / "adapter_model.safetensors", {"base_model.model.a": np.zeros(3, np.float32)})
    read_adapter(folder)


_HEAD = _head()


# -- the log ---------------------------------------------------------------------------------------


@maker
def _notes() -> Iterator[Target]:
    beta = Identity.generate("beta")
    seeds = []
    for size in (0, 1, 77, 2**40):
        note = Note(Checkpoint(origin_of("alpha", ALPHA.public), size, bytes(range(32)))).signed(
            ALPHA, "alpha"
        )
        line = cosign(note.checkpoint, beta, "beta", 1_764_064_800)
        seeds += [note.text().encode(), note.with_lines([line]).text().encode()]

    def run(data: bytes) -> None:
        note = parse_note(data)
        note.check("alpha", ALPHA.public)
        note.cosigned("beta", beta.public)

    yield Target("checkpoint", seeds, run, structured=False)


@maker
def _exports() -> Iterator[Target]:
    log = AuditLog(scratch() / "audit", ALPHA)
    for number in range(5):
        log.write("noted", reason=f"number {number}")
    log.checkpoint()
    named = Named(site=Known(name="alpha", organisation="A", key=ALPHA.public), peers=[])
    seeds = [export(log.files, named), *(prove(log.files, named, seq) for seq in (1, 3))]
    yield Target("audit export", seeds, lambda data: parse_export(data, "x", {}), structured=False, cost=4)


# -- settings --------------------------------------------------------------------------------------

POLICY = b"""allow:
  - 6c1ad034a88ed7683710e90cb78612952b028217e991a8b1ef676717ac524424
  - approvers: {people: [ada, bo], quorum: 2}
    projects: [trial]
require:
  protect: masked
  max_epsilon: 8
budgets:
  default: {unit: record, epsilon: 16, delta: 1e-4}
"""


@maker
def _settings() -> Iterator[Target]:
    path = scratch() / "settings.yaml"

    def reading(read: Callable[[Path], object]) -> Callable[[bytes], None]:
        def run(data: bytes) -> None:
            path.write_bytes(data[:8192])
            read(path)

        return run

    def peers(path: Path) -> None:
        peers_of(path, coordinator=ALPHA.public, own="beta")

    network = b"proxy: http://proxy.example.org:3128\nproxy_auth: password\nca: system\n"
    yield Target("policy", [POLICY], reading(read_policy), structured=False, cost=40)
    site = f'{{name: alpha, organisation: "A", key: "{ALPHA.public}"}}'
    text = f'coordinator: "{ALPHA.public}"\nsites:\n- {site}\n'
    yield Target("peers", [text.encode()], reading(peers), structured=False, cost=40)
    yield Target("network settings", [network], reading(read_network), structured=False, cost=40)


@maker
def _forms() -> Iterator[Target]:
    def run(data: bytes) -> None:
        async def stream() -> Any:
            yield data

        request: Any = SimpleNamespace(
            headers={"content-type": "application/x-www-form-urlencoded"}, stream=stream
        )
        reading = read_form(request)
        try:
            reading.send(None)
        except StopIteration:
            return
        raise AssertionError("a form is read without waiting")

    yield Target("form of the page", [b"csrf=abc&reason=it+is+%C3%A9&x="], run, structured=False)
