"""HG-PIPE (ICCAD 2024, arXiv 2407.17879): DeiT-Tiny as one pipeline on a VCK190.

Widths and passes of the operators determine the result; nothing is fitted, and no result is read. The authors of this
module knew the paper's results, so the rows are not blind predictions.
"""

from __future__ import annotations

from collections.abc import Iterator

from opbyte.extend import Table, load_device, load_model
from opbyte.extend.devices import PipelineEngine, build_device, stream_s
from opbyte.extend.models import FeedForward

from .published import Prediction, paper

DEVICE, MODEL = "hg-pipe", "deit-tiny"
OPERATIONS = 2.5e9
"""Operations per image [quoted: HG-PIPE]; 1.25 G multiply-accumulates."""


def engine() -> PipelineEngine:
    """Return the pipeline engine of HG-PIPE's device."""
    model = build_device(load_device(DEVICE)[0], calibrated=True).processors["pipeline"].model
    assert isinstance(model, PipelineEngine)
    return model


def operators() -> dict[str, float]:
    """Return the cycles that an image takes in each kind of operator."""
    model, e = load_model(MODEL), engine()
    assert model.front is not None
    mlp = model.layers[0].ffn
    assert isinstance(mlp, FeedForward)
    n, d, width = model.front.patches, model.hidden, mlp.width
    softmax = e.softmax_cycles(n, n)
    return {
        "patch embedding": e.product_cycles(n, d, 3 * 16 * 16),
        "query, key and value": e.product_cycles(n, 3 * d, d),
        "scores": softmax, "softmax": softmax, "weighted sum": softmax,
        "projection": e.product_cycles(n, d, d),
        "MLP, first product": e.product_cycles(n, width, d),
        "MLP, second product": e.product_cycles(n, d, width),
    }  # fmt: skip


def predictions() -> Iterator[Prediction]:
    """Return all rows, only from the device's description."""
    cycles = max(operators().values())
    rate = engine().clock_Hz / cycles
    yield Prediction("hg-pipe.stage_cycles", cycles)
    yield Prediction("hg-pipe.fps", rate)
    yield Prediction("hg-pipe.tops", rate * OPERATIONS / 1e12)


def _operators() -> Table:
    slowest = max(operators().values())
    rows = [{"operator": name, "cycles": cycles, "busy": cycles / slowest} for name, cycles in operators().items()]
    return Table("operators", "Cycles of an image in each operator", rows)


def _besides() -> Table:
    interval = max(operators().values()) / engine().clock_Hz
    layers = len(load_model(MODEL).layers)
    watts = load_device(DEVICE)[0].static_W
    rows = [{"latency_ms": 1e3 * stream_s(interval, layers, 1), "mJ_per_image": 1e3 * interval * watts}]
    return Table("besides", "A single image, and energy of one of many", rows)


def _drawn() -> Table:
    """Return the cycles of the operators for the plot."""
    rows = [{"case": name, "cycles": cycles} for name, cycles in operators().items()]
    return Table("steps", "Cycles of an image in each operator of HG-PIPE", rows)


paper(
    "hg-pipe", "Predict HG-PIPE: images a second of DeiT-Tiny as one pipeline on a VCK190.", predictions,
    tables=(_operators, _besides), drawn={"steps": _drawn}, runs=1,
)  # fmt: skip
