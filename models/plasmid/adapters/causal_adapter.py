"""LoRA adapters of causal models as stock PEFT and 'task.kind: causal' write them: one way to read both.

    adapter_config.json         LORA, CAUSAL_LM; the base by its name on the hub, and its revision
    adapter_model.safetensors   LoRA factors of linear layers, and nothing else

Rules
-----
1. Weights are safetensors. A folder with code, a pickle's name or a chat template is refused, whatever else
   is in it, and so is a setting that makes a library import something.
2. ``base_model_name_or_path`` is ``plasmid/ID`` and ``revision`` the base's own: that pins its digest, which
   the store compares with every byte of the base. A path, or no revision, pins nothing and is refused.
3. Every setting but those in :data:`_FREE` must be off: what this does not compute is not served as if it
   were (DoRA, biases, ranks by pattern, trained embeddings; starts that change the base's own weights).
4. Every factor is for a linear layer of the base, has its shape, and is finite; factors come in pairs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plasmid.adapters.adapter import ALL_LINEAR, PEFT_PREFIX, LoraModule, Vector, lora_modules
from plasmid.adapters.files import hub_name
from plasmid.bases.specs import LoraSpec, lora_scale
from plasmid.bases.store import BaseModel
from plasmid.bases.tensors import read_floats
from plasmid.core.bounds import parse_json
from plasmid.core.errors import ModelError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_CONFIG_BYTES = 2**20
MAX_WEIGHTS_BYTES = 4 * 2**30
MAX_RANK = 1024
_FREE = frozenset(
    {
        *("peft_type", "task_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
        *(
            "r",
            "lora_alpha",
            "use_rslora",
            "lora_dropout",
            "target_modules",
            "exclude_modules",
            "layers_to_transform",
        ),
        *("layers_pattern", "bias", "init_lora_weights", "megatron_core", "qalora_group_size"),
    }
)
"""Settings that are looked at here, do not change the arithmetic, or belong to another that must be off."""
_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Ways to start that leave the base's weights as they are."""
_REFUSED = re.compile(r".*\.(py|bin|pt|pth|pkl|pickle|ckpt|npz|gguf|jinja)|chat_template\..*", re.IGNORECASE)
_EVERYWHERE = LoraSpec(rank=1, alpha=1.0, targets=[ALL_LINEAR])


@dataclass(frozen=True)
class CausalConfig:
    """What ``adapter_config.json`` says.

    Attributes
    ----------
    base
        The base model's id.
    revision
        Of the base.
    """

    base: str
    revision: str
    rank: int
    alpha: float
    rslora: bool = False

    @property
    def scale(self) -> float:
        """What the product B A is multiplied by."""
        return lora_scale(self.alpha, self.rank, rslora=self.rslora)


@dataclass(frozen=True)
class CausalAdapter:
    """An adapter on its base.

    Attributes
    ----------
    factors
        float32 A [rank, in] and B [out, rank], by the path of their layer.
    """

    config: CausalConfig
    factors: Mapping[str, tuple[Vector, Vector]]


def is_causal(folder: Path) -> bool:
    """Return whether *folder* holds an adapter of a causal model: one of Plasmid's, or PEFT's own.

    Raises
    ------
    ModelError
        ``model.adapter_invalid``: its settings are no JSON.
    """
    if not (folder / CONFIG).is_file():
        return False
    return not (folder / "head.json").is_file() or _json(folder).get("task_type") == "CAUSAL_LM"


def read_causal_config(folder: Path) -> CausalConfig:
    """Return the settings of the adapter in *folder*, without reading a tensor.

    Raises
    ------
    ModelError
        ``model.adapter_missing``; ``model.adapter_invalid``: it is another kind, needs what is not computed
        here, or the folder holds what an adapter has no use for; ``model.base_unpinned``: it does not say
        which base, in which revision, it was made for.
    """
    if not (folder / CONFIG).is_file():
        raise ModelError(
            "model.adapter_missing", f"{folder} holds no {CONFIG}.", "Give the folder that PEFT has saved."
        )
    strange = sorted(path.name for path in folder.rglob("*") if _REFUSED.fullmatch(path.name))
    if strange:
        raise _invalid(folder, f"it holds {', '.join(strange[:5])}; safetensors and JSON are enough")
    said = _json(folder)
    kind, task = said.get("peft_type"), said.get("task_type")
    if (kind, task) != ("LORA", "CAUSAL_LM"):
        raise _invalid(folder, f"it is {kind!r} for {task!r}, not 'LORA' for 'CAUSAL_LM'")
    on = sorted(str(key)[:60] for key, value in said.items() if key not in _FREE and value)
    if said.get("bias", "none") != "none":
        on.append("bias")
    if said.get("init_lora_weights", True) not in _STARTS:
        on.append("init_lora_weights")
    if on:
        raise _invalid(folder, f"{CONFIG} sets {', '.join(on[:5])}, which is not computed here")
    rank, alpha = said.get("r"), said.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MAX_RANK:
        raise _invalid(folder, f"its rank is none from 1 to {MAX_RANK}")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha <= 65536:
        raise _invalid(folder, "its lora_alpha is no number from 0 to 65536")
    name, revision = said.get("base_model_name_or_path"), said.get("revision")
    owner, _, base = name.partition("/") if isinstance(name, str) else ("", "", "")
    if hub_name(base) != f"{owner}/{base}" or not base or not isinstance(revision, str):
        raise ModelError(
            "model.base_unpinned",
            f"{CONFIG} in {folder} does not say for which base model, in which revision, it was made.",
            f'If you know: set "base_model_name_or_path" to "{hub_name("ID")}" and "revision" to what '
            "'plasmid models show ID' says.",
        )
    rslora = said.get("use_rslora", False)
    if not isinstance(rslora, bool):
        raise _invalid(folder, "its use_rslora is neither true nor false")
    return CausalConfig(base, revision, rank, float(alpha), rslora)


def check_base(config: CausalConfig, base: BaseModel) -> None:
    """Raise ModelError ``model.base_differs`` unless an adapter with *config* was made for *base*."""
    if (config.base, config.revision) != (base.id, base.revision):
        raise ModelError(
            "model.base_differs",
            f"the adapter was made for {config.base} {config.revision}, "
            f"the base model here is {base.id} {base.revision} with digest {base.digest}.",
            "Serve it on the base that it was made for.",
        )


def read_causal(folder: Path, base: BaseModel) -> CausalAdapter:
    """Return the adapter in *folder* on *base*.

    Raises
    ------
    ModelError
        As :func:`read_causal_config` and :func:`check_base`, before a tensor is read; then
        ``model.adapter_invalid``, ``model.tensors_invalid``, or ``model.adapter_mismatch``: a factor is not
        one of a linear layer of *base*.
    """
    config = read_causal_config(folder)
    check_base(config, base)
    path = folder / WEIGHTS
    if not path.is_file() or path.stat().st_size > MAX_WEIGHTS_BYTES:
        raise _invalid(folder, f"{WEIGHTS} is missing, or longer than {MAX_WEIGHTS_BYTES} bytes")
    tensors = read_floats(path)
    factors = {}
    for module in lora_modules(base, _EVERYWHERE):
        name = f"{PEFT_PREFIX}{module.path}"
        down, up = (tensors.pop(f"{name}.lora_{side}.weight", None) for side in ("A", "B"))
        if down is not None or up is not None:
            factors[module.path] = _checked(module, config.rank, down, up)
    if tensors or not factors:
        raise ModelError(
            "model.adapter_mismatch",
            f"of the adapter's tensors {len(tensors)} are no LoRA factors of linear layers of {base.id}, "
            f"{2 * len(factors)} are.",
            "It was made for another architecture, or trains more than linear layers.",
        )
    return CausalAdapter(config, factors)


def _checked(module: LoraModule, rank: int, down: Vector | None, up: Vector | None) -> tuple[Vector, Vector]:
    shapes = [None if one is None else one.shape for one in (down, up)]
    whole = shapes == [(rank, module.inputs), (module.outputs, rank)]
    if down is None or up is None or not whole:
        raise ModelError(
            "model.adapter_mismatch",
            f"the factors at {module.path} have the shapes {shapes[0]} and {shapes[1]}, not "
            f"{(rank, module.inputs)} and {(module.outputs, rank)}.",
            "It was made for another architecture, or is incomplete.",
        )
    if not (np.isfinite(down).all() and np.isfinite(up).all()):
        raise ModelError(
            "model.adapter_mismatch",
            f"the factors at {module.path} hold numbers that are not finite.",
            "Fetch the adapter again from its source.",
        )
    return down, up


def _json(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise _invalid(folder, f"{CONFIG} is longer than {MAX_CONFIG_BYTES} bytes")
    text = path.read_bytes()
    try:
        said = parse_json(text)
    except ValueError as error:
        raise _invalid(folder, f"{CONFIG} is not JSON") from error
    if not isinstance(said, dict):
        raise _invalid(folder, f"{CONFIG} is not a JSON object")
    return said


def _invalid(folder: Path, what: str) -> ModelError:
    return ModelError(
        "model.adapter_invalid",
        f"the adapter in {folder} cannot be used: {what}.",
        "Use a plain LoRA adapter of linear layers, as PEFT saves it.",
    )
