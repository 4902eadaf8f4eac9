"""A Flower client as its users write one: what Flower's Hugging Face example does, with stock PEFT.

Model and tokenizer are loaded for each call (the example's ``get_model`` and ``load_data``), rows are
tokenized, and a plain loop trains. Rows, rank, targets, batch, steps and rates are the recipe's; the
covariate is left out, which favours Flower.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plasmid.recipes.schema import Recipe


def first_state(base: Path, recipe: Recipe) -> NDArray[Any]:
    """Return the trainable tensors of a new model in one vector."""
    return _flat(_model(base, recipe))


def trained(base: Path, recipe: Recipe, table: Path, state: NDArray[Any]) -> NDArray[Any]:
    """Return what the site of *table* makes of *state*, one vector as it."""
    from transformers import AutoTokenizer

    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tokenizer = AutoTokenizer.from_pretrained(base)
    labels = torch.tensor([recipe.task.classes.index(row["label"]) for row in rows])
    texts = tokenizer([row["sequence"] for row in rows], padding=True, return_tensors="pt")
    model = _model(base, recipe)
    _adopt(model, state)
    model.train()
    lora = [value for name, value in model.named_parameters() if value.requires_grad and "lora_" in name]
    head = [value for name, value in model.named_parameters() if value.requires_grad and "lora_" not in name]
    rates = recipe.training
    optimizer = torch.optim.AdamW(
        [{"params": lora, "lr": rates.lora_lr}, {"params": head, "lr": rates.head_lr}]
    )
    data = torch.utils.data.TensorDataset(texts["input_ids"], texts["attention_mask"], labels)
    batches = torch.utils.data.DataLoader(data, batch_size=rates.batch, shuffle=True)
    for _, (ids, mask, truth) in zip(range(rates.steps), batches, strict=False):
        model(input_ids=ids, attention_mask=mask, labels=truth).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return _flat(model)


def _model(base: Path, recipe: Recipe) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification

    lora = recipe.adapter.lora
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(recipe.task.classes))
    depth = model.config.num_hidden_layers
    top = list(range(depth - (lora.layers or depth), depth))
    settings: dict[str, Any] = {
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": list(lora.targets),
    }
    return get_peft_model(model, LoraConfig(task_type=TaskType.SEQ_CLS, layers_to_transform=top, **settings))


def _trainable(model: Any) -> list[torch.nn.Parameter]:
    return [value for value in model.parameters() if value.requires_grad]


def _flat(model: Any) -> NDArray[Any]:
    return np.concatenate([value.detach().numpy().ravel() for value in _trainable(model)])


def _adopt(model: Any, state: NDArray[Any]) -> None:
    start = 0
    with torch.no_grad():
        for value in _trainable(model):
            value.copy_(torch.from_numpy(state[start : start + value.numel()].reshape(value.shape).copy()))
            start += value.numel()
