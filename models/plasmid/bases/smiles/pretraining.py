"""Makes the weights of ``plasmid-smiles``: a small ModernBERT, from nothing, on public molecules.

    pip install 'plasmid[molecules]'
    pip install --no-deps molsets==0.3.1
    OMP_NUM_THREADS=1 python -m plasmid.bases.smiles.pretraining FOLDER      # half an hour of one core

Rules
-----
1. Two things are learned at once, by rows: to guess masked tokens (Devlin et al. 2019), and to tell RDKit's
   descriptors and circular fragments of whole molecules from the mean over the tokens, which is what a head
   reads later (MolBERT, Fabian et al. 2020; ChemBERTa-2, Ahmad et al. 2022).
2. Descriptors are in units of the first block's deviations, cut at 5; fragments are yes or no.
3. The same command gives the same weights on one machine; on another processor the last digits differ, and
   the digest with them. What ships is what this command made once.
4. The folder is in the Hugging Face layout: the bare encoder alone, float16.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from plasmid.bases.smiles import corpus
from plasmid.bases.smiles.corpus import BITS, Described
from plasmid.bases.smiles.vocabulary import FIRST, LAST, MASK, PAD, VOCABULARY, tokenizer_files

MAX_TOKENS = 512
MASKED = 0.15
FARTHEST = 5.0
BLOCK = 4096
RATE, WARMUP, DECAY, BATCH = 1.5e-3, 100, 0.01, 64
WEIGHTS = (1.0, 2.0, 10.0)
"""Of the masked tokens, the descriptors and the fragments, so that each is about one at first."""


@dataclass(frozen=True)
class Batch:
    """Rows of about one length: token ids [n, t], descriptors [n, d] and fragments [n, 1024] as float32."""

    ids: torch.Tensor
    values: torch.Tensor
    fragments: torch.Tensor


class Pretrained(nn.Module):
    """The encoder with what it loses when it is done: its head for masked tokens and that for molecules."""

    def __init__(self, hidden: int = 192, layers: int = 3, descriptors: int = 79) -> None:
        from transformers import ModernBertConfig, ModernBertForMaskedLM

        super().__init__()
        settings: dict[str, Any] = {
            "vocab_size": len(VOCABULARY),
            "hidden_size": hidden,
            "intermediate_size": hidden * 3 // 2,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 32,
            "global_attn_every_n_layers": 1,
            "max_position_embeddings": MAX_TOKENS,
            "pad_token_id": PAD,
            "bos_token_id": FIRST,
            "cls_token_id": FIRST,
            "eos_token_id": LAST,
            "sep_token_id": LAST,
        }
        self.model = ModernBertForMaskedLM(ModernBertConfig(**settings))
        self.told = nn.Linear(hidden, descriptors + BITS)

    def losses(self, batch: Batch, masks: torch.Generator) -> list[torch.Tensor]:
        """Return the losses of masked tokens (in half the rows), descriptors and fragments (in the rest)."""
        ids = batch.ids
        own = ids > MASK
        half = len(ids) // 2
        hidden_ones = own & (torch.rand(ids.shape, generator=masks) < MASKED)
        hidden_ones[half:] = False
        states = self.model.model(
            input_ids=torch.where(hidden_ones, MASK, ids), attention_mask=(ids != PAD).long()
        ).last_hidden_state
        guessed = self.model.decoder(self.model.head(states[hidden_ones]))
        weight = own[half:, :, None].to(states.dtype)
        told = self.told((states[half:] * weight).sum(1) / weight.sum(1)).float()
        kinds = batch.values.shape[1]
        return [
            functional.cross_entropy(guessed.float(), ids[hidden_ones]),
            functional.smooth_l1_loss(told[:, :kinds], batch.values[half:]),
            functional.binary_cross_entropy_with_logits(told[:, kinds:], batch.fragments[half:]),
        ]


def batches(
    block: Described, tokenizer: Any, scale: tuple[npt.NDArray[np.float32], ...], source: np.random.Generator
) -> Iterator[Batch]:
    """Yield *block* in batches of molecules of about one length, in random order."""
    found = [one.ids for one in tokenizer.encode_batch(block.smiles)]
    order = np.argsort([len(ids) + source.random() for ids in found])
    parts = [order[at : at + BATCH] for at in range(0, len(order) - BATCH + 1, BATCH)]
    for place in source.permutation(len(parts)):
        rows = source.permutation(parts[place])
        width = max(len(found[row]) for row in rows)
        values = np.clip((block.values[rows] - scale[0]) / scale[1], -FARTHEST, FARTHEST)
        yield Batch(
            torch.tensor([found[row] + [PAD] * (width - len(found[row])) for row in rows]),
            torch.from_numpy(values.astype(np.float32)),
            torch.from_numpy(block.fragments[rows].astype(np.float32)),
        )


def pretrain(
    model: Pretrained, blocks: list[Described], *, passes: int, seed: int, report: int = 100
) -> dict[str, float]:
    """Train *model* on all blocks but the last, which is for the figures returned: losses, and shares told.

    Parameters
    ----------
    blocks
        At least two.
    passes
        How often each molecule is read, masked anew.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_files(MAX_TOKENS)["tokenizer.json"].decode())
    source, masks = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    scale = (blocks[0].values.mean(0), blocks[0].values.std(0) + 1e-3)
    *read, kept = blocks
    every = passes * sum(len(block.smiles) // BATCH for block in read)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, betas=(0.9, 0.98))
    pace = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / WARMUP, 0.5 + 0.5 * float(np.cos(np.pi * step / max(every, 1)))),
    )
    started, step = time.monotonic(), 0
    for block in read * passes:
        for batch in batches(block, tokenizer, scale, source):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                losses = model.losses(batch, masks)
            sum(weight * loss for weight, loss in zip(WEIGHTS, losses, strict=True)).backward()  # type: ignore[union-attr]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            pace.step()
            step += 1
            if step % report == 0:
                told = " ".join(f"{loss.item():.4f}" for loss in losses)
                sys.stderr.write(f"{step}/{every} {time.monotonic() - started:.0f} s: {told}\n")
    model.eval()
    with torch.no_grad():
        figures = [
            torch.stack(model.losses(batch, masks)) for batch in batches(kept, tokenizer, scale, source)
        ]
    names = ("masked_loss", "descriptor_loss", "fragment_loss")
    return dict(zip(names, torch.stack(figures).mean(0).tolist(), strict=True))


def write(model: Pretrained, folder: Path) -> None:
    """Write the bare encoder, float16, and its tokenizer."""
    model.model.model.half().save_pretrained(folder)
    for name, content in tokenizer_files(MAX_TOKENS).items():
        (folder / name).write_bytes(content)


def main(arguments: list[str]) -> int:
    """Pre-train, write the folder, and print what it reaches on molecules that it did not read."""
    parser = argparse.ArgumentParser(prog="python -m plasmid.bases.smiles.pretraining")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--molecules", type=int, default=163_840)
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    torch.manual_seed(asked.seed)
    small = corpus.beside_rdkit()
    large = corpus.moses() + small * 10
    drawn = corpus.drawn(large, small, asked.seed, BLOCK)
    blocks = [next(drawn) for _ in range(1 + -(-asked.molecules // BLOCK))]
    model = Pretrained(descriptors=blocks[0].values.shape[1])
    figures = pretrain(model, blocks, passes=asked.passes, seed=asked.seed)
    write(model, asked.folder)
    sys.stdout.write(json.dumps({name: round(value, 4) for name, value in figures.items()}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
