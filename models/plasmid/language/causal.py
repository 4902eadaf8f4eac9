"""A causal language model that goes on with a text, with one of many adapters, on one copy of its weights.

Rules
-----
1. The loop over tokens is ``generate`` of transformers, with its cache of keys and values. One text at a
   time: who comes while one is written waits for its lock.
2. An adapter's factors come with the call (:mod:`plasmid.lora.mixed`), so that no adapter is ever merged,
   switched or left behind.
3. Without a temperature the likeliest token is taken. With one, tokens are drawn from the softmax, or from
   its smallest part that holds ``top_p``; nothing else is applied. A seed gives the same text again, on the
   same number of threads.
4. A caller can end it before each pass: between two tokens, and between parts of :data:`CHUNK` tokens of a
   prompt. Nothing of a text is logged or kept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from plasmid.adapters.adapter import ALL_LINEAR, lora_modules
from plasmid.adapters.causal_adapter import read_causal
from plasmid.bases.specs import LoraSpec
from plasmid.bases.store import BaseModel
from plasmid.core.errors import ModelError
from plasmid.encoders.loading import load_causal
from plasmid.language.prompts import Prompts, Said
from plasmid.lora.mixed import Factors, Span, Spans, mix

Reason = Literal["stop", "length", "cancelled"]
COLDEST = 1e-3
CHUNK = 512
"""Tokens of a prompt in one pass."""
_EVERYWHERE = LoraSpec(rank=1, alpha=1.0, targets=[ALL_LINEAR])


@dataclass(frozen=True)
class CausalLoaded:
    """An adapter in memory, on the model's device: its factors by the path of their layer."""

    factors: Mapping[str, Factors]
    rank: int
    size_bytes: int


@dataclass(frozen=True)
class Sampling:
    """How a text goes on.

    Attributes
    ----------
    most
        Tokens at most.
    temperature
        What logits are divided by; below :data:`COLDEST` the likeliest token is taken.
    top_p
        The share of probability that is drawn from, above 0; 1 is all.
    stop
        Texts of which the first ends it; it is not told itself.
    seed
        None is a new one for each text.
    """

    most: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Written:
    """How a text ended: by itself or a stop text, by the number of tokens, or by its caller."""

    reason: Reason
    tokens: int


class CausalModel(nn.Module):
    """The causal model of *base*. Make one with :meth:`load`.

    Attributes
    ----------
    prompts
        Its tokenizer and chat template.
    longest
        Tokens of prompt and answer together.
    """

    def __init__(self, base: BaseModel, model: Any, *, gathered: bool) -> None:
        super().__init__()
        self.base = base
        self.prompts = Prompts(base)
        self.longest = int(model.config.max_position_embeddings)
        self._spans = Spans(gathered=gathered)
        mix(model, [module.path for module in lora_modules(base, _EVERYWHERE)], self._spans)
        self.model = model
        self._lock = threading.Lock()
        self._watch: _Watch | None = None
        self.eval()

    @classmethod
    def load(
        cls, base: BaseModel, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> CausalModel:
        """Return the model with its weights in *dtype* on *device*.

        Raises
        ------
        ModelError
            As :func:`plasmid.encoders.loading.load_causal` and :class:`plasmid.language.prompts.Prompts`.
        """
        model = load_causal(base, dtype=dtype).to(device)
        return cls(base, model, gathered=torch.device(device).type != "cpu")

    @property
    def silent_s(self) -> float | None:
        """Seconds since the last pass for the text that is being written began; None: none is."""
        watch = self._watch
        return None if watch is None or watch.since is None else time.monotonic() - watch.since

    def read(self, folder: Path) -> CausalLoaded:
        """Return the adapter in *folder* in memory.

        Raises
        ------
        ModelError
            As :func:`plasmid.adapters.causal_adapter.read_causal`.
        """
        adapter = read_causal(folder, self.base)
        scale = adapter.config.scale
        like = next(self.model.parameters())
        factors = {
            path: Factors(
                (torch.from_numpy(down) * scale).to(like),
                torch.from_numpy(up).T.to(like).contiguous(),
            )
            for path, (down, up) in adapter.factors.items()
        }
        size = sum(one.down.nbytes + one.up.nbytes for one in factors.values())
        return CausalLoaded(factors, adapter.config.rank, size)

    def write(
        self,
        prompt: Sequence[int],
        adapter: CausalLoaded | None,
        sampling: Sampling,
        *,
        tell: Callable[[str], None] = lambda _: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Written:
        """Go on with *prompt*, and return how it ended. Waits for a text that is being written.

        Parameters
        ----------
        prompt
            Tokens, at least one; with ``sampling.most`` they are at most :attr:`longest`.
        adapter
            None is the base alone.
        tell
            Called with each piece of the text, none of them empty, as soon as it is whole.
        cancelled
            Asked before each pass.

        Raises
        ------
        ModelError
            ``model.too_long``: prompt and answer together would be longer than :attr:`longest`.
        """
        if not prompt or len(prompt) + sampling.most > self.longest:
            raise ModelError(
                "model.too_long",
                f"{len(prompt)} tokens and {sampling.most} more are not from 1 to {self.longest}.",
                "Shorten the prompt, or ask for fewer tokens.",
            )
        watch = _Watch(self.prompts.says(sampling.stop), self.prompts.ends, tell, cancelled)
        with self._lock:
            watch.since = time.monotonic()
            self._watch = watch
            try:
                self._generate(list(prompt), adapter, sampling, watch)
            except _Left:
                return watch.ended("cancelled")
            finally:
                self._watch = None
        return watch.ended("length")

    @torch.inference_mode()
    def _generate(
        self, prompt: list[int], adapter: CausalLoaded | None, sampling: Sampling, watch: _Watch
    ) -> None:
        from transformers import GenerationConfig, StoppingCriteriaList

        settings: Any = GenerationConfig
        draws = sampling.temperature >= COLDEST
        chosen = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if draws else {}
        config = settings(
            max_new_tokens=sampling.most,
            do_sample=draws,
            eos_token_id=sorted(self.prompts.ends),
            pad_token_id=min(self.prompts.ends),
            use_cache=True,
            prefill_chunk_size=CHUNK,
            **chosen,
        )
        device = next(self.model.parameters()).device
        ids = torch.tensor([prompt], device=device)
        spans = [] if adapter is None else [Span(adapter.factors, 0, 1)]
        devices = [] if device.type == "cpu" else [device]
        with (
            self.model.register_forward_pre_hook(watch.on_pass),
            torch.random.fork_rng(devices),
            self._spans.of(1, spans),
        ):
            if sampling.seed is None:
                torch.seed()
            else:
                torch.manual_seed(sampling.seed)
            self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([watch]),
            )


class _Left(Exception):
    """The caller has gone."""


class _Watch:
    """Sees each token as it comes, tells its text, and says when it is enough: a "stopping criterion"."""

    def __init__(
        self, said: Said, ends: frozenset[int], tell: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> None:
        self._said, self._ends, self._tell, self._cancelled = said, ends, tell, cancelled
        self._ended = False
        self._tokens = 0
        self.since: float | None = None

    def __call__(self, ids: Tensor, _scores: Any, **_: Any) -> Tensor:
        """Return whether it is enough, bool [1], after the last of *ids* [1, tokens]."""
        if not self._ended:
            self._take(int(ids[0, -1]))
        return torch.full((len(ids),), self._ended, device=ids.device)

    def _take(self, token: int) -> None:
        self._tokens += 1
        if token not in self._ends:
            self._told(self._said.add(token))
        self._ended = token in self._ends or self._said.stopped

    def on_pass(self, *_: Any) -> None:
        """Note that the model is at work. Raises _Left: the caller has gone."""
        self.since = time.monotonic()
        if self._cancelled():
            raise _Left

    def ended(self, otherwise: Reason) -> Written:
        """Tell what was kept back, and return how the text ended; *otherwise*: not by itself."""
        if otherwise != "cancelled":
            self._told(self._said.end())
        return Written("stop" if self._ended or self._said.stopped else otherwise, self._tokens)

    def _told(self, text: str) -> None:
        if text:
            self._tell(text)
