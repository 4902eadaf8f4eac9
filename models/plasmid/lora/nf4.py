"""The numbers of 4-bit NormalFloat, and how many weights share a scale. No torch.

    weight ≈ LEVELS[code] · scale,   4 bits for each weight, and 16 for each :data:`BLOCK` of them: 4.25 bits

Rules
-----
1. The levels are those of Dettmers et al. 2023 ("QLoRA: Efficient Finetuning of Quantized LLMs", arXiv
   2305.14314, section 3 and appendix E): quantiles of a normal distribution, scaled to [-1, 1], with a zero.
2. A scale is the largest magnitude of its block, as bfloat16, and codes are the levels nearest to weight over
   that scale. QLoRA keeps scales as 8-bit numbers with a float32 for each 256 of them, 4.13 bits a weight.
3. A block is consecutive weights of a matrix in C order; it may go on in the next row.
"""

from __future__ import annotations

from math import prod

BLOCK = 64
LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


def packable(shape: tuple[int, ...]) -> bool:
    """Return whether a matrix of *shape* is whole blocks; another one is left as it is."""
    return prod(shape) % BLOCK == 0


def packed_bytes(shape: tuple[int, ...]) -> int:
    """Return what a packed matrix of *shape* takes: codes and scales."""
    return prod(shape) // 2 + 2 * prod(shape) // BLOCK
