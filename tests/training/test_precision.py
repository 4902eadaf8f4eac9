"""``precision: auto`` follows the hardware."""

from __future__ import annotations

import pytest
import torch

from plasmid.worker.precision import bf16_is_fast, chosen_precision


def test_auto_precision_follows_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    able = {"avx512_bf16": True}
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert bf16_is_fast(cpu)
    assert [chosen_precision(asked, cpu) for asked in ("auto", "fp32", "bf16")] == ["bf16", "fp32", "bf16"]
    able.clear()
    assert [chosen_precision(asked, cpu) for asked in ("auto", "fp32", "bf16")] == ["fp32", "fp32", "bf16"]
    assert not bf16_is_fast(torch.device("meta"))
