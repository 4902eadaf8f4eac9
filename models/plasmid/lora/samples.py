"""The gradients of single rows of a batch, gathered during one backward pass.

Rules
-----
1. A gradient is gathered per *row*: the first dimension of what a module is given. A row's loss may depend
   on that row alone (no batch statistics), which holds for transformers in eval mode.
2. A model may run a batch in parts (:meth:`Samples.part`); each part's rows are remembered when its forward
   pass runs, so that re-computation under activation checkpointing changes nothing.
3. A tensor that is used several times for the same rows gets the sum, as a gradient must.
4. LoRA layers hand their gradients in themselves (:mod:`plasmid.lora.layer`); any other module with trainable
   tensors of its own is watched by a hook, and Opacus' function for its type does the arithmetic (or
   ``functorch`` through Opacus, where it has none).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from plasmid.core.errors import ModelError


@dataclass(frozen=True)
class Block:
    """Gradients of one tensor for some rows of the batch.

    Attributes
    ----------
    rows
        Which rows, int64 [k].
    grads
        [k, *shape of the tensor].
    """

    rows: Tensor
    grads: Tensor


@dataclass
class Samples:
    """Where the layers of one model put the gradients of single rows.

    Attributes
    ----------
    on
        Whether anything is gathered; off, layers give summed gradients to autograd as usual.
    """

    on: bool = False
    _rows: Tensor | None = None
    _found: dict[nn.Parameter, list[Block]] = field(default_factory=dict)

    @contextmanager
    def part(self, rows: Tensor) -> Iterator[None]:
        """Say that the forward passes inside are of those *rows*, int64 [k], of the batch."""
        before, self._rows = self._rows, rows
        try:
            yield
        finally:
            self._rows = before

    def rows(self, count: int) -> Tensor | None:
        """Return which rows of the batch a module is looking at, int64 [count].

        None outside any part: a forward pass is run again to restore what checkpointing did not keep, and
        the backward pass uses the rows of the first time.

        Parameters
        ----------
        count
            The first dimension of what it was given.

        Raises
        ------
        ModelError
            ``model.rows_mixed``: that isn't the number of rows.
        """
        if self._rows is not None and len(self._rows) != count:
            raise ModelError(
                "model.rows_mixed",
                f"a layer was given {count} rows where the batch has {len(self._rows)}.",
                "This architecture mixes rows before the layer, so there is no gradient of one row.",
            )
        return self._rows

    def add(self, parameter: nn.Parameter, rows: Tensor | None, grads: Tensor) -> None:
        """Take the gradients [k, ...] of *parameter* for *rows*, as :meth:`rows` returned them."""
        assert rows is not None, "gradients of a forward pass outside Samples.part"
        blocks = self._found.setdefault(parameter, [])
        for place, block in enumerate(blocks):
            if block.rows is rows:
                blocks[place] = Block(rows, block.grads + grads)
                return
        blocks.append(Block(rows, grads))

    def take(self) -> dict[nn.Parameter, list[Block]]:
        """Return what was gathered since the last call. A row is in one block of a tensor at most."""
        found, self._found = self._found, {}
        return found


def watch(model: nn.Module, samples: Samples, *, skip: type[nn.Module]) -> None:
    """Gather the gradients of every trainable tensor of *model* but those of modules of type *skip*."""
    for module in model.modules():
        if not isinstance(module, skip) and next(_own(module), None) is not None:
            module.register_forward_hook(_hook(samples))


def _own(module: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad)


def _hook(samples: Samples) -> Any:
    def watch_output(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not samples.on or not output.requires_grad or next(_own(module), None) is None:
            return
        rows = samples.rows(len(output))
        activations = [value.detach() for value in inputs]

        def gather(grad: Tensor) -> None:
            samples.on = False  # functorch runs a copy of the module, this hook included
            for parameter, grads in _sampler(module)(module, activations, grad).items():
                if parameter.requires_grad:
                    samples.add(parameter, rows, grads.detach())
            samples.on = True

        output.register_hook(gather)  # type: ignore[no-untyped-call]

    return watch_output


def _sampler(module: nn.Module) -> Any:
    # Opacus takes half a second to import; only private training needs it.
    from opacus.grad_sample import GradSampleModule
    from opacus.grad_sample.functorch import ft_compute_per_sample_gradient

    return GradSampleModule.GRAD_SAMPLERS.get(type(module), ft_compute_per_sample_gradient)
