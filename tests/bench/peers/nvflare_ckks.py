"""The peer of ``secure_aggregation``: CKKS by TenSEAL, with the parameters that NVFlare's ``HEBuilder`` sets.

Its encryptor filter also serialises the ciphertext; that is left out of the time, which favours it.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Ckks:
    """A client's context: degree 8192, primes of 60, 40 and 40 bits, scale 2**40, symmetric key."""

    def __init__(self) -> None:
        import tenseal  # the extra ``bench`` brings it

        self._tenseal = tenseal
        self._context = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS,
            poly_modulus_degree=8192,
            coeff_mod_bit_sizes=[60, 40, 40],
            encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
            n_threads=1,
        )
        self._context.generate_relin_keys()
        self._context.global_scale = 2**40

    def encrypt(self, values: NDArray[np.float64]) -> Any:
        """Return the encrypted *values*."""
        with contextlib.redirect_stdout(io.StringIO()):  # it says that they need more than one ciphertext
            return self._tenseal.ckks_vector(self._context, values)
