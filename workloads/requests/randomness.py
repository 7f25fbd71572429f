"""Independent random generators from one seed."""

from __future__ import annotations

import numpy as np

(ARRIVALS, INPUT_LENGTHS, OUTPUT_LENGTHS, CLIENT, TURNS, THINKING, KINDS, TENANTS) = range(8)
"""What a generator is for; a client adds a number made from its name."""


def generator(seed: int, *purpose: int) -> np.random.Generator:
    """Return the generator of one purpose: its samples never shift another's."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose))
