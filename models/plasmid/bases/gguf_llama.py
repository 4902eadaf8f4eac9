"""A Llama in a GGUF file, as the Hugging Face layout has it: settings, tensors by name, tokenizer.

Rules
-----
1. llama.cpp keeps each head's rows of the query and key weights in another order; they are put back.
2. The tokenizer is byte-level BPE, written from the vocabulary and merges alone. How a text is split before
   is said by a word, of which only those in :data:`SPLITS` are known: guessing would give other tokens.
3. A chat template in the file stays behind.
"""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

import numpy as np

from plasmid.bases.gguf import Floats, Gguf
from plasmid.bases.sources import Weight, Weights
from plasmid.core.errors import ModelError

SPLITS: dict[str, list[dict[str, Any]]] = {
    "smollm": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}
_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INSIDE = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_BLOCK = re.compile(r"blk\.(\d{1,4})\.(\w+)\.weight")
_CONTROL, _USER = 3, 4


def config_of(file: Gguf) -> dict[str, Any]:
    """Return ``config.json``.

    Raises
    ------
    ModelError
        ``model.refused``: it is no plain Llama, or a setting is missing.
    """
    if file.settings.get("general.architecture") != "llama":
        raise _refused("it is no Llama")
    rotated = file.setting("llama.rope.dimension_count", int)
    heads, hidden = file.setting("llama.attention.head_count", int), _whole(file, "embedding_length")
    if any(key.startswith("llama.rope.scaling") for key in file.settings) or rotated * heads != hidden:
        raise _refused("its positions are not those of a plain Llama")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": _whole(file, "feed_forward_length"),
        "num_hidden_layers": _whole(file, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.setting("llama.attention.head_count_kv", int),
        "max_position_embeddings": _whole(file, "context_length"),
        "rms_norm_eps": _short(file.setting("llama.attention.layer_norm_rms_epsilon", float)),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": _short(file.setting("llama.rope.freq_base", float)),
        },
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "vocab_size": len(file.setting("tokenizer.ggml.tokens", list)),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": file.setting("tokenizer.ggml.bos_token_id", int),
        "eos_token_id": file.setting("tokenizer.ggml.eos_token_id", int),
        "pad_token_id": file.setting("tokenizer.ggml.padding_token_id", int),
        "dtype": "float32",
    }


def weights_of(file: Gguf) -> Weights:
    """Return the tensors under the names of ``LlamaForCausalLM``; their numbers are read when asked for."""
    heads = {
        "attn_q": file.setting("llama.attention.head_count", int),
        "attn_k": file.setting("llama.attention.head_count_kv", int),
    }
    found: Weights = {}
    for name, tensor in file.tensors.items():
        match = _BLOCK.fullmatch(name)
        if match and match[2] in _INSIDE:
            new = f"model.layers.{int(match[1])}.{_INSIDE[match[2]]}.weight"
        elif name in _OUTSIDE:
            new = _OUTSIDE[name]
        else:
            raise _refused("it holds a tensor that no plain Llama has")
        turned = heads.get(match[2]) if match else None
        if turned is not None and (len(tensor.shape) != 2 or turned < 1 or tensor.shape[0] % (2 * turned)):
            raise _refused("its attention heads do not divide its weights")
        found[new] = Weight(tensor.shape, partial(_read, file, name, turned))
    return found


def _read(file: Gguf, name: str, heads: int | None) -> Floats:
    rows = file.read(name)
    if heads is None:
        return rows
    pairs = rows.reshape(heads, -1, 2, rows.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def tokenizer_of(file: Gguf) -> dict[str, bytes]:
    """Return the tokenizer's files by name; their bytes depend on the vocabulary and the merges alone.

    Raises
    ------
    ModelError
        ``model.refused``: it is another kind of tokenizer.
    """
    kind, split = file.settings.get("tokenizer.ggml.model"), str(file.settings.get("tokenizer.ggml.pre"))
    if kind != "gpt2" or split not in SPLITS or file.settings.get("tokenizer.ggml.add_bos_token"):
        raise _refused("its tokenizer is not of a known kind")
    words, kinds = (
        file.setting("tokenizer.ggml.tokens", list),
        file.setting("tokenizer.ggml.token_type", list),
    )
    merges = file.setting("tokenizer.ggml.merges", list)
    if len(kinds) != len(words) or len(set(words)) != len(words):
        raise _refused("its vocabulary has words twice, or without a type")
    added = [
        {
            "id": index,
            "content": words[index],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == _CONTROL,
        }
        for index, kind in enumerate(kinds)
        if kind in (_CONTROL, _USER)
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": SPLITS[split]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {word: index for index, word in enumerate(words)},
            "merges": merges,
        },
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _word(file, words, "bos"),
        "eos_token": _word(file, words, "eos"),
        "pad_token": _word(file, words, "padding"),
        "unk_token": _word(file, words, "unknown"),
        "model_max_length": _whole(file, "context_length"),
        "clean_up_tokenization_spaces": False,
    }
    return {
        "tokenizer.json": json.dumps(tokenizer, indent=1).encode(),
        "tokenizer_config.json": json.dumps(settings, indent=1).encode(),
    }


def _word(file: Gguf, words: list[str], name: str) -> str:
    index = file.setting(f"tokenizer.ggml.{name}_token_id", int)
    if not 0 <= index < len(words):
        raise _refused(f"its {name} token is not in its vocabulary")
    return str(words[index])


def _whole(file: Gguf, name: str) -> int:
    return int(file.setting(f"llama.{name}", int))


def _short(value: float) -> float:
    """Return the shortest number that is *value* as a float32: 1e-5, say, which its file cannot hold."""
    return float(str(np.float32(value)))


def _refused(why: str) -> ModelError:
    return ModelError("model.refused", f"the GGUF file cannot be imported: {why}.", "Ask for safetensors.")
