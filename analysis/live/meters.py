"""What a server counts of itself, and the page that shows it under vLLM's names for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ...simulator.serving.live import Gauges

FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
         10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0)  # fmt: skip
BETWEEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
WHOLE = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
         240.0, 480.0, 960.0, 1920.0, 7680.0)  # fmt: skip
"""Bounds of vLLM's histograms [s] (vllm/v1/metrics/loggers.py)."""
PAGE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Counts below bounds, as Prometheus shows them."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts = bounds, [0] * (len(bounds) + 1)
        self.total, self.most = 0.0, 0.0

    def note(self, value: float, times: int = 1) -> None:
        """Count a value [s], or as many equal parts of it."""
        self.counts[bisect_left(self.bounds, value / times)] += times
        self.total += value
        self.most = max(self.most, value)

    @property
    def count(self) -> int:
        return sum(self.counts)

    def lines(self, name: str, labels: str) -> Iterator[str]:
        """Its samples."""
        below = 0
        for bound, in_bucket in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            below += in_bucket
            yield f'{name}_bucket{{{labels},le="{bound}"}} {below}'
        yield f"{name}_count{{{labels}}} {below}"
        yield f"{name}_sum{{{labels}}} {self.total:.9g}"


@dataclass(slots=True)
class Meters:
    """Counts of a server, in seconds of the clock.

    Attributes
    ----------
    ttft, gap, e2e : Histogram
        Of the simulated engine: TTFT, gaps between tokens, end-to-end time.
    late : Histogram
        How late tokens were handed out.
    asked, finished, abandoned, refused : int
        Requests: taken, answered in full, left by their client, and refused.
    """

    ttft: Histogram = field(default_factory=lambda: Histogram(FIRST))
    gap: Histogram = field(default_factory=lambda: Histogram(BETWEEN))
    e2e: Histogram = field(default_factory=lambda: Histogram(WHOLE))
    late: Histogram = field(default_factory=lambda: Histogram(FIRST))
    asked: int = 0
    finished: int = 0
    abandoned: int = 0
    refused: int = 0


GAUGES = (
    ("num_requests_running", "gauge", "Requests in the running batch.", "running"),
    ("num_requests_waiting", "gauge", "Requests that wait.", "waiting"),
    ("kv_cache_usage_perc", "gauge", "Used share of the KV cache; 1 is all of it.", "kv_used"),
    ("num_preemptions", "counter", "Preempted requests.", "preemptions"),
    ("prompt_tokens", "counter", "Prompt tokens, computed or found.", "prompt_tokens"),
    ("prefix_cache_queries", "counter", "Prompt tokens looked for in the cache.", "prompt_tokens"),
    ("prefix_cache_hits", "counter", "Prompt tokens found in the prefix cache.", "cached_tokens"),
    ("generation_tokens", "counter", "Tokens generated.", "output_tokens"),
)
HISTOGRAMS = (
    ("vllm:time_to_first_token_seconds", "Time to the first token.", "ttft"),
    ("vllm:inter_token_latency_seconds", "Time between two tokens.", "gap"),
    ("vllm:e2e_request_latency_seconds", "Time of whole requests.", "e2e"),
    ("opbyte:token_lateness_seconds", "How late tokens were handed out.", "late"),
)


def page(meters: Meters, engines: Sequence[Gauges], model: str) -> str:
    """The metrics in Prometheus' text format; histograms are of all engines together."""
    name = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    labels = [f'engine="{i}",model_name="{name}"' for i in range(len(engines))]
    out: list[str] = []
    for key, kind, text, attribute in GAUGES:
        total = "_total" if kind == "counter" else ""
        out += _head(f"vllm:{key}{total}", kind, text)
        out += [
            f"vllm:{key}{total}{{{label}}} {getattr(gauges, attribute):.9g}"
            for label, gauges in zip(labels, engines, strict=True)
        ]
    out += _head("vllm:request_success_total", "counter", "Requests answered, by how they ended.")
    for reason, ended in (("length", meters.finished), ("abort", meters.abandoned)):
        out.append(f'vllm:request_success_total{{{labels[0]},finished_reason="{reason}"}} {ended}')
    for key, text, attribute in HISTOGRAMS:
        out += [*_head(key, "histogram", text), *getattr(meters, attribute).lines(key, labels[0])]
    return "\n".join(out) + "\n"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
