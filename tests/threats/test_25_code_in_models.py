"""Row 25. Attack: pickle or code in models: .bin, .pt, .pkl, object arrays, ``trust_remote_code``,
``auto_map``, *.py, chat templates.

Must hold: refused, and nothing of it runs.
"""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from plasmid.bases.importer import import_folder
from plasmid.bases.sources import read_weights
from plasmid.bases.tokenizing import load_tokenizer
from plasmid.core.errors import ModelError
from plasmid.protocol.body import unpack
from plasmid.protocol.channel import parse_header
from support.federation.attacks import refusal
from support.tiny.tiny_models import tiny_bert

REPOSITORY = Path(__file__).parents[2]
ROOTS = ("models", "recipes", "node", "platform")


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """What appears if the code of an attack has run."""
    return tmp_path / "ran"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that can be imported."""
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    return tiny_bert(tmp_path / "mine")


def zipped(pickled: bytes) -> bytes:
    """Return *pickled* in the archive that torch writes."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return made.getvalue()


PICKLES: dict[str, Callable[[Path], bytes]] = {
    "a plain pickle": lambda ran: pickle.dumps({"bert.x": Evil(ran)}, protocol=2),
    "torch's archive": lambda ran: zipped(pickle.dumps({"bert.x": Evil(ran)}, protocol=2)),
    "no dictionary": lambda ran: pickle.dumps(Evil(ran), protocol=2),
    "a later protocol": lambda ran: pickle.dumps({"bert.x": Evil(ran)}, protocol=5),
}


@pytest.mark.promise("no-code-in-files")
@pytest.mark.parametrize("what", PICKLES)
def test_a_pickle_with_code_is_not_loaded(source: Path, ran: Path, what: str) -> None:
    data = PICKLES[what](ran)
    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(data)
    with refusal("model.refused"):
        import_folder(source)
    assert not ran.exists()
    control = zipfile.ZipFile(io.BytesIO(data)).read("archive/data.pkl") if data[:2] == b"PK" else data
    pickle.loads(control)
    assert ran.exists()  # the control: the code is there, and runs


@pytest.mark.parametrize(
    "name", ["model.pt", "model.pkl", "weights.npz", "pytorch_model.pt", "model.ckpt", "x.h5"]
)
def test_other_formats_are_not_even_opened(source: Path, ran: Path, name: str) -> None:
    (source / "model.safetensors").unlink()
    (source / name).write_bytes(pickle.dumps(Evil(ran)))
    with refusal("model.file_missing"):
        read_weights(source)
    assert not ran.exists()


def test_a_file_of_objects_is_no_body(ran: Path) -> None:
    """As a vector in memory it is tested in row 12."""
    saved = io.BytesIO()
    np.save(saved, np.array([Evil(ran), None, 3.0], object), allow_pickle=True)
    for name in ("state", "words"):
        with refusal("protocol.body"):
            unpack(saved.getvalue(), name, length=3, dtype=np.dtype(np.float32))
    with refusal("protocol.frame"):
        parse_header(saved.getvalue())
    assert not ran.exists()
    np.load(io.BytesIO(saved.getvalue()), allow_pickle=True)
    assert ran.exists()  # the control


def break_config(source: Path, name: str, **values: Any) -> None:
    path = source / name
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | values))


CODE: dict[str, Callable[[Path], object]] = {
    "modeling.py": lambda source: (source / "modeling.py").write_text("raise SystemExit"),
    "__init__.py": lambda source: (source / "__init__.py").write_text(""),
    "auto_map of the model": lambda source: break_config(
        source, "config.json", auto_map={"AutoModel": "modeling.Evil"}
    ),
    "auto_map of another repository": lambda source: break_config(
        source, "config.json", auto_map={"AutoModel": "someone/else--modeling.Evil"}
    ),
    "auto_map of the tokenizer": lambda source: break_config(
        source, "tokenizer_config.json", auto_map={"AutoTokenizer": ["tok.Evil", None]}
    ),
}


@pytest.mark.promise("no-code-in-files")
@pytest.mark.parametrize("what", CODE)
def test_a_folder_that_brings_code_is_refused(source: Path, what: str) -> None:
    assert import_folder(source).entry.architecture == "bert"  # the control: without it, it is taken
    CODE[what](source)
    with pytest.raises(ModelError, match="would run its own code") as caught:
        import_folder(source)
    assert caught.value.code == "model.refused"


def test_a_chat_template_stays_behind(source: Path) -> None:
    """Jinja is a program. What is kept holds none, in whichever of its two places the source had it."""
    template = "{{ ''.__class__.__mro__ }}"
    break_config(source, "tokenizer_config.json", chat_template=template)
    (source / "chat_template.jinja").write_text(template)
    assert AutoTokenizer.from_pretrained(source).chat_template == template  # the control
    base = import_folder(source)
    assert load_tokenizer(base.path).chat_template is None
    assert not list(base.path.glob("*.jinja"))
    assert template not in "".join(path.read_text("utf-8", "ignore") for path in base.path.iterdir())


# -- nothing of ours loads code --------------------------------------------------------------------

LOADERS = {
    ("pickle", None): "unpickles",
    ("marshal", None): "unmarshals",
    ("shelve", None): "unpickles",
    ("joblib", None): "unpickles",
    ("dill", None): "unpickles",
}


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def dangers(tree: ast.AST) -> set[str]:
    """Return what in *tree* would load code or objects out of data."""
    found = set()
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found |= {f"imports {name}" for name in names if (name.split(".")[0], None) in LOADERS}
    for call in calls(tree):
        name = ast.unparse(call.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name in ("eval", "exec", "compile"):
            found.add(name)
        if name == "torch.load" and given.get("weights_only") != "True":
            found.add("torch.load without weights_only")
        if name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
            found.add("np.load with pickle")
        if given.get("trust_remote_code", "False") != "False":
            found.add("trust_remote_code")
        if name.endswith(".from_pretrained") and given.get("trust_remote_code") != "False":
            found.add("from_pretrained without a word on trust_remote_code")
        if name == "YAML" and given.get("typ") not in ("'safe'", '"safe"'):
            found.add("YAML that is not safe")
    return found


RUNS_BUNDLES = {"node/plasmid/worker/bundle.py", "node/plasmid/worker/per_record_child.py"}
"""A recipe's own Python is compiled here and nowhere else: in the sandboxed worker and its child."""


@pytest.mark.promise("no-code-in-files")
def test_no_module_of_ours_loads_code_out_of_data() -> None:
    found = {
        str(path.relative_to(REPOSITORY)): danger
        for root in ROOTS
        for path in sorted((REPOSITORY / root).rglob("*.py"))
        if (danger := dangers(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert {name: danger for name, danger in found.items() if name not in RUNS_BUNDLES} == {}
    assert set().union(*found.values()) <= {"compile", "exec"}


@pytest.mark.parametrize(
    "source_text",
    [
        "import pickle",
        "from pickle import loads",
        "eval(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(path)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "YAML(typ='unsafe')",
    ],
)
def test_control_the_search_finds_what_it_looks_for(source_text: str) -> None:
    assert dangers(ast.parse(source_text))
