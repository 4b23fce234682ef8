"""One seed for each use of randomness: what row i at step s gets depends on (seed, s, i) alone, not on processes or on a resume."""

from __future__ import annotations

import hashlib


def row_seed(seed: int, step: int, row: int, use: str = "row") -> int:
    """A stable 63-bit seed for one `use` (row, drop, noise) of row `row` at step `step`."""
    digest = hashlib.blake2b(f"{seed}/{step}/{row}/{use}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
