"""``dp_step``: one private training step beside a plain one of PEFT's, and beside Opacus.

Rules
-----
1. Batch 32 of 128 tokens, LoRA of rank 8 plus a head, fp32, one thread, random weights of two sizes.
2. CPU seconds of the process; the variants take turns, and medians are compared. One warm-up each.
3. A private step clips, draws its noise from the operating system's ChaCha20 and runs the optimiser.
"""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from bench.harness import Result
from bench.ours import dp_step
from bench.peers.peft_step import peers
from plasmid.bases.store import BaseModel
from plasmid.encoders.encoder import AdaptedModel

_REPEATS = 4
_TARGETS = {"q,v": ["query", "value"], "all linear": ["all-linear"]}
_GOALS = {
    "q,v": {"peft": 1.05, "plain": 1.05},
    "all linear": {"peft": 1.0, "plain": 1.05, "hooks": 1.15, "ghost": 1.6},
}
_WORDS = {
    "peft": "share of a plain step of PEFT",
    "plain": "share of our plain step",
    "hooks": "times less than Opacus' hooks",
    "ghost": "times less than Opacus' ghost clipping",
}


def main() -> list[Result]:
    """Measure two models and two sets of targets."""
    torch.set_num_threads(1)
    results = []
    before = os.environ.get("PLASMID_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PLASMID_HOME"] = folder
        try:
            for name, base in dp_step.bases(Path(folder) / "sources").items():
                for targets in _TARGETS:
                    results += _compare(f"{name}, {targets}", base, targets)
        finally:
            if before is None:
                del os.environ["PLASMID_HOME"]
            else:
                os.environ["PLASMID_HOME"] = before
    return results


def _compare(title: str, base: BaseModel, targets: str) -> list[Result]:
    document = dp_step.recipe(base, _TARGETS[targets])
    model = AdaptedModel.load(base, document.adapter.lora, document.head())
    columns = dp_step.table().columns
    rows = model.encode(columns, input_column="sequence", max_length=dp_step.TOKENS, label_column="label")
    goals = _GOALS[targets]
    steps = dp_step.ours(document, base) | peers(
        base,
        document.adapter.lora,
        document.head(),
        rows.batch(range(len(rows))),
        rate=dp_step.RATE,
        clip=dp_step.CLIP,
        noise=dp_step.NOISE,
    )
    seconds: dict[str, list[float]] = {name: [] for name in steps if name == "private" or name in goals}
    for repeat in range(_REPEATS + 1):
        for name, found in seconds.items():
            gc.collect()
            started = time.process_time()
            steps[name]()
            if repeat:
                found.append(time.process_time() - started)
    median = {name: statistics.median(found) for name, found in seconds.items()}
    return [
        (Result.share if name in ("peft", "plain") else Result.times_better)(
            f"{title}: {_WORDS[name]}", ours=median["private"], peer=median[name], unit="s", goal=goal
        )
        for name, goal in goals.items()
    ]
