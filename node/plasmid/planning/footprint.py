"""Memory of a training step on a GPU or a CPU, from a model: nothing is loaded, and no device is asked.

Rules
-----
1. The parts: the base model's weights; the trainable values with gradient, optimiser and the copy that
   FedProx pulls to; what a backward pass keeps of each layer from the lowest adapted one up; under a privacy
   unit the rows' own gradients; and what process, driver and libraries take before the first tensor.
2. What a transformer layer keeps is that of Korthikanti et al. 2022 ("Reducing Activation Recomputation in
   Large Transformer Models", arXiv 2205.05198, section 4.1): 34 bytes for each token and hidden value in 16
   bits, where mixed precision keeps some in 32 beside; in 32 bits twice that, less the masks of dropout, of
   which there is none, and less what enters the feed-forward layers where no factor needs it. Attention is
   fused on a GPU (:func:`plasmid.encoders.encoder.attention_on`), so that its matrix of scores is not kept;
   on a CPU it is, 5 bytes for each score. In 16 bits each layer also keeps a copy of its weights in them; of
   packed weights (:mod:`plasmid.lora.packed`) none is kept, and the largest layer's exist unpacked.
3. A head that answers with a token keeps a row of logits for each of its targets, three times over: as
   computed, their softmax, and the gradient.
4. Every row of the batch is taken to be as long as the recipe lets it be. What is kept of the table (the
   activations below the lowest adapted layer, covariates) depends on rows that are not known here: a probe
   has it.
5. Precision is as on the device: of ``auto``, 16 bits on a GPU and 32 on a CPU, which may have them and then
   takes less.
"""

from __future__ import annotations

import math
import re
from math import prod

from plasmid.adapters.adapter import hidden_size, lora_modules, packed_layers
from plasmid.bases.architectures import architecture
from plasmid.bases.specs import Quantization
from plasmid.bases.store import BaseModel
from plasmid.lora.nf4 import packed_bytes
from plasmid.recipes.schema import Recipe
from plasmid.tasks.causal import CausalHead
from plasmid.tasks.masked_lm import CHOSEN, MaskedHead

DRIVER_BYTES = 600 * 2**20
"""Context and libraries of CUDA."""
PROCESS_BYTES = 530 * 2**20
"""A worker's process with torch and transformers in it, before it has a model: measured, CPU wheels."""
LAYER_BYTES = {2: 34, 4: 64}
FROZEN_FEED_FORWARD_BYTES = {2: 0, 4: 20}
SCORE_BYTES = 5
MICRO_ROWS, MAX_GATHERED_BYTES = 64, 512 * 2**20
"""As :mod:`plasmid.worker.engine` gathers rows' gradients; a test compares."""


def gpu_bytes(recipe: Recipe, base: BaseModel, trainable: int) -> int:
    """Return the peak memory of a step of *recipe* with *trainable* values on a GPU."""
    width = 2 if recipe.training.precision != "fp32" else 4
    return DRIVER_BYTES + _step(recipe, base, trainable, width=width, fused=True)


def cpu_bytes(recipe: Recipe, base: BaseModel, trainable: int) -> int:
    """Return the peak resident memory of a worker of *recipe* with *trainable* values on a CPU."""
    width = 2 if recipe.training.precision == "bf16" else 4
    return PROCESS_BYTES + _step(recipe, base, trainable, width=width, fused=False)


def weight_bytes(base: BaseModel, quantization: Quantization) -> int:
    """Return what the base model's weights take in memory: float32, but for those that are packed."""
    packed = _packed(base, quantization).values()
    whole = sum(prod(tensor.shape) for tensor in base.header.values()) - sum(map(prod, packed))
    return 4 * whole + sum(map(packed_bytes, packed))


def _packed(base: BaseModel, quantization: Quantization) -> dict[str, tuple[int, int]]:
    """Return the shapes of the weights that are packed, by name."""
    layers = packed_layers(base) if quantization == "nf4" else ()
    return {f"{layer.path}.weight": (layer.outputs, layer.inputs) for layer in layers}


def _step(recipe: Recipe, base: BaseModel, trainable: int, *, width: int, fused: bool) -> int:
    training = recipe.training
    copies = 3 + 2 * (training.optimizer == "adamw")
    known = architecture(base.entry.architecture)
    layers = re.compile(re.escape(known.layers) + r"\.(\d+)\.")
    depth = 1 + max(int(found[1]) for name in base.header if (found := layers.match(name)))
    modules = lora_modules(base, recipe.adapter.lora)
    lowest = min(int(found[1]) for module in modules if (found := layers.match(module.path)))
    kept = 0 if training.lora_lr == 0 else depth - lowest
    rows = training.batch
    gathered = 0
    if recipe.privacy.unit != "none":
        rows = max(1, min(MICRO_ROWS, rows, MAX_GATHERED_BYTES // (4 * trainable)))
        gathered = 4 * trainable * rows
    longest, targets = _lengths(recipe)
    values = rows * longest * hidden_size(base)
    layer = values * LAYER_BYTES[width]
    if all(module.inputs == module.outputs for module in modules):
        layer -= values * FROZEN_FEED_FORWARD_BYTES[width]
    packed = _packed(base, recipe.model.quantization)
    # Unpacked: what is looked up by, float32, and that in 16 bits.
    unpacked = (6 + 2 * (width == 2)) * max(map(prod, packed.values()), default=0)
    if width == 2:
        kept_whole = (name for name in base.header if layers.match(name) and name not in packed)
        layer += 2 * sum(prod(base.header[name].shape) for name in kept_whole) // depth
    if not fused:
        heads = int(base.config.get("num_attention_heads", 1))
        layer += rows * longest**2 * heads * SCORE_BYTES * width // 2
    activations = kept * layer
    if training.checkpointing and kept:  # each layer's input, and one layer whole at a time
        activations = kept * values * width + layer
    logits = 0
    if known.head != "none":
        logits = 3 * 4 * rows * targets * base.header[f"{known.words}.weight"].shape[0]
    weights = weight_bytes(base, recipe.model.quantization) + unpacked
    return weights + 4 * trainable * copies + activations + gathered + logits


def _lengths(recipe: Recipe) -> tuple[int, int]:
    """Return how many tokens a row has at most, and how many of them the base's own head answers at."""
    head = recipe.head()
    if isinstance(head, CausalHead):
        return recipe.max_length + head.most, head.most
    if isinstance(head, MaskedHead):
        return recipe.max_length, math.ceil(CHOSEN * recipe.max_length)
    return recipe.max_length, 0
