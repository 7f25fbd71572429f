"""Decoders with latent attention beyond DeepSeek's own: the same parts, other habits."""

from __future__ import annotations

from ..layers import LatentAttention
from ..model import ModelSpec
from .blocks import read_blocks
from .config import Config
from .decoders import mtp_heads
from .families import Family, family
from .parts import assemble, check_heads, stack

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


def attention_of(c: Config) -> LatentAttention:
    """The latent attention of a file in DeepSeek's keys."""
    hidden, heads = c.size("hidden_size"), c.size("num_attention_heads")
    check_heads(c, hidden, heads, c.size("num_key_value_heads", default=heads), head_dim=1)
    return LatentAttention(
        hidden=hidden,
        heads=heads,
        q_rank=c.count("q_lora_rank", "attention_q_lora_dim"),
        kv_rank=c.size("kv_lora_rank", "attention_kv_lora_dim"),
        nope_dim=c.size("qk_nope_head_dim", "attention_qk_dim"),
        rope_dim=c.size("qk_rope_head_dim", "attention_qk_rope_dim"),
        v_dim=c.size("v_head_dim", "attention_v_dim"),
        bias=c.flag("attention_bias", False),
    )


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
