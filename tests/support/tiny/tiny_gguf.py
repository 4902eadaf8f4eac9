"""Small GGUF files, written by hand."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from support.tiny.tiny_causal import BYTES, MARKS

HIDDEN, HEADS, KV, INNER = 16, 4, 2, 32


def text_of(text: str) -> bytes:
    """Return *text* as GGUF has it."""
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _setting(value: Any) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + text_of(value)
    inner = b"".join(text_of(one) if isinstance(one, str) else struct.pack("<i", one) for one in value)
    return struct.pack("<IIQ", 9, 8 if isinstance(value[0], str) else 5, len(value)) + inner


def gguf(
    path: Path, settings: dict[str, Any], tensors: dict[str, tuple[int, tuple[int, ...], bytes]]
) -> Path:
    """Write a GGUF file of *settings* and of *tensors*: type, shape as numpy has it, bytes."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(settings))
    head += b"".join(text_of(key) + _setting(value) for key, value in settings.items())
    body = b""
    for name, (kind, shape, raw) in tensors.items():
        head += text_of(name) + struct.pack(
            f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, len(body)
        )
        body += raw + b"\0" * (-len(raw) % 32)
    path.write_bytes(head + b"\0" * (-len(head) % 32) + body)
    return path


def tiny_llama_gguf(path: Path, **changed: Any) -> tuple[Path, dict[str, np.ndarray]]:
    """Write a Llama of two layers, and return what its tensors are under llama.cpp's names."""
    words = [*MARKS, *BYTES, "ab", "Ġa"]
    kinds = [3] * len(MARKS) + [1] * (len(words) - len(MARKS))
    settings: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.context_length": 64,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": INNER,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV,
        "llama.rope.freq_base": 100000.0,
        "llama.rope.dimension_count": HIDDEN // HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": ["a b", "Ġ a"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.chat_template": "{{ theirs }}",
    } | changed
    rng = np.random.default_rng(0)
    shapes = {"token_embd.weight": (len(words), HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(2):
        for name, shape in {
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (HIDDEN // 2, HIDDEN),
            "attn_v": (HIDDEN // 2, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "ffn_gate": (INNER, HIDDEN),
            "ffn_up": (INNER, HIDDEN),
            "ffn_down": (HIDDEN, INNER),
            "attn_norm": (HIDDEN,),
            "ffn_norm": (HIDDEN,),
        }.items():
            shapes[f"blk.{layer}.{name}.weight"] = shape
    numbers = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    tensors = {name: (0, value.shape, value.tobytes()) for name, value in numbers.items()}
    return gguf(path, settings, tensors), numbers
