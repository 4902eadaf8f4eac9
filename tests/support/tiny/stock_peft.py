"""Our adapted model built of stock PEFT: what ours is compared with."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from plasmid.adapters.adapter import AdapterSchema, Vector, lora_modules, target_regex
from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel
from plasmid.encoders.batches import Batch
from plasmid.encoders.loading import load_encoder
from plasmid.tasks import Head


class StockPeft(nn.Module):
    """PEFT's model of *base*, masked mean, head and covariates, in eval mode."""

    def __init__(self, base: BaseModel, lora: LoraSpec, head: Head) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model

        encoder = load_encoder(base, attention="eager")
        targets = target_regex(base, lora_modules(base, lora))
        settings: dict[str, Any] = {"r": lora.rank, "lora_alpha": lora.alpha, "target_modules": targets}
        settings["use_rslora"] = lora.rslora
        with warnings.catch_warnings():
            # peft asks transformers 5 for a property that it renamed; nothing here uses either.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            self.encoder = get_peft_model(encoder, LoraConfig(**settings))
        self.head = nn.Linear(encoder.config.hidden_size, head.width)
        self.covariates = nn.Linear(max(1, head.covariate_width), head.width, bias=False)
        self.covariates.weight.requires_grad_(head.covariate_width > 0)
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, own: Tensor, covariates: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = own[:, :, None].float()
        logits: Tensor = self.head((hidden.float() * weights).sum(1) / weights.sum(1))
        return logits + self.covariates(covariates) if covariates.shape[1] else logits

    def logits(self, batch: Batch) -> Tensor:
        """Return logits, float32 [n, labels]."""
        result: Tensor = self(batch.input_ids, batch.attention_mask, batch.own, batch.covariates)
        return result

    def by_name(self) -> dict[str, nn.Parameter]:
        """Return the trainable tensors by their names in the schema."""
        found = {
            name.replace(".default.weight", ".weight").removeprefix("encoder."): parameter
            for name, parameter in self.named_parameters()
            if ".lora_" in name
        }
        found["head.weight"], found["head.bias"] = self.head.parameters()
        found["head.covariates"] = next(self.covariates.parameters())
        return {name: parameter for name, parameter in found.items() if parameter.requires_grad}

    def set_state(self, schema: AdapterSchema, state: Vector) -> None:
        """Adopt *state*, float32 [schema.size]."""
        named = self.by_name()
        with torch.no_grad():
            for name, value in schema.unflatten(state).items():
                named[name].copy_(torch.from_numpy(value))
