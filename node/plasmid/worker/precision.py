"""What ``training.precision: auto`` comes to."""

from __future__ import annotations

from typing import Literal

import torch


def bf16_is_fast(device: torch.device) -> bool:
    """True when *device* multiplies bfloat16 in hardware, so that it pays."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return False


def chosen_precision(asked: Literal["auto", "fp32", "bf16"], device: torch.device) -> Literal["fp32", "bf16"]:
    """Return the precision to train in on *device*."""
    if asked != "auto":
        return asked
    return "bf16" if bf16_is_fast(device) else "fp32"
