"""What MLPerf leaves to who submits, and does not print: mean lengths, and how devices are split into replicas."""

from __future__ import annotations

LLAMA2_70B = ("llama-2-70b", 230, 294)
"""Model in the catalog, mean tokens of prompts and answers of ``llama2-70b``: prompts of OpenOrca have at most 1,024 tokens
and 150 to 300 on average (assumed: 230), answers 294.45 (mlcommons/inference)."""


def replica_sizes(devices: int) -> list[int]:
    """Devices of a replica that are tried, of which the one is taken that scores most."""
    return [n for n in (1, 2, 4, 8) if devices % n == 0]
