"""Decoders that differ from each other in a few habits: biases, norms, gates, windows, experts.

One row a family: the habits that its files do not state, or under which key they do. What a class is called and
which row it has is data; a class of other habits is one more row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..layers import Attention
from ..model import ModelSpec
from .blocks import read_blocks
from .config import Config, shown
from .families import Family, family
from .parts import Heads, assemble, read_heads, read_windows, stack

LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
MTP = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers", "num_mtp_modules")
"""Keys that hold the number of multi-token-prediction heads."""


@dataclass(frozen=True, slots=True)
class Habits:
    """What a family does.

    Attributes
    ----------
    head_dim : int or None
        Default of the family's class; None divides the hidden size by the heads.
    qkv_bias, out_bias, ffn_bias : str
        Key that switches the biases on, with ``+`` in front where it is on by default; empty: none.
        ``true`` is always.
    qk_norm : str
        ``head`` or ``full`` (over the whole projection), with a key behind a colon that switches it; empty:
        none, or norms without weights.
    norms : int
        Norms of a layer over the hidden size; 4 before and after both parts.
    norm : int
        Weights of a norm by hidden unit: 1, 2 with a bias, 0 for none.
    matrices : int
        Of a feed-forward block.
    gated : bool
        An output gate as wide as the values.
    head_gate : str
        Key that switches a gate of one column a head on, ``true`` always.
    sinks : bool
    windows : str
        Which layers have the window where a file has no ``layer_types``: ``all``, ``none``, ``N`` (all but
        every N-th).
    window : int
        Default of the window.
    parallel : bool
    tied : bool
    router_bias, shared_gate : bool
    first : int
        Dense layers before those with experts, where the file does not say.
    mtp : int
        Multi-token-prediction heads where the file does not say.
    shares : str
        Key that holds how many layers share one cache, where ``use_cla`` is on.
    """

    head_dim: int | None = None
    qkv_bias: str = ""
    out_bias: str = ""
    ffn_bias: str = ""
    qk_norm: str = ""
    norms: int = 2
    norm: int = 1
    matrices: int = 3
    gated: bool = False
    head_gate: str = ""
    sinks: bool = False
    windows: str = "none"
    window: int = 0
    parallel: bool = False
    tied: bool = False
    router_bias: bool = False
    shared_gate: bool = False
    first: int = 0
    mtp: int = 0
    shares: str = ""


def switched(c: Config, key: str) -> bool:
    """What a habit's key says."""
    if key in ("", "true"):
        return key == "true"
    return c.flag(key.removeprefix("+"), key.startswith("+"))


def read_decoder(c: Config, h: Habits) -> ModelSpec:
    """A decoder by its habits."""
    shape, layers = read_heads(c, head_dim=h.head_dim, mha=True), c.layers(*LAYERS)
    mixers = attention_of(c, h, shape, layers)
    blocks = read_blocks(
        c, shape.hidden, layers, router_bias=h.router_bias, shared_gate=h.shared_gate, matrices=h.matrices,
        bias=switched(c, h.ffn_bias), first=h.first,
    )  # fmt: skip
    width = h.norm * shape.hidden
    return assemble(
        c, stack(mixers, blocks, norms=h.norms, norm_width=width, parallel=h.parallel), tied=h.tied,
        final_norm=width, heads=mtp_heads(c, h.mtp),
    )  # fmt: skip


def mtp_heads(c: Config, default: int = 0) -> int:
    """Multi-token-prediction heads of the checkpoint."""
    return c.count(*MTP, default=default)


def attention_of(c: Config, h: Habits, shape: Heads, layers: int) -> tuple[Attention, ...]:
    """The attention of every layer."""
    windows = read_windows(c, layers, slides=_slides(c, h.windows), default=h.window)
    where, _, key = h.qk_norm.partition(":")
    on = not key or switched(c, key)
    norm = (shape.head_norm if where == "head" else shape.full_norm) if where and on else 0
    made = shape.attention(
        windows, qkv_bias=switched(c, h.qkv_bias), out_bias=switched(c, h.out_bias),
        qk_norm=norm * max(h.norm, 1), gated=h.gated, sinks=h.sinks,
    )  # fmt: skip
    if switched(c, h.head_gate):
        gated = {each: replace(each, head_gate=True) for each in set(made)}
        made = tuple(gated[each] for each in made)
    if h.shares and c.flag("use_cla", False):
        every = c.size(h.shares, default=2)
        shared = {each: replace(each, shares=True) for each in set(made)}
        made = tuple(shared[a] if i % every else a for i, a in enumerate(made))
    return made


def _slides(c: Config, rule: str) -> Callable[[int], bool]:
    """Which layers have the window: as the file's pattern says (``4``, ``LLLG``), else by habit."""
    pattern = c.values.get("sliding_window_pattern")
    if isinstance(pattern, str):
        if not pattern or set(pattern) - set("LG"):
            raise c.error("sliding_window_pattern", f"must be of L and G, not {shown(pattern)}")
        return lambda i: pattern[i % len(pattern)] == "L"
    if rule in ("all", "none") and pattern is None:
        return lambda i: rule == "all"
    every = c.size("sliding_window_pattern", default=1 if rule in ("all", "none") else int(rule))
    return lambda i: rule != "none" and (i + 1) % every != 0


BIASED = Habits(qkv_bias="attention_bias", out_bias="attention_bias", ffn_bias="mlp_bias")
QWEN3 = Habits(head_dim=128, qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="head")
GLM = replace(QWEN3, head_dim=None, out_bias="", router_bias=True)
LINGS = Habits(
    qkv_bias="use_qkv_bias",
    out_bias="use_bias",
    ffn_bias="use_bias",
    qk_norm="head:use_qk_norm",
    router_bias=True,
)

FAMILIES: dict[tuple[str, ...], tuple[Sequence[str], Habits, str]] = {
    ("ArceeForCausalLM",): (("arcee",), replace(BIASED, matrices=2), "Arcee: squared ReLU, so two matrices"),
    ("ApertusForCausalLM", "Apertus1p5TextForCausalLM"): (
        ("apertus", "apertus1p5_text"),
        Habits(qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="head", matrices=2),
        "Apertus: xIELU, so two matrices; query and key norms",
    ),
    ("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"): (
        ("ernie4_5",),
        Habits(head_dim=128, qkv_bias="use_bias", out_bias="use_bias", ffn_bias="use_bias", tied=True),
        "ERNIE 4.5, dense",
    ),
    ("HeliumForCausalLM", "IQuestCoderForCausalLM", "TeleChat3ForCausalLM", "LLaMAForCausalLM",
     "TeleFLMForCausalLM", "SolarForCausalLM", "AquilaForCausalLM", "AquilaModel", "XverseForCausalLM",
     "PanguEmbeddedForCausalLM", "NanbeigeForCausalLM", "TorchNativeLlamaForCausalLM", "XllmForCausalLM",
     "Fairseq2LlamaForCausalLM", "YiForCausalLM", "MindSporeForCausalLM"): (
        ("helium", "iquestcoder", "telechat3", "solar", "aquila", "xverse", "PanguEmbedded", "TeleFLM",
         "nanbeige", "Yi"),
        replace(BIASED, qkv_bias="attention_bias"), "Models of Llama's shape",
    ),
    ("ExaoneForCausalLM",): (("exaone",), Habits(), "EXAONE 3: Llama's shape"),
    ("CwmForCausalLM",): (("cwm",), replace(BIASED, windows="all"), "Code World Model: Llama with windows"),
    ("GraniteSWAForCausalLM",): (
        ("granite_swa",), replace(BIASED, sinks=True, windows="all"), "Granite with windows and sinks",
    ),
    ("GraniteMoeSWAForCausalLM",): (
        ("granitemoe_swa",), replace(BIASED, sinks=True, windows="all"), "Granite MoE with windows and sinks",
    ),
    ("HyperCLOVAXForCausalLM",): (("hyperclovax",), replace(BIASED, norms=4), "HyperCLOVA X: norms after both parts"),
    ("Jais2ForCausalLM",): (
        ("jais2",),
        Habits(qkv_bias="+attention_bias", out_bias="+attention_bias", ffn_bias="+mlp_bias", norm=2, matrices=2),
        "Jais 2: layer norms, squared ReLU, biases",
    ),
    ("NanoChatForCausalLM",): (("nanochat",), replace(BIASED, norm=0, matrices=2), "nanochat: norms without weights"),
    ("StableLmForCausalLM", "StableLMEpochForCausalLM"): (
        ("stablelm", "stablelm_epoch"), Habits(qkv_bias="use_qkv_bias", qk_norm="full:qk_layernorm", norm=2),
        "StableLM: layer norms",
    ),
    ("VaultGemmaForCausalLM",): (
        ("vaultgemma",),
        Habits(256, "attention_bias", "attention_bias", windows="2", window=4096, tied=True),
        "VaultGemma: Gemma 2 with two norms",
    ),
    ("Exaone4ForCausalLM",): (
        ("exaone4",), Habits(qk_norm="head", windows="all"), "EXAONE 4: norms after both parts, query and key norms",
    ),
    ("ExaoneMoeForCausalLM", "ExaoneMoEForCausalLM"): (
        ("exaone_moe",), Habits(qk_norm="head", windows="all", router_bias=True, first=1),
        "K-EXAONE: experts, windows, query and key norms",
    ),
    ("HYV3ForCausalLM",): (
        ("hy_v3",), replace(GLM, head_dim=128, out_bias="attention_bias", first=1), "Hy3: experts, query and key norms",
    ),
    ("SolarOpenForCausalLM",): (
        ("solar_open",), replace(GLM, head_dim=128, qk_norm="head:use_qk_norm"), "Solar Open: GLM-4.5 without dense layers",
    ),
    ("SarvamMoEForCausalLM",): (
        ("sarvam_moe",), replace(GLM, head_dim=64, qk_norm="head:+use_qk_norm", first=1), "Sarvam MoE: GLM-4.5's shape",
    ),
    ("AfmoeForCausalLM",): (
        ("afmoe",),
        Habits(128, qk_norm="head", norms=4, gated=True, windows="4", window=1024, router_bias=True, first=1),
        "Trinity: gated attention, four norms",
    ),
    ("BeamForCausalLM",): (
        ("beam",),
        Habits(128, "attention_bias", "attention_bias", qk_norm="head", norms=4, gated=True, windows="6",
               window=512, router_bias=True, first=3),
        "Beam: gated attention, four norms",
    ),
    ("FlintForCausalLM",): (
        ("flint",), replace(QWEN3, sinks=True, windows="all"), "Flint: Qwen3-MoE with sinks and windows",
    ),
    ("MellumForCausalLM",): (("mellum",), replace(QWEN3, windows="all"), "Mellum: Qwen3-MoE with windows"),
    ("Kolibri1ForCausalLM",): (
        ("kolibri1",), Habits(128, qk_norm="head", norms=4, windows="all"), "Kolibri: four norms, windows",
    ),
    ("FlexOlmoForCausalLM",): (
        ("flex_olmo",), Habits(qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="full"),
        "FlexOlmo: OLMo 2 with experts",
    ),
    ("Cohere2MoeForCausalLM",): (
        ("cohere2_moe",),
        Habits(128, "attention_bias", "attention_bias", norms=1, windows="4", window=4096, parallel=True, tied=True),
        "Command A+: experts beside attention",
    ),
    ("BailingMoeForCausalLM", "BailingMoEForCausalLM", "BailingMoeV2ForCausalLM"): (
        ("bailing_moe", "bailing_moe_v2"), LINGS, "Ling and Ring 1 and 2",
    ),
    ("HunYuanDenseV1ForCausalLM", "HunYuanForCausalLM"): (
        ("hunyuan_v1_dense", "hunyuan"), replace(BIASED, qk_norm="head:+use_qk_norm"), "Hunyuan, dense",
    ),
    ("HunYuanMoEV1ForCausalLM",): (
        ("hunyuan_v1_moe",), replace(BIASED, qk_norm="head:+use_qk_norm", shares="cla_share_factor"),
        "Hunyuan with experts; Large shares each cache between two layers",
    ),
    ("MiMoForCausalLM",): (
        ("mimo",), Habits(qkv_bias="true", mtp=1), "MiMo-7B: Qwen2 with a multi-token-prediction head",
    ),
    ("InternLM2ForCausalLM", "InternLM2VEForCausalLM"): (
        ("internlm2",), Habits(qkv_bias="+bias", out_bias="+bias"), "InternLM 2",
    ),
    ("InternLMForCausalLM",): (("internlm",), Habits(qkv_bias="+bias", out_bias="+bias"), "InternLM 1"),
    ("OrionForCausalLM",): (("orion",), Habits(norm=2), "Orion: layer norms"),
    ("MiniCPMForCausalLM",): (("minicpm",), replace(BIASED, tied=True), "MiniCPM 1 and 2, 4: Llama with scaled residuals"),
    ("Plamo3ForCausalLM",): (
        ("plamo3",), Habits(128, qk_norm="head", norms=4, windows="8", window=2048, tied=True),
        "PLaMo 3: four norms, windows",
    ),
    ("AriaTextForCausalLM",): (("aria_text",), BIASED, "Aria's text model: Llama with experts"),
    ("BaichuanForCausalLM", "BaiChuanForCausalLM"): (("baichuan",), Habits(), "Baichuan 1 and 2"),
    ("Param2MoEForCausalLM",): (
        ("param2moe",), replace(LINGS, qk_norm="head:+use_qk_norm"), "Param2: Ling's shape",
    ),
    ("Phi3SmallForCausalLM", "Phi4MMForCausalLM", "Phi4MultimodalForCausalLM", "Phi3VForCausalLM", "Phi4ForCausalLMV",
     "TorchNativePhi3ForCausalLM"): (
        ("phi4mm", "phi4_multimodal", "phi3_v"), Habits(windows="all"), "Phi-3 and Phi-4 with towers: the text model",
    ),
}  # fmt: skip
"""Architecture classes -> their ``model_type``, habits, and what they are."""


def _reader(habits: Habits, title: str) -> Family:
    def read(c: Config) -> ModelSpec:
        return read_decoder(c, habits)

    read.__doc__ = title
    return read


for _names, (_types, _habits, _title) in FAMILIES.items():
    family(*_names, types=_types)(_reader(_habits, _title))
