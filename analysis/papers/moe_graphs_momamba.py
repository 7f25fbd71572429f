"""Mixture-of-Mamba (arXiv 2501.16295): projections by modality, convolution and scan shared."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from opbyte.extend import Batch, ModelSpec, Table, deploy, load_model, load_system
from opbyte.extend.models import Layer, ModalMamba
from opbyte.extend.systems import explicit_stage

from .moe_graphs import COSTS, GRAPHS, Graph
from .published import Prediction

MODEL, SYSTEM = "mixture-of-mamba-1.4b", "h100-x1"
BATCH = 64
BATCHES = (1, 8, BATCH, 512)
TEXT, MIXED = "modality:1,0", "modality:0.5,0.5"
"""Routings of steps with tokens of one modality only, and with equal numbers from two modalities."""
ASSUMPTIONS = (
    (
        f"the sizes are Mamba 1.4B with two modalities; a step decodes {BATCH} sequences on one H100 "
        "(roofline), of one modality or half of each; embeddings, which both share here, are left out of the ratio"
    ),
)


@GRAPHS.register("momamba")
def momamba() -> Graph:
    """Predict Mixture-of-Mamba: state-space layers with separate projections for each modality."""
    times = {name: step_s(model(), routing) for name, routing in (("text", TEXT), ("mixed", MIXED))}
    rows = [Prediction("momamba.params_ratio", layer_weights(model()) / layer_weights(plain_model()))]
    rows += [Prediction(f"momamba.batch_time.{name}", took * 1e3) for name, took in times.items()]
    return Graph(tuple(rows), (_batches(),), ASSUMPTIONS, 3 * len(BATCHES))


@cache
def model() -> ModelSpec:
    """Return the model with separate projections for two modalities."""
    return load_model(MODEL)


@cache
def plain_model() -> ModelSpec:
    """Return the model with one set of projections."""

    def change(layer: Layer) -> Layer:
        mixer = layer.mixer
        assert isinstance(mixer, ModalMamba)
        return replace(layer, mixer=replace(mixer, modalities=1))

    return replace(model().map_layers(change), name="mamba-1.4b")


def layer_weights(spec: ModelSpec) -> int:
    """Return the parameters without embedding and head."""
    return spec.total_params - spec.vocab * spec.hidden


def step_s(spec: ModelSpec, routing: str, batch: int = BATCH) -> float:
    """Return the time of a decoding step with expected loads [s]."""
    d = deploy(spec, load_system(SYSTEM), routing=routing, costs=COSTS)
    return explicit_stage(d, [Batch.of([1023] * batch)], expected=True).seconds


def _batches() -> Table:
    rows = []
    for batch in BATCHES:
        plain = step_s(plain_model(), "uniform", batch)
        rows.append({"batch": batch, "plain_ms": plain * 1e3}
                    | {f"{name} over plain": step_s(model(), routing, batch) / plain
                       for name, routing in (("text", TEXT), ("mixed", MIXED))})  # fmt: skip
    return Table("momamba_batches", "Mixture-of-Mamba: decoding step over plain Mamba's", rows)
