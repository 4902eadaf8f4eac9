"""Memory of a training step on a GPU, from a model: no GPU is asked.

Rules
-----
1. The parts: the base model in float32; the trainable values with gradient, optimiser and the copy that
   FedProx pulls to; what a backward pass keeps of each layer from the lowest adapted one up; under a privacy
   unit the rows' own gradients; and what the driver and its libraries take before the first tensor.
2. What a transformer layer keeps is that of Korthikanti et al. 2022 ("Reducing Activation Recomputation in
   Large Transformer Models", arXiv 2205.05198, section 4.1): 34 bytes for each token and hidden value in 16
   bits, twice that in 32. Attention is fused on a GPU (:func:`plasmid.models.encoder.attention_on`), so that
   its matrix of scores is not kept. Frozen weights keep less than that: it is an upper figure.
3. Every row of the batch is taken to be as long as the recipe lets it be.
"""

from __future__ import annotations

import re
from math import prod

from plasmid.models.adapter import hidden_size, lora_modules
from plasmid.models.architectures import architecture
from plasmid.models.store import BaseModel
from plasmid.recipes.schema import Recipe

DRIVER_BYTES = 600 * 2**20
"""Context and libraries of CUDA."""
LAYER_BYTES = 34
MICRO_ROWS, MAX_GATHERED_BYTES = 64, 512 * 2**20
"""As :mod:`plasmid.training.engine` gathers rows' gradients; a test compares."""


def gpu_bytes(recipe: Recipe, base: BaseModel, trainable: int) -> int:
    """Return the peak memory of a step of *recipe* with *trainable* values on a GPU."""
    header = base.header
    weights = 4 * sum(prod(tensor.shape) for tensor in header.values())
    training = recipe.training
    copies = 3 + 2 * (training.optimizer == "adamw")
    layers = re.compile(re.escape(architecture(base.entry.architecture).layers) + r"\.(\d+)\.")
    depth = 1 + max(int(found[1]) for name in header if (found := layers.match(name)))
    paths = [module.path for module in lora_modules(base, recipe.adapter.lora)]
    lowest = min(int(found[1]) for path in paths if (found := layers.match(path)))
    kept = 0 if training.lora_lr == 0 else depth - lowest
    rows = training.batch
    gathered = 0
    if recipe.privacy.unit != "none":
        rows = max(1, min(MICRO_ROWS, rows, MAX_GATHERED_BYTES // (4 * trainable)))
        gathered = 4 * trainable * rows
    values = rows * recipe.max_length * hidden_size(base)
    width = 2 if training.precision != "fp32" else 4
    layer = values * LAYER_BYTES * width // 2
    activations = kept * layer
    if training.checkpointing and kept:  # each layer's input, and one layer whole at a time
        activations = kept * values * width + layer
    return DRIVER_BYTES + weights + 4 * trainable * copies + activations + gathered
