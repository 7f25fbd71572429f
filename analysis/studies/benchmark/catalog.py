"""The benchmarks: workload, service level, scenarios and scoring of each, and published results.

MLPerf Inference: https://github.com/mlcommons/inference_policies (rules of the closed division) and
https://github.com/mlcommons/inference (reference implementations); InferenceX: its README. Figures that the
rules do not print are said to be assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ....workloads.registry import Registry
from ...answers.mlperf import LLAMA2_70B

MLPERF = (
    "MLPerf is a trademark of MLCommons Association. A simulated score is no MLPerf result and was not verified "
    "by MLCommons. Published scores: mlcommons.org, by version and ID."
)
INFERENCEX = "Published points: github.com/SemiAnalysisAI/InferenceX (Apache-2.0)."
OFFLINE, SERVER, CURVE = "offline", "server", "curve"
"""Scenarios: all requests at once; the highest Poisson rate within the level; a closed loop of each size."""


@dataclass(frozen=True, slots=True)
class Published:
    """One published score, output tokens a second of the whole system."""

    name: str
    version: str
    ident: str
    scenario: str
    score: float


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark.

    Attributes
    ----------
    name, model : str
        Of the benchmark; model in the catalog.
    input_len, output_len : int
        Mean tokens.
    lengths : str
        How they spread, an option of ``opbyte simulate``.
    slo : mapping of str to float
        Of scenario "server" [s].
    clients : tuple of int
        Closed loops of scenario "curve".
    dtype : str or None
        Format of weights of the usual submissions; without it as the checkpoint.
    wording : str
        What its owners want said beside a score.
    assumed : str
        What of the above the rules do not print.
    """

    name: str
    model: str
    input_len: int
    output_len: int
    lengths: str
    scenarios: tuple[str, ...]
    wording: str
    assumed: str = ""
    slo: Mapping[str, float] = field(default_factory=dict)
    clients: tuple[int, ...] = ()
    dtype: str | None = None
    published: tuple[Published, ...] = ()


BENCHMARKS: Registry[Benchmark] = Registry("benchmark")

_V41 = "MLPerf Inference v4.1, closed"
_LLAMA2 = tuple(
    Published(entry, _V41, ident, scenario, score)
    for entry, ident, offline, server in (
        ("NVIDIA, 8 x H100-SXM-80GB, TensorRT", "DGX-H100_H100-SXM-80GBx8_TRT", 24_524.9, 21_605.8),
        ("NVIDIA, 8 x H200-SXM-141GB, TensorRT", "H200-SXM-141GBx8_TRT", 31_302.7, 29_228.2),
        ("NVIDIA, 8 x H200-SXM-141GB at 500 W, TensorRT", "H200-SXM-141GBx8_TRT_MaxQ",
         25_262.1, 23_113.1),
        ("NVIDIA, 1 x B200-SXM-180GB (preview), TensorRT", "B200-SXM-180GBx1_TRT",
         11_264.4, 10_755.6),
        ("NVIDIA, 1 x GH200 144 GB, TensorRT",
         "GH200-GraceHopper-Superchip_GH200-144GB_aarch64x1_TRT", 4_067.52, 3_883.67),
        ("AMD, 8 x MI300X, vLLM", "8xMI300X_2xEPYC-9374F", 23_514.8, 21_028.2),
    )
    for scenario, score in ((OFFLINE, offline), (SERVER, server))
)  # fmt: skip
"""mlcommons/inference_results_v4.1@198fc467, model llama2-70b-99, by the name of the entry's folder."""

for _each in (
    Benchmark(
        "mlperf-llama2-70b", *LLAMA2_70B, "lognormal", (OFFLINE, SERVER), MLPERF,
        "prompts of OpenOrca are of at most 1,024 tokens, their mean is not printed: 230 is assumed "
        "(150 to 300)", {"ttft_p99": 2.0, "tpot_p99": 0.2}, dtype="fp8", published=_LLAMA2,
    ),
    Benchmark(
        "mlperf-llama3.1-405b", "llama-3.1-405b", 9400, 684, "lognormal", (OFFLINE, SERVER), MLPERF,
        "mean lengths from memory of the rules of v5.0", {"ttft_p99": 6.0, "tpot_p99": 0.175},
        dtype="fp8",
    ),
    Benchmark(
        "mlperf-deepseek-r1", "deepseek-v3", 800, 3880, "lognormal", (OFFLINE, SERVER), MLPERF,
        "mean lengths from memory of the rules of v5.1", {"ttft_p99": 2.0, "tpot_p99": 0.08},
    ),
    *(
        Benchmark(
            f"inferencex-{short}", "deepseek-v3", isl, osl, "uniform", (CURVE,), INFERENCEX,
            "lengths are uniform in 0.8 to 1.0 of the nominal ones; other models: --model",
            clients=(4, 8, 16, 32, 64, 128, 256),
        )
        for short, isl, osl in (
            ("1k1k", 1024, 1024), ("1k8k", 1024, 8192), ("8k1k", 8192, 1024),
        )
    ),
):  # fmt: skip
    BENCHMARKS.register(_each.name, f"{_each.model}, {_each.input_len}+{_each.output_len} tokens")(_each)
