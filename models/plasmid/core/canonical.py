"""Canonical JSON (RFC 8785) and SHA-256: the only way a digest of structured data is made here."""

from __future__ import annotations

import hashlib
from typing import Any

import rfc8785


def canonical_json(value: Any) -> bytes:
    """Return the RFC 8785 encoding of *value* (str, int, float, bool, None, list, dict).

    Raises
    ------
    ValueError
        *value* holds NaN, an infinity, or an integer outside ±(2**53 - 1).
    """
    return rfc8785.dumps(value)


def sha256_hex(data: bytes | memoryview) -> str:
    """Return the SHA-256 of *data* as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:
    """Return ``sha256_hex(canonical_json(value))``."""
    return sha256_hex(canonical_json(value))
