"""M3ViT (NeurIPS 2022, arXiv 2210.14793): Table 4 and its ratios from the FPGA engine.

The paper's FPGA results are estimates, not measurements (Edge-MoE states this), and neither its array nor its ports are
published. One number is fitted: the arrays' utilisation, to the dense latency on PASCAL-Context. All other rows are
predictions from it; the rows on NYUD-v2 are the independent ones (and T4.back, fitted on NYUD-v2 and predicted on
PASCAL-Context). Load rate, gate cycles and the cache's size were derived from the same table, so T1 and T3 are
consistency checks. T1's cache is simulated: 4 experts, LRU, tokens in order, misses in series. GPU latencies and powers
are the paper's, taken as inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np

from opbyte.extend import Batch, InputError, Loads, ModelSpec, Row, Run, judged, load_device, load_model
from opbyte.extend.devices import DeviceSpec, build_device
from opbyte.extend.fpga import deploy_fpga, engine_of, num_tasks, on_chip_bytes, run_image, serve_images
from opbyte.extend.models import Layer, embedding_ops, is_routed, layer_ops, task_sequence

from .fpga import Runs, assumptions, fit_utilisation, run_images, with_utilisation
from .published import Prediction, paper


def encoder_macs(model: ModelSpec) -> float:
    """Return the multiply-accumulates of one image in the encoder.

    Raises
    ------
    InputError
        The model takes no images.
    """
    if model.front is None:
        raise InputError(model.name, "takes tokens, not images")
    batch = Batch.of(chunks=[(model.front.tokens, 0)])
    m, run = batch.moments(model.windows), Run(model.numerics)
    ops = list(embedding_ops(model, m, run))
    for layer in model.layers:
        ffn, loads = layer.ffn, None
        if is_routed(ffn):
            routed = ffn.routed
            loads = Loads.expected(batch.tokens, routed.top_k, routed.experts, routed.experts)
        ops += [op for part in layer_ops(layer, m, run, loads) for op in part]
    return sum(op.flops for op in ops if op.kind != "elementwise") / 2


def upsampling_decoder_macs(model: ModelSpec, channels: int, classes: int) -> int:
    """Return the multiply-accumulates of one task's decoder for one image.

    Four 3 x 3 convolutions of `channels`, each at twice the side of the last (the first on the patch grid), then a 1 x
    1 convolution to `classes` on the fourth's grid (VITA-Group/M3ViT at d448b6f, models/vit_up_head.py).
    """
    if model.front is None:
        raise InputError(model.name, "takes tokens, not images")
    macs, inputs, pixels = 0, model.hidden, model.front.patches
    for stage in range(4):
        macs += pixels * 4**stage * 9 * inputs * channels
        inputs = channels
    return macs + pixels * 4**3 * channels * classes


def with_experts(model: ModelSpec, experts: int) -> ModelSpec:
    """Return the model with another number of experts in every MoE layer, `top_k` unchanged."""

    def change(layer: Layer) -> Layer:
        ffn: Any = layer.ffn
        if not is_routed(layer.ffn):
            return layer
        if experts < layer.ffn.routed.top_k:
            reason = f"must be at least the {layer.ffn.routed.top_k} experts of a token"
            raise InputError(f"experts {experts}", reason)
        if all(field.name != "experts" for field in fields(ffn)):
            raise InputError(f"experts {experts}", f"layer kind {ffn.kind} has no such field")
        return replace(layer, ffn=replace(ffn, experts=experts))

    return replace(model.map_layers(change), name=f"{model.name}-{experts}e")


DEVICE = "zcu104"
CLASSES = {"pascal": 21, "nyud": 40}
"""Output classes of the segmentation decoder (VITA-Group/M3ViT at d448b6f); it has 256 channels."""
DENSE_MS = {"pascal": 68.931, "nyud": 84.418}
GPU_J = {"pascal": 7.446, "nyud": 8.189}
NDDR_CNN_G, CROSS_STITCH_G = 747.0, 647.0
"""Table 1: all tasks of a convolutional multi-task network."""
TASK_IMAGES = 6
MOST_EXPERTS = 256


@dataclass(frozen=True, slots=True)
class Dataset:
    """Simulated runs of the dense and the MoE model on one data set."""

    name: str
    dense: Runs
    reordered: Runs
    cached: Runs


def predictions(seeds: Sequence[int], routing: str) -> Iterator[Row | Prediction]:
    """Return all rows: fitted on one data set, predicted on the other."""
    base = load_device(DEVICE)[0]
    fitted = {name: fit_utilisation(f"vit-small-{name}", DEVICE, ms / 1e3) for name, ms in DENSE_MS.items()}
    device, back = (with_utilisation(base, fitted[name]) for name in ("pascal", "nyud"))
    image = partial(run_images, device=device, seeds=seeds, routing=routing)
    sets = [
        Dataset(name, image(f"vit-small-{name}"), image(f"m3vit-{name}"), image(f"m3vit-{name}", schedule="cache"))
        for name in DENSE_MS
    ]
    for dataset in sets:
        yield from _cache(dataset)
    yield from _memory(device)
    for dataset in sets:
        yield from _latency(dataset)
    yield Prediction("T4.back", run_images("vit-small-pascal", back, seeds, routing).seconds * 1e3)
    yield from _switch(device, routing, seeds[0])
    yield from _experts(device, routing, seeds[0])
    yield from _size()


def _cache(data: Dataset) -> list[Row | Prediction]:
    """Predict T1: time and energy of tokens in order with an expert cache, over those with reordering."""
    hits = data.cached.mean(lambda f: f.hits / (f.hits + f.misses))
    note = (
        f"4 experts, LRU, tokens in order; {hits:.1%} of visits hit, so "
        f"{4 * (1 - hits):.2f} misses per token; the paper's plot implies 3.00"
    )
    ratio = data.cached.seconds / data.reordered.seconds
    joules = data.cached.joules / data.reordered.joules
    return [Prediction(f"T1.{data.name}.latency", ratio, note), Prediction(f"T1.{data.name}.energy", joules)]


def _memory(device: DeviceSpec) -> list[Row | Prediction]:
    """Return T2: on-chip memory with all experts of a layer over the ping-pong pair's."""
    d = deploy_fpga(load_model("m3vit-pascal"), device)
    naive, reordered = (on_chip_bytes(d, s) / 2**20 for s in ("on-chip", "reordered"))
    return [Prediction("T2", naive / reordered), Prediction("T2.naive", naive), Prediction("T2.reordered", reordered)]


def _latency(data: Dataset) -> list[Row | Prediction]:
    """Predict T3 to T6: overhead of experts, latency, energy, and the GPU's energy over the FPGA's."""
    return [
        Prediction(f"T3.{data.name}", data.reordered.seconds / data.dense.seconds - 1),
        Prediction(f"T4.{data.name}.dense", data.dense.seconds * 1e3),
        Prediction(f"T4.{data.name}.reordered", data.reordered.seconds * 1e3),
        Prediction(f"T5.{data.name}", data.reordered.joules),
        Prediction(f"T6.{data.name}", GPU_J[data.name] / data.reordered.joules),
    ]


def _switch(device: DeviceSpec, routing: str, seed: int) -> list[Row | Prediction]:
    """Return T7: the additional time of task switches over single images."""
    d = deploy_fpga(load_model("m3vit-pascal"), device)
    tasks = task_sequence("random", TASK_IMAGES, num_tasks(d), seed)
    together = serve_images(d, tasks, routing=routing, seed=seed).cycles
    alone = sum(
        run_image(d, routing=routing, seed=seed, image=i, task=int(task)).cycles for i, task in enumerate(tasks)
    )
    switches = int(np.count_nonzero(np.diff(tasks)))
    cached = [
        serve_images(d, tasks, routing=routing, seed=seed, schedule="cache", forget=f).cycles for f in (True, False)
    ]
    return [
        judged("T7", f"task switches, reordered: cycles added by {switches} switches", "cycles",
               0.0, float(together - alone), "0", f"{TASK_IMAGES} images, random tasks"),
        Prediction("T7.cache", (cached[0] - cached[1]) / max(1, switches)),
    ]  # fmt: skip


def _experts(device: DeviceSpec, routing: str, seed: int) -> list[Row | Prediction]:
    """Predict T8: the latency with more experts, up to the number with queues too short to hide weight loads."""
    model, (processor,) = load_model("m3vit-pascal"), build_device(device).processors.values()
    least = processor.break_even_tokens("fp16", 2.0)

    def run(experts: int) -> tuple[int, float]:
        frame = run_image(deploy_fpga(with_experts(model, experts), device, check=False), routing=routing, seed=seed)
        return frame.cycles, frame.shortest_queue

    usual, _ = run(16)
    hidden = 16
    while hidden < MOST_EXPERTS and run(hidden + 1)[1] >= least:
        hidden += 1
    low, high = hidden, MOST_EXPERTS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if run(middle)[0] > 1.01 * usual else (middle, high)
    tokens = model.front.tokens if model.front else 0
    return [
        judged("T8", f"latency at {hidden} experts, all queues past break-even, over 16", "1", 1.0,
               run(hidden)[0] / usual, "1 %", f"break-even queue {least:.1f} tokens"),
        Prediction("T8.bend", float(high), f"mean queue falls below break-even at {4 * tokens / least:.0f}"),
        Prediction("T8.slow", _slow_memory(device, routing, seed) / usual),
        Prediction("T8.far", run(MOST_EXPERTS)[0] / usual),
    ]  # fmt: skip


def _slow_memory(device: DeviceSpec, routing: str, seed: int) -> float:
    """Return the cycles of an image if the memory reaches 84 % of its peak bandwidth."""
    name, _, _ = engine_of(device)
    slow = device.processors[name].model_copy(update={"memory_efficiency": 0.84})
    changed = device.model_copy(update={"processors": {name: slow}})
    return run_image(deploy_fpga(load_model("m3vit-pascal"), changed), routing=routing, seed=seed).cycles


def _size() -> list[Row | Prediction]:
    """Predict T9 and T15: parameters and multiply-accumulates."""
    rows: list[Row | Prediction] = []
    total = {}
    for name, classes in CLASSES.items():
        dense = load_model(f"vit-small-{name}")
        decoder = upsampling_decoder_macs(dense, 256, classes)
        rows.append(Prediction(f"T9.{name}.gmac", (encoder_macs(dense) + decoder) / 1e9))
        total[name] = (encoder_macs(load_model(f"m3vit-{name}")) + decoder) / 1e9
    for kind, model in (("dense", "vit-small-pascal"), ("moe", "m3vit-pascal")):
        rows.append(Prediction(f"T9.{kind}", load_model(model).total_params / 1e6))
    ours = round(total["pascal"])
    note = (
        "one task of ours against all tasks of a convolutional network (NDDR-CNN, "
        f"{NDDR_CNN_G:.0f} G); {1 - ours / CROSS_STITCH_G:.1%} against Cross-Stitch; "
        "not a saving of MoE over dense"
    )
    return [*rows, Prediction("T15", 1 - ours / NDDR_CNN_G, note)]


paper(
    "m3vit", "M3ViT's Table 4 on a ZCU104: fitted on one data set, predicted on the other.", predictions,
    seeded=True, runs=lambda seeds: 2 + 4 * seeds, assumptions=partial(assumptions, DEVICE),
)  # fmt: skip
