"""Constants of the tile model that all devices share: what they mean, and where a fit may move them."""

from __future__ import annotations

from ..calibrated.family import parameters_of

PARAMETERS = parameters_of("tiles")
(P_LAUNCH, P_MEMORY, P_CACHE, P_SHARED, P_LATENCY, P_CACHE_LATENCY, P_STEP, P_START, P_ROW, P_OVERLAP,
 P_MATRIX, P_MATRIX_LATENCY) = range(12)  # fmt: skip
"""Places in a vector of constants."""
