"""Constants of the tile model that all devices share: what they mean, and where a fit may move them."""

from __future__ import annotations

from ..calibrated.family import Parameter

PARAMETERS = (
    Parameter("launch_s", "s", "shortest kernel", 2.6e-6, 1e-6, 6e-6, 0.2),
    Parameter("memory", "1", "attainable fraction of the memory bandwidth", 0.975, 0.85, 1.0, 0.05),
    Parameter("cache", "1", "attainable fraction of the last-level cache's bandwidth", 1.0, 0.6, 1.5, 0.2),
    Parameter("shared", "1", "attainable fraction of 128 bytes a clock of shared memory", 0.8, 0.5, 1.0, 0.2),
    Parameter("load_latency", "1", "time until a step's data from memory are there, over the device's latency",
              1.3, 0.3, 4.0, 0.3),
    Parameter("cache_load_latency", "1", "the same for data in the last-level cache", 1.1, 0.3, 4.0, 0.3),
    Parameter("step_clocks", "clk", "barrier and addresses of one step of a block", 40.0, 5.0, 300.0, 0.4),
    Parameter("start_clocks", "clk", "start and end of a block besides one load", 700.0, 50.0, 4000.0, 0.5),
    Parameter("row_bytes", "B", "bytes of time lost on every row of a tile, in memory and cache",
              15.0, 2.0, 60.0, 0.4),
    Parameter("overlap", "1", "exponent that joins waiting for loads with the time of their bytes",
              3.0, 1.5, 10.0, 0.3),
    Parameter("matrix", "1", "share of the matrix units' rate in long tiles", 0.95, 0.8, 1.0, 0.05),
    Parameter("matrix_latency", "clk", "clocks until a matrix instruction may use what the one before wrote",
              40.0, 10.0, 120.0, 0.4),
)  # fmt: skip
(P_LAUNCH, P_MEMORY, P_CACHE, P_SHARED, P_LATENCY, P_CACHE_LATENCY, P_STEP, P_START, P_ROW, P_OVERLAP,
 P_MATRIX, P_MATRIX_LATENCY) = range(12)  # fmt: skip
"""Places in a vector of constants."""
