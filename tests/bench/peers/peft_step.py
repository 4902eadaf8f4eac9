"""The peers of ``dp_step``: stock PEFT, trained plainly, with Opacus' hooks and with its ghost clipping.

The same encoder, pooling, head, loss and optimiser as ours, in fp32 and train mode (dropout is 0 in the
configuration). Opacus sees all trainable tensors, the head's too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel
from plasmid.encoders.batches import Batch
from plasmid.tasks import Head
from support.tiny.stock_peft import StockPeft

Step = Callable[[], object]


def peers(
    base: BaseModel, lora: LoraSpec, head: Head, batch: Batch, *, rate: float, clip: float, noise: float
) -> dict[str, Step]:
    """Return one step of each peer: ``peft``, ``hooks`` and ``ghost``."""
    from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

    inputs = (batch.input_ids, batch.attention_mask, batch.own, batch.covariates)
    truth: Any = batch.labels
    size = len(batch.input_ids)
    private = {"noise_multiplier": noise, "max_grad_norm": clip, "expected_batch_size": size}
    # Opacus' hooks on the first layers, whose input has no gradient, fire by design.
    warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)

    def adamw(model: nn.Module) -> torch.optim.Optimizer:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)

    plain = StockPeft(base, lora, head).train()
    plain_optimizer = adamw(plain)

    def peft() -> None:
        loss: Any = cross_entropy(plain(*inputs), truth)
        loss.backward()
        plain_optimizer.step()
        plain_optimizer.zero_grad()

    watched: Any = GradSampleModule(StockPeft(base, lora, head).train(), strict=False)
    watched_optimizer: Any = DPOptimizer(adamw(watched), **private)

    def hooks() -> None:
        loss: Any = cross_entropy(watched(*inputs), truth)
        loss.backward()
        watched_optimizer.step()
        watched_optimizer.zero_grad()

    twice: Any = GradSampleModuleFastGradientClipping(
        StockPeft(base, lora, head).train(), max_grad_norm=clip, strict=False
    )
    twice_optimizer: Any = DPOptimizerFastGradientClipping(adamw(twice), **private)

    def ghost() -> None:
        losses = cross_entropy(twice(*inputs), truth, reduction="none")
        DPTensorFastGradientClipping(twice, twice_optimizer, losses).backward()
        twice_optimizer.step()
        twice_optimizer.zero_grad()
        twice.enable_hooks()

    return {"peft": peft, "hooks": hooks, "ghost": ghost}
