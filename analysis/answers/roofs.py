"""Roofs of processors: one for each format that the ops compute in, nominal and attainable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ...devices.device import Processor
from ...simulator.deploy.deployment import Deployment
from ...simulator.step.explicit import explicit_stage
from ...workloads.batch import Batch
from ...workloads.numerics import BITS
from ..show.text import Records, Rows
from .summary import roof_of


def formats(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the formats in which each processor's ops compute, the fastest format last.

    Examples
    --------
    >>> formats([("xpu", "fp8"), ("xpu", "bf16"), ("pim", "bf16"), ("xpu", "fp8")])
    {'xpu': ['bf16', 'fp8'], 'pim': ['bf16']}
    """
    dtypes: dict[str, set[str]] = {}
    for processor, dtype in pairs:
        dtypes.setdefault(processor, set()).add(dtype)
    return {name: sorted(widths, key=lambda d: (-BITS.get(d, 4.0), d)) for name, widths in dtypes.items()}


def formats_of_ops(deployment: Deployment) -> dict[tuple[str, str], str]:
    """Return the format in which each op of a step computes, by the op's layer and name."""
    batch = Batch.of([100], [(100, 0)])
    stage = explicit_stage(deployment, [batch] * deployment.ranks, expected=True)
    return {(p.op.layer, p.op.name): p.op.dtype for p in stage.ops}


def roof_name(processor: str, dtype: str, used: Mapping[str, Sequence[str]]) -> str:
    """Return the name of a roof: the processor and, if it has several roofs, the format."""
    return processor if len(used.get(processor, ())) < 2 else f"{processor}, {dtype}"


def roofs(processors: Sequence[Processor], used: Mapping[str, Sequence[str]], default: str) -> Records:
    """Return the roofs of every processor for the formats used on it, as `plots.roofline` needs them.

    Parameters
    ----------
    used : mapping of str to sequence of str
        See `formats`; a processor that runs nothing has the roof of `default`.
    """
    rows = []
    for p in processors:
        names = list(used.get(p.name, ())) or [default]
        shown = [roof_of(p, name) for name in names]
        memory = max(roof["memory_efficiency"] for roof in shown)  # all formats share one memory
        rows += [
            roof | {"name": roof_name(p.name, n, used), "dtype": n, "memory_efficiency": memory}
            for n, roof in zip(names, shown, strict=True)
        ]
    return rows


def roof_rows(table: Rows) -> Records:
    """Return the roofs as a printed table: nominal peak and bandwidth, attainable shares, and ridge point."""
    return [
        {
            "processor": roof["name"].partition(",")[0],
            "format": roof["dtype"],
            "TFLOP/s": roof["peak_flops"] / 1e12,
            "attainable": f"{roof['compute_efficiency']:.0%}",
            "GB/s": roof["bandwidth"] / 1e9,
            "attainable ": f"{roof['memory_efficiency']:.0%}",
            "ridge Op/B": roof["ridge_op_per_byte"],
        }
        for roof in table
    ]
