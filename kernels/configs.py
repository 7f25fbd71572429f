"""Search spaces of the CPU kernels: every configuration of a shape, made ready to run.

The registered spaces are what `search` measures and what a model of the kernels ranks. A space names the
columns of its shapes and of its configurations; the latter are the fields of their dataclass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

import numpy as np

from . import attention_decode, gemm
from .attention import attend, plan, reference
from .blocked import DEFAULT as GEMM_DEFAULT
from .blocked import MOST_ROWS, GemmConfig
from .check import require
from .flash import TILES, AttentionConfig
from .lab import Bench, Shape

Run = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Ready:
    """A shape whose inputs are there.

    Attributes
    ----------
    run : callable
        ``run(config)`` gives ``call(i)``, which computes with the i-th set of inputs.
    check : callable
        ``check(config)`` compares with the reference, and raises `check.WrongResult`.
    """

    run: Callable[[Any], Run]
    check: Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class ConfigSpace:
    """What can be chosen for a kernel.

    Attributes
    ----------
    shape : tuple of str
        Columns of a shape.
    shapes : callable
        ``shapes(quick)``
    configs : callable
        ``configs()``: those that run on this machine, the default among them.
    default : object
        The configuration that the kernel takes where nothing is chosen.
    ready : callable
        ``ready(shape, bench)``
    """

    name: str
    shape: tuple[str, ...]
    shapes: Callable[[bool], Sequence[Shape]]
    configs: Callable[[], Sequence[Any]]
    default: Any
    ready: Callable[[Shape, Bench], Ready]

    @property
    def fields(self) -> tuple[str, ...]:
        """Columns of a configuration."""
        return tuple(f.name for f in fields(self.default))


def _gemm_shapes(quick: bool) -> Sequence[Shape]:
    sides = [(512, 512), (2048, 1024)]
    rows = [8, 16, 64, 200]
    if not quick:
        sides += [(1024, 1024), (2048, 2048), (1024, 4096), (4096, 512)]
        rows = [4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512]
    return [{"m": m, "n": n, "k": k} for n, k in sides for m in rows]


def _gemm_configs() -> Sequence[GemmConfig]:
    configs = []
    for n, m in product((4, 8), range(1, MOST_ROWS + 1)):
        for passes, columns in product((0, 8), (0, 16, 64, 256)):
            configs.append(GemmConfig(m, n, passes * m, columns))
    return [config for config in configs if not config.invalid()]


def _gemm_ready(shape: Shape, bench: Bench) -> Ready:
    m, n, k = shape["m"], shape["n"], shape["k"]
    copies = bench.copies(4.0 * n * k)
    weights = [bench.take((n, k)) for _ in range(copies)]
    x, out = bench.take((m, k)), np.empty((m, n), np.float32)
    want = x.astype(np.float64) @ weights[0].T.astype(np.float64)

    def check(config: GemmConfig) -> None:
        out[:] = np.nan
        gemm.gemm(x, weights[0], out, bench.threads, config)
        require(out, want, "fp32", f"gemm {dict(shape)} {config}")

    return Ready(lambda config: lambda i: gemm.gemm(x, weights[i % copies], out, bench.threads, config), check)


def _decode_shapes(quick: bool) -> Sequence[Shape]:
    heads = [(16, 4, 64), (32, 8, 128)]
    lengths = [256, 2048] if quick else [128, 256, 512, 1024, 2048, 4096]
    return [
        {"batch": batch, "kv_len": kv_len, "heads_q": q, "heads_kv": kv, "head_dim": dim, "window": 0}
        for q, kv, dim in heads
        for batch in ((1, 4) if quick else (1, 2, 4, 8))
        for kv_len in lengths
        if batch * kv_len * kv * dim <= 4 * 4096 * 8 * 128
    ]


def _prefill_shapes(quick: bool) -> Sequence[Shape]:
    lengths = [64, 256] if quick else [32, 64, 128, 256, 512]
    return [
        {"batch": 1, "q_len": q_len, "kv_prefix": prefix, "heads_q": q, "heads_kv": kv, "head_dim": dim, "window": 0}
        for q, kv, dim in [(16, 4, 64), (32, 8, 128)]
        for q_len in lengths
        for prefix in ((0, 512) if quick else (0, 128, 512))
    ]


def _decode_configs() -> Sequence[AttentionConfig]:
    return [AttentionConfig(tile, chunk) for tile in TILES for chunk in (64, 256, 1024, 4096)]


def _prefill_configs() -> Sequence[AttentionConfig]:
    return [AttentionConfig(tile, 1024, block) for tile in TILES for block in (2, 4, 8, 16, 32)]


def _attention_ready(shape: Shape, bench: Bench) -> Ready:
    batch, heads_q, heads_kv, dim = (shape[n] for n in ("batch", "heads_q", "heads_kv", "head_dim"))
    new = shape.get("q_len", 1)
    kv_len = shape["kv_len"] if "kv_len" in shape else new + shape["kv_prefix"]
    copies = bench.copies(8.0 * batch * kv_len * heads_kv * dim)
    caches = [attention_decode.paged_cache(bench, batch, kv_len, heads_kv, dim) for _ in range(copies)]
    q = bench.take((batch, new, heads_q, dim))
    queries, out, scale = np.full(batch, new, np.int64), np.empty_like(q), dim**-0.5
    want = reference(q, caches[0], queries, shape["window"], scale, dim)

    def run(config: AttentionConfig) -> Run:
        ready = plan(queries, caches[0].lengths, heads_q, heads_kv, dim, shape["window"], bench.threads, config)
        return lambda i: attend(ready, q, caches[i % copies], scale, out)

    def check(config: AttentionConfig) -> None:
        out[:] = np.nan
        run(config)(0)
        require(out, want, "fp32", f"attention {dict(shape)} {config}")

    return Ready(run, check)


SPACES = (
    ConfigSpace("gemm", ("m", "n", "k"), _gemm_shapes, _gemm_configs, GEMM_DEFAULT, _gemm_ready),
    ConfigSpace("attention_decode", ("batch", "kv_len", "heads_q", "heads_kv", "head_dim", "window"),
          _decode_shapes, _decode_configs, AttentionConfig(), _attention_ready),
    ConfigSpace("attention_prefill", ("batch", "q_len", "kv_prefix", "heads_q", "heads_kv", "head_dim",
                                "window"),
          _prefill_shapes, _prefill_configs, AttentionConfig(), _attention_ready),
)  # fmt: skip
