"""Decoders with latent attention beyond DeepSeek's own: the same parts, other habits."""

from __future__ import annotations

from dataclasses import replace

from ..layers import SparseLatentAttention
from ..model import Layer, ModelSpec
from .blocks import read_blocks
from .config import Config
from .decoders import mtp_heads
from .deepseek import attention_of, glm_moe_dsa
from .families import Family, family
from .parts import assemble, stack

LATENT: dict[tuple[str, ...], tuple[tuple[str, ...], tuple[int, int, bool], str]] = {
    ("AXK1ForCausalLM", "SarvamMLAForCausalLM"): (
        ("axk1", "sarvam_mla"), (1, 2, False), "DeepSeek-V3's layers, one of them dense",
    ),
    ("Mistral4ForCausalLM", "MistralLarge3ForCausalLM"): (
        ("mistral4", "mistral_large_3"), (0, 2, False), "Mistral's latent attention, experts in every layer",
    ),
    ("YoutuForCausalLM", "MiniCPM3ForCausalLM"): (
        ("youtu", "minicpm3"), (0, 2, True), "Latent attention without experts",
    ),
    ("PanguUltraMoEForCausalLM", "OpenPanguForCausalLM"): (
        ("pangu_ultra_moe", "openpangu"), (3, 4, False), "Pangu Ultra MoE: DeepSeek-V3's layers between four norms",
    ),
}  # fmt: skip
"""Classes -> their ``model_type``; dense layers first, norms a layer and whether tied by default; what they are."""


def _reader(first: int, norms: int, tied: bool, title: str) -> Family:
    def read(c: Config) -> ModelSpec:
        layers, attention = c.layers(), attention_of(c)
        blocks = read_blocks(c, attention.hidden, layers, router_bias=True, first=first)
        return assemble(
            c, stack([attention] * layers, blocks, norms=norms), tied=tied, heads=mtp_heads(c)
        )

    read.__doc__ = title
    return read


for _names, (_types, _habits, _title) in LATENT.items():
    family(*_names, types=_types)(_reader(*_habits, _title))


@family("HYV4ForCausalLM", "HYV4VLForConditionalGeneration", types=("hy_v4", "hy_v4_vl_text"))
def hy_v4(c: Config) -> ModelSpec:
    """Hy4: GLM-5's sparse latent attention with an output gate, several residual streams.

    The mixing of the streams is counted by its weights; its time is not.
    """
    spec = glm_moe_dsa(c)
    streams, hidden, gate = c.size("hc_mult", default=1), spec.hidden, c.size("v_head_dim")

    def change(layer: Layer) -> Layer:
        mixer = layer.mixer
        if not isinstance(mixer, SparseLatentAttention):
            raise c.error(
                "index_n_heads", "is missing; the indexer's heads, width and choices are required"
            )
        return replace(layer, mixer=replace(mixer, base=replace(mixer.base, gate_dim=gate)))

    spec = spec.map_layers(change)
    mixing = 2 * (2 * streams * streams * hidden + 2 * streams + 2) if streams > 1 else 0
    extra = mixing * len(spec.layers) + (streams * streams * hidden + streams + 1) * (streams > 1)
    notes = (
        *spec.notes,
        f"{c.path}: the mixing of {streams} residual streams is counted by weights, not by time",
    )
    return replace(
        spec, extra_weights=spec.extra_weights + extra, notes=notes if streams > 1 else spec.notes
    )
