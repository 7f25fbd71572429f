"""Readers of each ``quant_method``: which modules a checkpoint stores in which format. Unknown methods are refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..numerics import BITS
from .config import Config, shown

LINEAR = ("attention", "ffn", "experts")
"""Weight groups that quantisation converts; embeddings, head, norms and routers stay in 16 bits."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A number format as stored in a checkpoint: its name, and bits per weight including all scales."""

    name: str
    bits: float


Rule = tuple[tuple[str, ...], Stored | None]
"""Names or patterns of modules, and their format; None keeps 16 bits."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Storage of a checkpoint: the format of each module.

    Attributes
    ----------
    default : Stored or None
        Format of every linear module that no rule names; None keeps 16 bits.
    rules : tuple of Rule
        The first that fits a module decides.
    exempt : tuple of str
        Modules that keep 16 bit under all rules.
    groups : tuple of str
        Weight groups that are converted at all.
    experts : Stored or None
        Format of routed experts, if the file states it separately.
    kv : str
        Format of the KV cache; empty where the file does not say.
    """

    default: Stored | None
    rules: tuple[Rule, ...] = ()
    exempt: tuple[str, ...] = ()
    groups: tuple[str, ...] = LINEAR
    experts: Stored | None = None
    kv: str = ""


def as_it_is(name: str) -> Stored:
    """Return a format with its usual scales."""
    return Stored(name, BITS[name])


def grouped(quantization: Config, bits: int, zeros: bool) -> Stored:
    """Return the format of integers in groups of ``group_size``, each group with a 16-bit scale and a zero point."""
    if bits not in (4, 8):
        raise quantization.error("bits", f"must be 4 or 8, not {bits}")
    name = f"int{bits}"
    size = quantization.values.get("group_size")
    if size is None or bits == 8:
        return as_it_is(name)
    if type(size) is not int or not (size == -1 or 0 < size < 2**31):
        reason = f"must be a whole number from 1, or -1 for whole rows, not {shown(size)}"
        raise quantization.error("group_size", reason)
    return Stored(name, bits if size == -1 else bits + (16 + bits * zeros) / size)


def _integers(quantization: Config) -> Recipe:
    """Read a recipe of GPTQ, AWQ or AutoRound, which have scales and packed zero points for each group."""
    stored = grouped(quantization, quantization.size("bits", "w_bit", "weight_bits"), zeros=True)
    rules: list[Rule] = []
    if quantization.has("dynamic"):  # GPTQModel: "-:regex" is left out, "+:regex" has bits of its own
        overrides = quantization.section("dynamic")
        for key in overrides.values:
            text = key.removeprefix("+:").removeprefix("-:")
            bits = None if key.startswith("-:") else overrides.section(key).optional("bits")
            rules.append(((f"re:{text}",), None if bits is None else grouped(quantization, bits, True)))
    if quantization.has("extra_config"):  # AutoRound
        overrides = quantization.section("extra_config")
        for key in overrides.values:
            bits = overrides.section(key).optional("bits")
            if bits is not None:
                rules.append(((key,), None if bits >= 16 else grouped(quantization, bits, True)))
    return Recipe(stored, tuple(rules))


def _bitsandbytes(quantization: Config) -> Recipe:
    if quantization.flag("load_in_4bit", False):
        return Recipe(as_it_is("int4"))
    if quantization.flag("load_in_8bit", False):
        return Recipe(as_it_is("int8"))
    raise quantization.error("load_in_4bit", "must be true unless load_in_8bit is")


def _fp8(quantization: Config) -> Recipe:
    if not quantization.has("weight_block_size"):
        return Recipe(as_it_is("fp8"))
    block = quantization.items("weight_block_size") or []
    if len(block) != 2 or any(type(n) is not int or n < 1 for n in block):
        raise quantization.error("weight_block_size", f"must be two sizes from 1, not {block}")
    # Blocks of 1 x 32 with 8-bit exponents are OCP MXFP8, whatever the file calls them.
    return Recipe(as_it_is("mxfp8" if tuple(block) == (1, 32) else "fp8_block"))


MODELOPT = {
    "FP8": "fp8", "FP8_PB_WO": "fp8", "FP8_PB_REAL": "fp8_block", "FP8_BLOCK_SCALES": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8_channel", "NVFP4": "nvfp4", "NVFP4_AWQ": "nvfp4", "NVFP4_SVDQUANT": "nvfp4",
    "W4A16_NVFP4": "nvfp4_bf16", "W4A8_NVFP4_FP8": "nvfp4_fp8", "W4A16_AWQ": "int4", "W4A16": "int4",
    "W4A8_AWQ": "int4_fp8", "W8A16": "int8", "INT8_SQ": "int8", "W8A8_SQ_PER_CHANNEL": "int8",
    "MXFP8": "mxfp8", "MXFP4": "mxfp4_fp4", "W4A8_MXFP4_FP8": "mxfp4_mxfp8",
    "W4A8_MXFP4_MXFP8": "mxfp4_mxfp8", "W4A16_MXFP4": "mxfp4",
}  # fmt: skip
"""Weight format for each ``quant_algo`` of modelopt, including the additions of TensorRT-LLM and vLLM."""


def _algorithm(quantization: Config) -> Stored:
    return as_it_is(quantization.named("quant_algo", MODELOPT, "algorithm"))


def _modelopt(quantization: Config) -> Recipe:
    if quantization.text("quant_algo") != "MIXED_PRECISION":
        return Recipe(_algorithm(quantization))
    named = quantization.section("quantized_layers")
    by_format: dict[Stored, list[str]] = {}
    for name in named.values:
        by_format.setdefault(_algorithm(named.section(name)), []).append(name)
    return Recipe(None, tuple((tuple(names), stored) for stored, names in by_format.items()))


def _tensors(w: Config, inputs: Config | None, known: bool) -> Stored:
    """Read the format of one group of compressed-tensors from the bits and types of its weights and inputs.

    `known`: the file states the format of inputs; otherwise the usual inputs of the weight format are assumed.
    """
    bits, kind, size = w.size("num_bits"), w.text("type", "int"), w.values.get("group_size")
    acts = inputs.size("num_bits") if inputs is not None else 16 if known else 0
    if (bits, kind) == (4, "float"):
        names = {16: "nvfp4_bf16", 8: "nvfp4_fp8"}
        if size == 32 or w.text("scale_dtype").endswith("uint8"):
            return as_it_is({16: "mxfp4", 8: "mxfp4_mxfp8"}.get(acts, "mxfp4_fp4" if acts else "mxfp4"))
        return as_it_is(names.get(acts, "nvfp4"))
    if (bits, kind) == (4, "int"):
        stored = grouped(w, 4, zeros=not w.flag("symmetric", True))
        floats = inputs is not None and inputs.text("type", "int") == "float" and acts == 8
        return Stored("int4_fp8", stored.bits) if floats else stored
    if (bits, kind) == (8, "float"):
        scaled = {"block": "fp8_block", "channel": "fp8_channel"}.get(w.text("strategy"), "fp8")
        return as_it_is("mxfp8" if size == 32 else "fp8_block" if w.has("block_structure") else scaled)
    if (bits, kind) == (8, "int"):
        return as_it_is("int8")
    raise w.error("num_bits", f"{bits} bits of type {kind!r} are not known")


def _compressed_tensors(quantization: Config) -> Recipe:
    """Read a recipe of compressed-tensors: a format for all linear layers, and one for each list of named modules."""
    groups = quantization.section("config_groups")
    if not groups.values:
        raise groups.error("group_0", "is missing; an object is required")
    rules: list[Rule] = []
    default: Stored | None = None
    for name in groups.values:
        section = groups.section(name)
        inputs = section.section("input_activations") if section.has("input_activations") else None
        known = "input_activations" in section.values
        stored = _tensors(section.section("weights"), inputs, known)
        targets = _names(section, ("targets",)) or ("Linear",)
        if any(re.fullmatch(r"\w*Linear|\w*MoE\w*", target) for target in targets):
            if default is not None and default != stored:
                reason = (
                    f"has the formats {default.name} and {stored.name} in groups without module names; add names to one"
                )
                raise quantization.error("config_groups", reason)
            default = stored
        else:
            rules.append((targets, stored))
    return Recipe(default, tuple(rules))


QUARK = {"fp4": "mxfp4", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "int8": "int8", "uint8": "int8",
         "int4": "int4", "uint4": "int4", "fp6_e2m3": "mxfp6", "fp6_e3m2": "mxfp6", "mxfp4": "mxfp4",
         "mx": "mxfp4"}  # fmt: skip
"""Weight format for each ``dtype`` of AMD Quark's tensors."""


def _quark_tensors(quantization: Config) -> Stored | None:
    """Read one configuration of Quark; None if it has no weights."""
    w: Config | None = None
    if isinstance(listed := quantization.values.get("weight"), list):  # weights scaled twice: the first is stored
        if not listed or not isinstance(listed[0], Mapping):
            raise quantization.error("weight", "must be a list with an object for each scale")
        w = _in(quantization, "weight[0]", listed[0])
    elif quantization.has("weight"):
        w = quantization.section("weight")
    if w is None:
        return None
    stored = w.named("dtype", QUARK, "format")
    if stored == "fp8" and w.values.get("group_size") == 32:
        stored = "mxfp8"
    inputs = quantization.values.get("input_tensors")
    acts = inputs.get("dtype") if isinstance(inputs, Mapping) else None
    if stored == "mxfp4" and acts is not None:
        stored = "mxfp4_fp4" if acts in ("fp4", "mxfp4", "mx") else "mxfp4_mxfp8"
    if stored == "int4" and acts in ("fp8_e4m3", "fp8_e5m2"):
        stored = "int4_fp8"
    return as_it_is(stored)


def _quark(quantization: Config) -> Recipe:
    rules: list[Rule] = []
    if quantization.has("layer_quant_config"):
        overrides = quantization.section("layer_quant_config")
        rules += [((name,), _quark_tensors(overrides.section(name))) for name in overrides.values]
    default = _quark_tensors(quantization.section("global_quant_config"))
    kv = ""
    if quantization.has("kv_cache_quant_config"):
        overrides = quantization.section("kv_cache_quant_config")
        named = [overrides.section(name) for name, value in overrides.values.items() if isinstance(value, Mapping)]
        for outputs in [overrides, *named]:
            at = outputs.section("output_tensors") if outputs.has("output_tensors") else outputs
            kv = at.named("dtype", QUARK, "format") if at.text("dtype") else kv
    return Recipe(default, tuple(rules), kv=kv)


def _in(quantization: Config, key: str, value: Mapping[str, Any]) -> Config:
    from dataclasses import replace

    return replace(quantization, values=value, prefix=f"{quantization.prefix}{key}.", outer=quantization)


def _one(name: str, *groups: str) -> Callable[[Config], Recipe]:
    return lambda q: Recipe(as_it_is(name), groups=groups or LINEAR)


def _width(quantization: Config) -> Recipe:
    """Read a recipe of methods that state only the number of bits (HQQ, EETQ, ExpertsInt8)."""
    bits = quantization.size("bits", "nbits", "weight_bits", default=8)
    return Recipe(grouped(quantization, bits, zeros=True))


METHODS: dict[str, Callable[[Config], Recipe]] = {
    "fp8": _fp8, **dict.fromkeys(("fbgemm_fp8", "ptpc_fp8", "w8a8_fp8"), _one("fp8")),
    "w8a8_int8": _one("int8"), "mxfp8": _one("mxfp8"), "nvfp4": _one("nvfp4"),
    # The checkpoints in this format (gpt-oss) convert their experts and nothing else.
    **dict.fromkeys(("mxfp4", "gpt_oss_mxfp4"), _one("mxfp4", "experts")),
    "w4afp8": _one("int4_fp8", "experts"), "experts_int8": _one("int8", "experts"),
    **dict.fromkeys(
        ("gptq", "gptq_marlin", "awq", "awq_marlin", "auto-round", "auto_round", "intel/auto-round", "inc", "moe_wna16"),
        _integers,
    ),
    "hqq": _width, "eetq": _width, "bitsandbytes": _bitsandbytes,
    **dict.fromkeys(("modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed"), _modelopt),
    "compressed-tensors": _compressed_tensors, "quark": _quark,
}  # fmt: skip
"""Reader of the recipe for each ``quant_method``."""

EXEMPT = (
    "modules_to_not_convert", "ignored_layers", "ignored_modules", "ignore", "exclude_modules", "exclude",
    "llm_int8_skip_modules", "unquantized_modules",
)  # fmt: skip
"""Keys that list the unquantised modules."""
EXPERTS = {"fp4": "mxfp4_mxfp8", "mxfp4": "mxfp4_mxfp8", "nvfp4": "nvfp4", "fp8": "", "int4": "int4",
           "int8": "int8", "bf16": "bf16", "bfloat16": "bf16"}  # fmt: skip
"""Weight format for each ``expert_dtype``. DeepSeek-V4's fp4 experts have an 8-bit scale per 32 weights and 8-bit
inputs."""
CACHE = {"FP8": "fp8", "NVFP4": "nvfp4", "INT8": "int8"}
"""KV cache format for each ``kv_cache_quant_algo``."""


def recipe_of(quantization: Config, config: Config) -> Recipe:
    """Return the storage of a checkpoint from a section like ``quantization_config``.

    Raises
    ------
    SpecError
        A method, algorithm or format that is not known: it is not taken for 16 bit.
    """
    from dataclasses import replace

    method = quantization.text("quant_method")
    if not method and quantization.has("config_groups"):
        method = "compressed-tensors"
    if not method:
        raise quantization.error("quant_method", f"is missing; known: {', '.join(sorted(METHODS))}")
    read = quantization.named("quant_method", METHODS, "quantisation method", method)
    # A file of modelopt's without an algorithm has the groups of compressed-tensors.
    groups = method.startswith("modelopt") and not quantization.has("quant_algo") and quantization.has("config_groups")
    recipe = _compressed_tensors(quantization) if groups else read(quantization)
    experts, outer = recipe.experts, config.nearest_with("expert_dtype")
    if outer.has("expert_dtype"):
        name = outer.named("expert_dtype", EXPERTS, "format")
        experts = as_it_is(name) if name else experts
    return replace(
        recipe, exempt=_names(quantization, EXEMPT), experts=experts, kv=recipe.kv or cache_format(quantization)
    )


def _names(quantization: Config, keys: Iterable[str]) -> tuple[str, ...]:
    """Return the module names and patterns listed under several keys."""
    names: list[str] = []
    for key in keys:
        for name in quantization.items(key) or ():
            if not isinstance(name, str):
                raise quantization.error(key, f"must hold module names, not {shown(name)}")
            names.append(name)
    return tuple(names)


def cache_format(quantization: Config) -> str:
    """Return the KV cache format that a file requests; empty if it requests none."""
    if quantization.text("kv_cache_quant_algo"):
        return quantization.named("kv_cache_quant_algo", CACHE, "format")
    if not quantization.has("kv_cache_scheme"):
        return ""
    if isinstance(quantization.values["kv_cache_scheme"], str):
        return quantization.named("kv_cache_scheme", CACHE, "format", quantization.text("kv_cache_scheme").upper())
    scheme = quantization.section("kv_cache_scheme")
    formats = {(8, "float"): "fp8", (8, "int"): "int8", (4, "float"): "nvfp4"}
    key = (scheme.size("num_bits"), scheme.text("type", "int"))
    if key not in formats:
        raise scheme.error("num_bits", f"{key[0]} bits of type {key[1]!r} are not known")
    return formats[key]
