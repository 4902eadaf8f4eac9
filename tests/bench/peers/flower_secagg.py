"""The peer of ``secure_aggregation``: one round of Flower's SecAgg+, by the functions that it ships.

Rules
-----
1. The steps and their order are those of ``flwr.client.mod.secaggplus_mod`` (client) and
   ``flwr.server.workflow.SecAggPlusWorkflow`` (server) of flwr 1.41, and each step is a call of Flower's own
   function. Messages, records and array serialisation are left out, which favours Flower.
2. Its defaults: clipping range 8, 22 bits of quantisation, modulus 2**32. Every site is a neighbour of every
   other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.common import ndarray_to_bytes
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_combine,
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_multiply,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)
from numpy.typing import NDArray

Arrays = list[NDArray[Any]]

CLIPPING_RANGE = 8.0
TARGET_RANGE = 2**22
MOD_RANGE = 2**32


class FlowerRound:
    """The keys of *n* sites, their shares, and what client and server do in one round.

    Parameters
    ----------
    n
        Sites; each has the n - 1 others as neighbours.
    threshold
        Shares that open a secret.
    """

    def __init__(self, n: int, threshold: int) -> None:
        pairs = [generate_key_pairs() for _ in range(n)]
        self.n, self._threshold = n, threshold
        self._private = [private_key_to_bytes(private) for private, _ in pairs]
        self._public = [public_key_to_bytes(public) for _, public in pairs]
        self._seeds = [os.urandom(32) for _ in range(n)]

    def protect(self, site: int, values: NDArray[np.float32]) -> Arrays:
        """Return factor and masked vector of *site*, int64 (the mod's ``_collect_masked_vectors``)."""
        q_ratio = TARGET_RANGE  # all examples of the largest weight
        parameters = parameters_multiply([values], q_ratio / TARGET_RANGE)
        vector: Arrays = quantize(parameters, CLIPPING_RANGE, TARGET_RANGE)
        vector = factor_combine(q_ratio, vector)
        shapes = [array.shape for array in vector]
        vector = parameters_addition(vector, pseudo_rand_gen(self._seeds[site], MOD_RANGE, shapes))
        for other in range(self.n):
            if other == site:
                continue
            mask = pseudo_rand_gen(self._agreed(self._private[site], other), MOD_RANGE, shapes)
            vector = (parameters_addition if site > other else parameters_subtraction)(vector, mask)
        return parameters_mod(vector, MOD_RANGE)

    def shares(self, dropped: int) -> list[list[bytes]]:
        """Return what the survivors answer for each site: of its seed, or of its key if it *dropped* out."""
        answers = []
        for site in range(self.n):
            secret = self._private[site] if site == dropped else self._seeds[site]
            created = create_shares(secret, self._threshold, self.n)
            answers.append([share for holder, share in enumerate(created) if holder != dropped])
        return answers

    def open(self, vectors: Iterable[Arrays], shares: list[list[bytes]], dropped: int) -> NDArray[Any]:
        """Return the mean of the survivors' *vectors* (the workflow's collection and ``unmask_stage``)."""
        total: Arrays | None = None
        for vector in vectors:
            total = vector if total is None else parameters_addition(total, vector)
        assert total is not None
        total = parameters_mod(total, MOD_RANGE)
        shapes = get_parameters_shape(total)
        for site, collected in enumerate(shares):
            secret = combine_shares(collected)
            if site != dropped:
                total = parameters_subtraction(total, pseudo_rand_gen(secret, MOD_RANGE, shapes))
                continue
            for other in range(self.n):
                if other == site:
                    continue
                mask = pseudo_rand_gen(self._agreed(secret, other), MOD_RANGE, shapes)
                total = (parameters_addition if site > other else parameters_subtraction)(total, mask)
        total = parameters_mod(total, MOD_RANGE)
        factor, total = factor_extract(total)
        mean: NDArray[Any] = dequantize(total, CLIPPING_RANGE, TARGET_RANGE)[0]
        mean += -(self.n - 2) * CLIPPING_RANGE
        mean *= TARGET_RANGE / factor
        return mean

    def _agreed(self, private: bytes, other: int) -> bytes:
        return generate_shared_key(bytes_to_private_key(private), bytes_to_public_key(self._public[other]))


def upload_bytes(vector: Arrays) -> int:
    """Return the bytes of a masked vector as Flower's client sends it, envelopes left out."""
    return sum(len(ndarray_to_bytes(array)) for array in vector)
