"""Differential privacy for a loss: who is in a step, what one unit may add to its gradient, and the noise.

Rules (DP-SGD, Abadi et al. 2016, https://arxiv.org/abs/1607.00133)
-----
1. Every unit is in every step independently with probability ``rate``; the coins are exact, from a key of the
   operating system, never seeded. A step that nobody is in is a step of noise alone.
2. A unit's gradient is the sum over its rows: one for a record, for a patient at most ``max_records``, chosen
   anew where there are more. It is scaled down to an L2 norm of ``clip`` over all trainable tensors together.
   One that isn't finite counts as zero; nothing is refused for what one unit holds.
3. The sum is noised for ``clip`` and divided by the *expected* number of units, never by the number drawn.
4. Rows' gradients exist for one micro-batch at a time. How units fall into micro-batches changes nothing.
5. Where groups of tensors have scales, clip, sum and noise are all in scaled coordinates: a fixed linear map
   before the mechanism and its inverse behind it, which cost no privacy.
6. Sums are float64 and rounded to whole steps of a public grid, noise is whole steps: what leaves shows no
   gaps of floating point. Clip factors lie 1e-5 below what the norm allows, of which the grid takes 4e-6 and
   float32 the rest, so that rounding does not lengthen a unit's gradient beyond ``clip``.
7. A row's gradient is computed beside those of its micro-batch, and float32 makes it depend on them in the
   last bit: about 2**-23 of ``clip`` for each unit of a step. Nothing accounts for that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from plasmid.adapters.adapter import PEFT_PREFIX
from plasmid.core.errors import RunFailed
from plasmid.dp.noise import Source, gaussian
from plasmid.lora.samples import Block

Indices = npt.NDArray[np.int64]
Gathered = Mapping[nn.Parameter, Sequence[Block]]

ROUNDING = 1e-5
"""By how much a clip factor lies below the exact one, as a share of it."""

_GRID = 2.0**-18
"""By how much, in L2, rounding to the grid may lengthen a unit's gradient, as a share of ``clip``."""

PATIENCE = 2
"""Calls that could have moved a tensor, after which one without a gradient is a defect."""


@dataclass(frozen=True)
class UnitSampling:
    """What the node applies to a loss. It comes from the gateway, never from the computation.

    Attributes
    ----------
    unit
        Whose presence is hidden: one row's, or that of all rows of one patient.
    clip
        L2 bound of one unit's gradient over all trainable tensors, heads included.
    rate
        The probability with which a unit is in a step, (0, 1].
    expected
        The divisor: the expected number of units in a step, by the owner's public size.
    noise_multiplier
        Standard deviation of the noise in units of *clip*; 0 where it is added elsewhere.
    max_records
        At most so many rows of a patient count in one step.
    scale
        Public constants by group (``lora``, ``head``, ``covariates``), 1 where none is named: a unit's
        gradient is multiplied by them before the clip, the noised mean divided after it.
    """

    unit: Literal["record", "patient"]
    clip: float
    rate: float
    expected: float
    noise_multiplier: float
    max_records: int = 1
    scale: Mapping[str, float] = field(default_factory=dict)


def draw(units: Sequence[Indices] | Indices, sampling: UnitSampling, source: Source) -> list[Indices]:
    """Return the rows of each unit that is in a step, with coins from *source*.

    Parameters
    ----------
    units
        The row numbers of every unit: a list, or int64 [units, 1] where each is one row.
    """
    drawn = np.flatnonzero(source.coins(len(units), sampling.rate))
    return [_at_most(units[int(unit)], sampling.max_records, source) for unit in drawn]


def _at_most(rows: Indices, most: int, source: Source) -> Indices:
    return rows if len(rows) <= most else rows[source.order(len(rows))[:most]]


def grid_step(clip: float, size: int) -> float:
    """Return the step of the grid for *size* values: the largest power of two that _GRID allows."""
    return 2.0 ** math.floor(math.log2(clip * _GRID / math.sqrt(size)))


class ClippedSum:
    """The sum of clipped unit gradients.

    Parameters
    ----------
    parameters
        All trainable tensors.
    scales
        What the gradient of each is multiplied by before the clip, all positive.
    gather
        Runs the model on the rows it is given, forward and backward, and returns their gradients.
    micro_rows
        The most rows to give to it at a time, at least 1.

    Attributes
    ----------
    total
        float64 [elements of all parameters], scaled, in their order and layout.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        clip: float,
        *,
        scales: Sequence[float],
        micro_rows: int,
        gather: Callable[[Indices], Gathered],
    ) -> None:
        self._clip = clip
        self._scales = dict(zip(parameters, scales, strict=True))
        self._micro_rows = micro_rows
        self._gather = gather
        self._device = parameters[0].device
        sizes = [parameter.numel() for parameter in parameters]
        self.total = torch.zeros(sum(sizes), dtype=torch.float64, device=self._device)
        self._views = {
            parameter: view.view(parameter.shape)
            for parameter, view in zip(parameters, torch.split(self.total, sizes), strict=True)
        }

    def values(self) -> list[Tensor]:
        """Return the sum by parameter: views of :attr:`total`."""
        return list(self._views.values())

    def add(self, units: Sequence[Indices], lengths: npt.NDArray[np.int64]) -> None:
        """Add the clipped gradients of *units*, given by their rows; *lengths* holds every row's tokens."""
        for pack in packs(units, lengths, self._micro_rows):
            rows = np.concatenate(pack)
            if len(rows) == len(pack):
                self._clip_and_add(self._gather(rows), len(pack))
            else:
                self._clip_and_add(self._by_unit(pack, rows, lengths), len(pack))

    def _by_unit(self, pack: Sequence[Indices], rows: Indices, lengths: npt.NDArray[np.int64]) -> Gathered:
        """Return the gradients of units of several rows, summed over the rows of each."""
        owners = np.repeat(np.arange(len(pack)), [len(unit) for unit in pack])
        order = np.argsort(lengths[rows], kind="stable")
        sums: dict[nn.Parameter, Tensor] = {}
        for start in range(0, len(rows), self._micro_rows):
            piece = order[start : start + self._micro_rows]
            owner = torch.from_numpy(owners[piece]).to(self._device)
            for parameter, blocks in self._gather(rows[piece]).items():
                if parameter not in sums:
                    sums[parameter] = torch.zeros((len(pack), *parameter.shape), device=self._device)
                for block in blocks:
                    sums[parameter].index_add_(0, owner[block.rows], block.grads.float())
        every = torch.arange(len(pack), device=self._device)
        return {parameter: [Block(every, grads)] for parameter, grads in sums.items()}

    def _clip_and_add(self, gathered: Gathered, units: int) -> None:
        squares = torch.zeros(units, dtype=torch.float64, device=self._device)
        for parameter, blocks in gathered.items():
            for block in blocks:
                norms = torch.linalg.vector_norm(block.grads.flatten(1).float(), dim=1)
                norms *= self._scales[parameter]
                squares.index_add_(0, block.rows, norms.double().square())
        norms = squares.sqrt()
        finite = norms.isfinite()
        factors = (self._clip / norms * (1 - ROUNDING)).clamp(max=1.0).where(finite, 0.0).float()
        for parameter, blocks in gathered.items():
            for block in blocks:
                grads = block.grads.flatten(1).float()
                if not finite.all():
                    grads = grads.masked_fill(~finite[block.rows, None], 0.0)
                weights = factors[block.rows] * self._scales[parameter]
                self._views[parameter] += (weights @ grads).view(parameter.shape)

    def noised_mean(self, sampling: UnitSampling) -> list[Tensor]:
        """Return a step's gradient by parameter, float32: sum plus noise, by the expected number."""
        noised = self.total
        if sampling.noise_multiplier > 0:
            step = grid_step(sampling.clip, len(self.total))
            noise = gaussian(len(self.total), sampling.noise_multiplier * sampling.clip / step)
            whole = torch.from_numpy(noise.astype(np.float64)).to(self._device)
            noised = ((self.total / step).round() + whole) * step
        views = self._views.values()
        parts = torch.split(noised / sampling.expected, [view.numel() for view in views])
        return [
            (part / scale).float().view(view.shape)
            for part, scale, view in zip(parts, self._scales.values(), views, strict=True)
        ]


def packs(
    units: Sequence[Indices], lengths: npt.NDArray[np.int64], micro_rows: int
) -> Iterator[list[Indices]]:
    """Yield *units* in packs of at most *micro_rows* rows, one with more rows than that alone.

    Units of like length are together, which saves padding.
    """
    order = sorted(range(len(units)), key=lambda unit: (int(lengths[units[unit]].max()), unit))
    pack: list[Indices] = []
    size = 0
    for unit in order:
        if pack and size + len(units[unit]) > micro_rows:
            yield pack
            pack, size = [], 0
        pack.append(units[unit])
        size += len(units[unit])
    if pack:
        yield pack


class Health:
    """Finds trainable tensors that no gradient reaches, such as those of a layer that lost its hook.

    Whether a tensor *moves* says nothing, because noise moves all of them; so gradients are looked at before
    noise. One that must be zero is not counted: of A while B or the head is zero, of B while A or the head
    is, of covariate weights when every covariate in the step is missing, of anything in an empty step. A call
    counts only for what learns in it.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._calls = dict.fromkeys(names, 0)
        self._tried: set[str] = set()

    def note(
        self,
        learning: Mapping[str, nn.Parameter],
        gradients: Sequence[Tensor],
        covariates: Tensor,
        *,
        every: Mapping[str, nn.Parameter],
    ) -> None:
        """Look at a step of at least one row.

        Parameters
        ----------
        learning
            The tensors that learn in this call, by name, with the values that the gradients were taken at.
        gradients
            Before noise, in the same order.
        covariates
            The covariate slots of the step's rows.
        every
            All tensors of the adapter by name: a factor's gradient is zero while the other one is.
        """
        for name, gradient in zip(learning, gradients, strict=True):
            if name not in self._calls:
                continue
            if gradient.any():
                del self._calls[name]
                self._tried.discard(name)
            elif name not in self._tried and _could_move(name, every, covariates):
                self._tried.add(name)

    def end_call(self) -> None:
        """End a call of some steps.

        Raises
        ------
        RunFailed
            ``run.dead_tensor``: a tensor had no gradient in two calls.
        """
        for name in self._tried:
            self._calls[name] += 1
        self._tried.clear()
        dead = [name.removeprefix(PEFT_PREFIX) for name, calls in self._calls.items() if calls >= PATIENCE]
        if dead:
            raise RunFailed(
                "run.dead_tensor",
                f"no gradient reached {len(dead)} trainable tensors: {', '.join(dead[:5])}.",
                "The model's layers do not pass gradients on; report it with the base model's name.",
            )


def _could_move(name: str, trained: Mapping[str, nn.Parameter], covariates: Tensor) -> bool:
    if name == "head.covariates":
        return bool(covariates.any())
    for own, other in ((".lora_A.weight", ".lora_B.weight"), (".lora_B.weight", ".lora_A.weight")):
        if name.endswith(own):
            partner = trained[name.removesuffix(own) + other]
            return bool(partner.any() and trained["head.weight"].any())
    return True
