"""The peers of ``dp_step``: stock PEFT, trained plainly, with Opacus' hooks and with its ghost clipping.

The same encoder, pooling, head, loss and optimiser as ours, in fp32 and train mode (dropout is 0 in the
configuration). Opacus sees all trainable tensors, the head's too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from plasmid.models.adapter import lora_modules, target_regex
from plasmid.models.batches import Batch
from plasmid.models.loading import load_encoder
from plasmid.models.specs import LoraSpec
from plasmid.models.store import BaseModel

Step = Callable[[], object]


class _Stock(nn.Module):
    """Stock PEFT under a masked mean and one linear layer."""

    def __init__(self, base: BaseModel, lora: LoraSpec, labels: int) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model

        encoder = load_encoder(base, attention="eager")
        targets = target_regex(base, lora_modules(base, lora))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets)
            self.encoder = get_peft_model(encoder, config)
        self.head = nn.Linear(encoder.config.hidden_size, labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, own: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = own[:, :, None].float()
        logits: Tensor = self.head((hidden * weights).sum(1) / weights.sum(1))
        return logits


def peers(
    base: BaseModel, lora: LoraSpec, batch: Batch, *, labels: int, rate: float, clip: float, noise: float
) -> dict[str, Step]:
    """Return one step of each peer: ``peft``, ``hooks`` and ``ghost``."""
    from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

    inputs = (batch.input_ids, batch.attention_mask, batch.own)
    truth = batch.labels
    size = len(batch.input_ids)
    private = {"noise_multiplier": noise, "max_grad_norm": clip, "expected_batch_size": size}

    def adamw(model: nn.Module) -> torch.optim.Optimizer:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)

    plain = _Stock(base, lora, labels).train()
    plain_optimizer = adamw(plain)

    def peft() -> None:
        cross_entropy(plain(*inputs), truth).backward()
        plain_optimizer.step()
        plain_optimizer.zero_grad()

    watched: Any = GradSampleModule(_Stock(base, lora, labels).train(), strict=False)
    watched_optimizer: Any = DPOptimizer(adamw(watched), **private)

    def hooks() -> None:
        cross_entropy(watched(*inputs), truth).backward()
        watched_optimizer.step()
        watched_optimizer.zero_grad()

    twice: Any = GradSampleModuleFastGradientClipping(
        _Stock(base, lora, labels).train(), max_grad_norm=clip, strict=False
    )
    twice_optimizer: Any = DPOptimizerFastGradientClipping(adamw(twice), **private)

    def ghost() -> None:
        losses = cross_entropy(twice(*inputs), truth, reduction="none")
        DPTensorFastGradientClipping(twice, twice_optimizer, losses).backward()
        twice_optimizer.step()
        twice_optimizer.zero_grad()
        twice.enable_hooks()

    return {"peft": peft, "hooks": hooks, "ghost": ghost}
