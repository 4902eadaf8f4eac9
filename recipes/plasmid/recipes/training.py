"""What a site does in a round: steps, rates, and how both follow from the round.

Rules
-----
1. Everything is a function of the recipe and the number of the round alone, which the manifest says: a site
   computes it itself, and nothing new is trusted.
2. A schedule multiplies all learning rates by one factor from 0 to 1. It counts in rounds, since every round
   begins with a fresh optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from plasmid.bases.specs import Strict
from plasmid.recipes.protection import Location

Rate = Annotated[float, Field(gt=0, le=10)]
Steps = Annotated[int, Field(ge=1, le=100_000)]


class Schedule(Strict):
    """A factor of all learning rates, by round.

    Over the first ``warmup_rounds`` w it rises in equal steps, 1/(w+1) in round 1. From round w + 1 on, where
    it is 1, it stays (``constant``), or falls along a line or half a cosine (Loshchilov and Hutter 2017,
    arXiv 1608.03983) to ``final``, which a round after the last one would have: no round is without effect.
    """

    kind: Literal["constant", "linear", "cosine"]
    warmup_rounds: Annotated[int, Field(ge=0, le=100_000)] = 0
    final: Annotated[float, Field(ge=0, le=1)] = 0.0

    def factor(self, round_: int, rounds: int) -> float:
        """Return the factor of *round_*, from 1, of *rounds*."""
        if round_ <= self.warmup_rounds:
            return round_ / (self.warmup_rounds + 1)
        if self.kind == "constant":
            return 1.0
        gone = (round_ - self.warmup_rounds - 1) / (rounds - self.warmup_rounds)
        left = 1.0 - gone if self.kind == "linear" else (1.0 + math.cos(math.pi * gone)) / 2.0
        return self.final + (1.0 - self.final) * left


class Training(Strict):
    """One round at one site: ``steps`` optimiser steps on ``batch`` rows each, a fresh optimiser each round.

    Rates are those of three parameter groups: LoRA factors, head, covariate weights; where the base's own
    head answers, the first alone means something. A ``lora_lr`` of 0 freezes the factors as they start, which
    leaves the encoder as it is and costs no noise. Under much noise ``sgd`` is the better ``optimizer``: a
    fresh AdamW moves every value by about its rate, whatever the signal. Under a privacy unit ``batch`` is
    the expected number of units in a Poisson sample.
    ``checkpointing`` keeps no activations inside the encoder's layers: less memory, one more forward pass.
    ``proximal`` is FedProx's mu (Li et al. 2020, arXiv 1812.06127): mu / 2 times the squared distance to the
    round's first state is added to the loss, which keeps sites of different data together.
    ``lora_b_ratio`` is LoRA+'s lambda (Hayou, Ghosh and Yu 2024, arXiv 2402.12354): B's rate is so many times
    ``lora_lr``, which is A's. ``first_steps`` takes the place of ``steps`` in the first rounds, one by one.
    ``personal_steps`` are what each site trains the last adapter on its own rows, after the run and for
    itself; rates follow the schedule anew.
    """

    steps: Steps
    first_steps: Annotated[tuple[Steps, ...], Field(strict=False, max_length=1000)] = ()
    batch: Annotated[int, Field(ge=1, le=65_536)]
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    checkpointing: bool = False
    lora_lr: Annotated[float, Field(ge=0, le=10)]
    lora_b_ratio: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0
    head_lr: Rate = 1e-2
    covariate_lr: Rate = 1e-2
    schedule: Schedule | None = None
    proximal: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    personal_steps: Annotated[int, Field(ge=0, le=100_000)] = 0

    def steps_in(self, round_: int) -> int:
        """Return the steps of *round_*, from 1."""
        return self.first_steps[round_ - 1] if round_ <= len(self.first_steps) else self.steps

    @property
    def most_steps(self) -> int:
        """The most steps of a round."""
        return max([self.steps, *self.first_steps])

    def factor(self, round_: int, rounds: int) -> float:
        """Return what all rates are multiplied by in *round_*, from 1, of *rounds*."""
        return 1.0 if self.schedule is None else self.schedule.factor(round_, rounds)

    def pace(self, rounds: int, times: int = 1) -> list[float]:
        """Return the factor of each step of all *rounds* one after another, each step *times* times."""
        return [
            self.factor(round_, rounds)
            for round_ in range(1, rounds + 1)
            for _ in range(times * self.steps_in(round_))
        ]

    def anew(self, steps: int) -> list[float]:
        """Return the factor of each of *steps* by itself: of the schedule, a step a round, without warmup."""
        if self.schedule is None:
            return [1.0] * steps
        schedule = self.schedule.model_copy(update={"warmup_rounds": 0})
        return [schedule.factor(step, steps) for step in range(1, steps + 1)]


def training_contradictions(sections: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """Yield ``(path, what)`` for each thing in ``training`` that another of the *sections* does not allow."""
    training, federation, privacy = (sections.get(name) for name in ("training", "federation", "privacy"))
    if training is None:
        return
    if privacy and privacy.mechanism == "dp-fedsgd" and training.steps != 1:
        yield ("training", "steps"), f"dp-fedsgd releases one step a round, not {training.steps}; use dp-sgd"
    if privacy and privacy.unit != "none" and training.first_steps:
        what = "under a privacy unit every attempt at a round is charged alike: leave it out"
        yield ("training", "first_steps"), what
    if training.proximal and training.most_steps == 1:
        what = "means nothing with one step a round, which starts where it is measured"
        yield ("training", "proximal"), what
    if training.lora_b_ratio != 1 and training.lora_lr == 0:
        yield ("training", "lora_b_ratio"), "means nothing with lora_lr: 0, which freezes B as well"
    if federation and training.schedule and training.schedule.warmup_rounds >= federation.rounds:
        what = f"all {federation.rounds} rounds would warm up; lower it, or raise federation.rounds"
        yield ("training", "schedule", "warmup_rounds"), what
    if federation and len(training.first_steps) > federation.rounds:
        what = f"{len(training.first_steps)} rounds are listed, and federation.rounds is {federation.rounds}"
        yield ("training", "first_steps"), what
