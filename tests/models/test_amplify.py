"""AMPLIFY's weights in a stock class: the published function, and nothing of its repository is run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from plasmid.bases.importer import import_folder
from plasmid.bases.store import BaseModel
from plasmid.core.errors import ModelError
from plasmid.encoders.loading import load_encoder
from support.tiny.tiny_models import LAYERS, tiny_amplify

HEADS = 4


def published(weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    """The encoder as Fournier et al. 2024 describe it: [n, tokens] -> [n, tokens, hidden], of whole rows."""
    x = weights["encoder.weight"][ids]
    n, tokens, hidden = x.shape
    width = hidden // HEADS
    pace = 10_000.0 ** (-torch.arange(0, width, 2) / width)
    turn = torch.polar(torch.ones(tokens, width // 2), torch.outer(torch.arange(tokens), pace))

    def norm(x: Tensor, name: str) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weights[f"{name}.weight"]

    def turned(x: Tensor) -> Tensor:  # neighbouring values are one complex number
        pairs = torch.view_as_complex(x.reshape(n, tokens, HEADS, width // 2, 2))
        return torch.view_as_real(pairs * turn[None, :, None]).flatten(3).transpose(1, 2)

    for layer in range(LAYERS):
        at = f"transformer_encoder.{layer}"
        read = norm(x, f"{at}.attention_norm")
        q, k, v = (linear(read, weights[f"{at}.{part}.weight"]) for part in "qkv")
        heads = v.view(n, tokens, HEADS, width).transpose(1, 2)
        seen = scaled_dot_product_attention(turned(q), turned(k), heads).transpose(1, 2).flatten(2)
        x = x + linear(seen, weights[f"{at}.wo.weight"])
        gate, up = linear(norm(x, f"{at}.ffn_norm"), weights[f"{at}.ffn.w12.weight"]).chunk(2, -1)
        x = x + linear(silu(gate) * up, weights[f"{at}.ffn.w3.weight"])
    return norm(x, "layer_norm_2")


def test_the_stock_class_computes_what_the_authors_published(
    zoo: dict[str, BaseModel], tmp_path: Path
) -> None:
    weights = load_file(tiny_amplify(tmp_path / "amplify") / "model.safetensors")
    ids = torch.randint(6, 26, (3, 17), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = load_encoder(zoo["eurobert"])(input_ids=ids).last_hidden_state
    torch.testing.assert_close(found, published(weights, ids), atol=2e-5, rtol=2e-5)


def test_what_is_kept_holds_no_code(zoo: dict[str, BaseModel]) -> None:
    base = zoo["eurobert"]
    assert (base.entry.architecture, base.entry.input) == ("eurobert", "protein")
    assert "auto_map" not in base.config
    assert base.config["intermediate_size"] == 32  # two thirds of 44, raised to a multiple of 8
    assert not list(base.path.glob("*.py"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        (
            {"layer_norm_after_embedding": True, "att_bias": True},
            "layer_norm_after_embedding True, att_bias True",
        ),
        ({"num_attention_heads": "4"}, "no num_attention_heads"),
    ],
)
def test_another_shape_is_refused(
    change: dict[str, object], told: str, at_home: None, tmp_path: Path
) -> None:
    folder = tiny_amplify(tmp_path / "amplify")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | change), "utf-8")
    with pytest.raises(ModelError, match=re.escape(told)) as caught:
        import_folder(folder, model_id="other-amplify")
    assert caught.value.code == "model.refused"
