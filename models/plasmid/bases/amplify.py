"""AMPLIFY's weights as those of a stock EuroBERT: the same function, without the code of its repository.

AMPLIFY (Fournier et al. 2024, https://doi.org/10.1101/2024.09.23.614603; MIT) is a bidirectional Llama: RMS
norms in front, rotary positions, SwiGLU, no biases. Its repository brings the class as Python that a loader
would run (``trust_remote_code``), which is never done here. EuroBERT is the stock class for that function:

    AMPLIFY                        EuroBERT
    encoder                        embed_tokens
    q, k; v, wo                    q_proj, k_proj; v_proj, o_proj
    ffn.w12 [2 i, h], ffn.w3       gate_proj [i, h] above up_proj [i, h], down_proj
    attention_norm, ffn_norm       input_layernorm, post_attention_layernorm
    layer_norm_2                   norm
    decoder                        left behind, as every task head

Rules
-----
1. AMPLIFY turns neighbouring values 2 j and 2 j + 1 of a head together, EuroBERT j and j + d / 2: rows of q
   and k are put in that order within each head. Nothing else is changed, and no number is computed.
2. ``i`` is two thirds of ``intermediate_size``, raised to a multiple of 8.
3. Settings under which the two would differ are refused.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from plasmid.bases.sources import Weight, Weights
from plasmid.core.errors import ModelError

MODEL_TYPE = "AMPLIFY"
ROPE_THETA = 10_000.0
_SAME = {
    "rms_norm": True,
    "hidden_act": "SwiGLU",
    "layer_norm_after_embedding": False,
    "layer_norm_before_last_layer": True,
    "ffn_bias": False,
    "att_bias": False,
}
"""What the settings must be; these are the defaults of its class, too."""
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
_LAYER = re.compile(r"transformer_encoder\.(\d+)\.(.+)\.weight")
_WITHIN = {
    "v": "self_attn.v_proj",
    "wo": "self_attn.o_proj",
    "ffn.w3": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_OUTSIDE = {"encoder.weight": "embed_tokens.weight", "layer_norm_2.weight": "norm.weight"}


def as_eurobert(config: dict[str, Any], weights: Weights) -> tuple[dict[str, Any], Weights]:
    """Return settings and weights of the EuroBERT that computes what AMPLIFY does.

    Raises
    ------
    ModelError
        ``model.refused``: a setting that EuroBERT has no equal for, or sizes that are missing.
    """
    other = [f"{key} {config[key]!r}" for key, value in _SAME.items() if config.get(key, value) != value]
    other += [f"no {key}" for key in (*_SIZES, "intermediate_size") if type(config.get(key)) is not int]
    if other:
        raise ModelError(
            "model.refused",
            f"this AMPLIFY is none of the published shape: {', '.join(other)}.",
            "AMPLIFY 120M and 350M are imported; others are not known here.",
        )
    heads = config["num_attention_heads"]
    settings = {key: config[key] for key in _SIZES} | {
        "model_type": "eurobert",
        "intermediate_size": 8 * -(-int(2 * config["intermediate_size"] / 3) // 8),
        "num_key_value_heads": heads,
        "max_position_embeddings": config.get("max_length", 2048),
        "rms_norm_eps": config.get("norm_eps", 1e-5),
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "pad_token_id": config.get("pad_token_id", 0),
        "bos_token_id": config.get("bos_token_id"),
        "eos_token_id": config.get("eos_token_id"),
        "mask_token_id": config.get("mask_token_id", 2),
    }
    found: Weights = {}
    for name, weight in weights.items():
        layer = _LAYER.fullmatch(name)
        if layer is None:
            if name in _OUTSIDE:
                found[_OUTSIDE[name]] = weight
            continue
        prefix, part = f"layers.{layer[1]}", layer[2]
        if part in ("q", "k"):
            found[f"{prefix}.self_attn.{part}_proj.weight"] = _turned(weight, heads)
        elif part == "ffn.w12":
            for half, own in enumerate(("gate", "up")):
                found[f"{prefix}.mlp.{own}_proj.weight"] = _half(weight, half)
        elif part in _WITHIN:
            found[f"{prefix}.{_WITHIN[part]}.weight"] = weight
    return settings, found


def _whole(weight: Weight) -> npt.NDArray[np.float32]:
    return np.concatenate([part.reshape(-1) for part in weight.parts()]).reshape(weight.shape)


def _turned(weight: Weight, heads: int) -> Weight:
    """Return *weight* [heads · d, h] with the rows of each head in EuroBERT's order."""
    rows, width = weight.shape

    def made() -> npt.NDArray[np.float32]:
        pairs = _whole(weight).reshape(heads, rows // heads // 2, 2, width)
        return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, width))

    return Weight(weight.shape, made)


def _half(weight: Weight, which: int) -> Weight:
    """Return the first or second half of the rows of *weight*."""
    rows = weight.shape[0] // 2
    return Weight((rows, *weight.shape[1:]), lambda: _whole(weight)[which * rows : (which + 1) * rows])
