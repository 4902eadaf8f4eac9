"""A stock PEFT adapter of a causal base is read after the same checks as our own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plasmid.adapters.causal_adapter import is_causal, read_causal, read_causal_config
from plasmid.bases.importer import import_folder
from plasmid.bases.store import BaseModel
from plasmid.bases.tensors import read_floats, write_floats
from plasmid.core.errors import ModelError
from support.tiny.tiny_causal import stock_adapter, tiny_causal

QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASMID_HOME", str(tmp_path_factory.mktemp("home")))
        source = tiny_causal(tmp_path_factory.mktemp("source"))
        return import_folder(source, model_id="tiny-chat", head="causal", template="chatml")


@pytest.fixture
def folder(tmp_path: Path, base: BaseModel) -> Path:
    return stock_adapter(tmp_path / "adapter", base)


def _set(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def _tensors(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = dict(read_floats(path))
    change(tensors)
    write_floats(path, tensors)


def _code(folder: Path, base: BaseModel) -> tuple[str, str]:
    with pytest.raises(ModelError) as caught:
        read_causal(folder, base)
    return caught.value.code, caught.value.message


def test_what_peft_saves_is_read_whole(folder: Path, base: BaseModel) -> None:
    assert is_causal(folder)
    config = read_causal_config(folder)
    assert (config.base, config.revision, config.rank, config.alpha) == ("tiny-chat", base.revision, 4, 8.0)
    factors = read_causal(folder, base).factors
    assert len(factors) == 2 * 7
    down, up = factors["model.layers.0.self_attn.q_proj"]
    stored = read_floats(folder / "adapter_model.safetensors")
    np.testing.assert_array_equal(down, stored[f"{QUERY}.lora_A.weight"])
    np.testing.assert_array_equal(up, stored[f"{QUERY}.lora_B.weight"])


def test_the_scale_is_that_of_the_settings(folder: Path, base: BaseModel) -> None:
    assert read_causal_config(folder).scale == 8.0 / 4
    _set(folder, use_rslora=True)
    assert read_causal(folder, base).config.scale == 8.0 / 2


@pytest.mark.parametrize(
    "name", ["adapter_model.bin", "modeling_x.py", "chat_template.jinja", "chat_template.json", "sub/a.pkl"]
)
def test_a_folder_with_code_a_pickle_or_a_template_is_refused(
    name: str, folder: Path, base: BaseModel
) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    code, message = _code(folder, base)
    assert code == "model.adapter_invalid"
    assert Path(name).name in message


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"use_rslora": "yes"},
        {"bias": "all"},
        {"rank_pattern": {"q_proj": 8}},
        {"modules_to_save": ["lm_head"]},
        {"init_lora_weights": "pissa"},
        {"auto_mapping": {"base_model_class": "X", "parent_library": "stranger"}},
        {"of_a_later_peft": "on"},
        {"task_type": "SEQ_CLS"},
        {"peft_type": "LOHA"},
        {"r": 0},
        {"r": True},
        {"lora_alpha": "8"},
    ],
)
def test_settings_that_are_not_computed_are_refused(
    settings: dict[str, Any], folder: Path, base: BaseModel
) -> None:
    _set(folder, **settings)
    assert _code(folder, base)[0] == "model.adapter_invalid"


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"revision": None}, "model.base_unpinned"),
        ({"base_model_name_or_path": "/models/tiny-chat/1"}, "model.base_unpinned"),
        ({"base_model_name_or_path": "stranger/tiny-chat"}, "model.base_unpinned"),
        ({"base_model_name_or_path": None}, "model.base_unpinned"),
        ({"revision": "000000000000"}, "model.base_differs"),
        ({"base_model_name_or_path": "plasmid/other"}, "model.base_differs"),
    ],
)
def test_it_must_say_that_it_is_for_this_base_before_a_tensor_is_read(
    settings: dict[str, Any], code: str, folder: Path, base: BaseModel
) -> None:
    _set(folder, **settings)
    (folder / "adapter_model.safetensors").write_bytes(b"no tensors")
    assert _code(folder, base)[0] == code


def test_factors_must_be_those_of_linear_layers_of_the_base(folder: Path, base: BaseModel) -> None:
    def changed(change: Callable[[dict[str, Any]], None]) -> str:
        before = (folder / "adapter_model.safetensors").read_bytes()
        _tensors(folder, change)
        code, message = _code(folder, base)
        assert code == "model.adapter_mismatch"
        (folder / "adapter_model.safetensors").write_bytes(before)
        return message

    down = f"{QUERY}.lora_A.weight"
    assert "not finite" in changed(lambda t: t.update({down: t[down] * np.nan}))
    assert "(4, 31)" in changed(lambda t: t.update({down: t[down][:, 1:]}))
    assert "None and (32, 4)" in changed(lambda t: t.pop(down))
    stray = "base_model.model.lm_head.lora_A.weight"
    assert changed(lambda t: t.update({stray: t[down]})).startswith("of the adapter's tensors 1 are no LoRA")
    assert "0 are." in changed(lambda t: (t.clear(), t.update({"x": np.zeros(1, np.float32)})))
