"""What the Duplex paper runs: models, devices, counts, lengths, batches, and a way to read means.

Definitions: attention with a fused softmax, policy ``mixed``, lengths Gaussian around the stated means. Closed
loop: a request arrives when its predecessor ends, and the run begins as the authors' warm-up leaves it; the first
batch of completions is left out and 2 x batch more are measured, with the batch full to the end. Devices per model as
in section VI.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..points import Measured, Point, Runner

MIXTRAL, GLAM, GROK = "mixtral-8x7b", "glam-143b", "grok-1"
LLAMA3, OPT = "llama-3-70b", "opt-66b"
MOE = (MIXTRAL, GLAM, GROK)

SIZES = {MIXTRAL: "x4", GLAM: "x8", GROK: "2x8", LLAMA3: "x4", OPT: "x4"}
TWICE = {MIXTRAL: "x8", GLAM: "2x8", GROK: "4x8"}
LENGTHS = {
    MIXTRAL: (256, 1024, 4096),
    GLAM: (512, 1024, 2048),
    GROK: (256, 1024, 4096),
    LLAMA3: (256, 1024, 4096),
    OPT: (256, 512, 1024),
}
"""Mean prompt and output lengths of Figs. 11, 12 and 14 (both equal)."""

BATCHES = (32, 64, 128)

GPU, PLAIN, PE, ET = "duplex-gpu", "duplex-plain", "duplex-pe", "duplex"
TWO, BANK, BANK_GROUP = "duplex-2xgpu", "duplex-bankpim", "duplex-bankgroup"
HETERO, SPLIT = "duplex-hetero", "duplex-split"
"""``GPU`` is the xPU alone, ``PLAIN`` Duplex one processor at a time, ``PE`` co-processing,
``ET`` also splits experts over devices (the paper's final design)."""

LABELS = {
    GPU: "GPU", PLAIN: "Duplex", PE: "Duplex+PE", ET: "Duplex+PE+ET", TWO: "2xGPU",
    BANK: "Bank-PIM", BANK_GROUP: "BankGroup-PIM", HETERO: "hetero", SPLIT: "Duplex-Split",
}  # fmt: skip


def closed(
    model: str, device: str, batch: int, length: int, seed: int, routing: str = "uniform", output_len: int | None = None
) -> Point:
    """A closed-loop point; prompt and output have equal means unless `output_len` is given."""
    size = TWICE[model] if device == TWO else SIZES[model]
    return Point(model, device, size, batch, length, output_len or length, seed, routing, warmup=batch, stop=3 * batch)


def fixed(device: str, batch: int, input_len: int, output_len: int) -> Point:
    """Mixtral with equal lengths, to see how many requests the memory holds (Figs. 5c, 16)."""
    point = closed(MIXTRAL, device, batch, input_len, 0, output_len=output_len)
    return replace(point, lengths="fixed", warmup=0, stop=batch + 1)


def poisson(device: str, qps: int, seed: int, routing: str) -> Point:
    """A point of Fig. 13: Mixtral, (4096, 512), at most 128 requests at once, 4,000 after 500."""
    return replace(
        closed(MIXTRAL, device, 128, 4096, seed, routing, output_len=512), rate=float(qps), warmup=500, stop=4500
    )


def grid(models: Iterable[str]) -> list[tuple[str, int, int]]:
    """(model, batch, length) of Fig. 11 and Fig. 14."""
    return [(m, b, n) for m in models for b in BATCHES for n in LENGTHS[m]]


@dataclass(frozen=True, slots=True)
class Means:
    """Results averaged over seeds."""

    runner: Runner
    seeds: Sequence[int]
    routing: str

    def of(self, points: Sequence[Point], name: str) -> float:
        """Mean of one figure over points."""
        return mean([getattr(self.runner[p], name) for p in points])

    def all(self, model: str, device: str, batch: int, length: int) -> list[Measured]:
        """Results of one closed-loop point, seed by seed."""
        return [self.runner[closed(model, device, batch, length, s, self.routing)] for s in self.seeds]

    def __call__(self, model: str, device: str, batch: int, length: int, name: str) -> float:
        """Mean of one figure of a closed-loop point."""
        return mean([getattr(m, name) for m in self.all(model, device, batch, length)])

    def ratios(self, models: Iterable[str], a: str, b: str, name: str) -> list[float]:
        """Figure of device `a` over that of `b`, over the whole grid."""
        return [self(m, a, x, n, name) / self(m, b, x, n, name) for m, x, n in grid(models)]


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)
