"""Number formats: bits per weight and value, and the arithmetic format of matmuls."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .errors import check_known

BITS: dict[str, float] = {
    "fp32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "fp8_block": 8 + 32 / 128**2, "fp8_channel": 8, "int8": 8,
    "mxfp4": 4.25, "mxfp4_mxfp8": 4.25, "nvfp4": 4.5, "int4": 4.25,
    "mxfp4_fp4": 4.25, "nvfp4_bf16": 4.5, "nvfp4_fp8": 4.5, "int4_fp8": 4.25, "mxfp6": 6.25, "mxfp8": 8.25,
}  # fmt: skip
"""Stored bits per value, block scales included: 8 bits with a 32-bit scale per 128 x 128 block
(DeepSeek-V3, Qwen3), OCP MX (8-bit scale per 32), NVFP4 (8 per 16),
group-wise INT4 (assumed 32 bits of scale and zero per 128; a file that states its groups is counted by them).
A second name is the format of the inputs where it is not the usual one: ``mxfp4_mxfp8`` is MXFP4 whose
inputs are 8 bits, which some matrix units multiply as they are, ``nvfp4_bf16`` what files call W4A16_NVFP4."""

COMPUTE: dict[str, str] = {
    "mxfp4": "bf16", "mxfp4_mxfp8": "fp8", "int4": "bf16", "nvfp4": "fp4",
    "mxfp4_fp4": "fp4", "nvfp4_bf16": "bf16", "nvfp4_fp8": "fp8", "int4_fp8": "fp8", "mxfp6": "fp8",
    "mxfp8": "fp8", "fp8_channel": "fp8",
}  # fmt: skip
"""Arithmetic format of matmuls for weight formats that are converted before the matmul (weight-only formats)."""

WEIGHT_ONLY = ("fp4", "fp8", "fp8_block")
"""Formats whose weights engines convert to 16 bits before a product where the device cannot multiply them: Marlin on
NVIDIA's GPUs (``w8a16``, ``w4a16``: vllm/model_executor/layers/quantization/utils/marlin_utils_fp8.py and _fp4.py in
vllm-project/vllm), Petit on AMD's."""

Parts = tuple[tuple[str, float, float], ...]
"""Parts of a weight group: number format, bits per weight, and share of the group's weights."""
WEIGHT_GROUPS = ("embedding", "head", "attention", "ffn", "experts", "other")


def check_dtype(name: str, option: str) -> str:
    """Return `name` if it is a known number format; refuse others with a list of the known ones."""
    check_known(option, name, BITS, f"unknown number format {name!r}")
    return name


@dataclass(frozen=True, slots=True)
class Numerics:
    """Number formats of a model's weights, activations and KV cache.

    Attributes
    ----------
    default : str
        16-bit (or 32-bit) format of activations and of every weight not named in `weights`.
    weights : tuple of (group, format)
        Weight groups stored in another format, e.g. ``("experts", "mxfp4")``.
    kv : str
        Format of the KV cache.
    stored : tuple of (group, parts)
        Storage of a checkpoint's groups with several formats, or with special scales: of each part its format, bits per
        weight and share of the weights. The first, largest, is `weights`'s, which sets the format of the group's
        matmuls; a group with a changed format is not looked up here.
    lacks : tuple of str
        Formats of `WEIGHT_ONLY` that the device has no arithmetic for.
    """

    default: str = "bf16"
    weights: tuple[tuple[str, str], ...] = ()
    kv: str = "bf16"
    stored: tuple[tuple[str, Parts], ...] = ()
    lacks: tuple[str, ...] = ()
    _by_group: dict[str, str] = field(init=False, repr=False, compare=False)
    _bytes: dict[str, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_group", dict(self.weights))
        sizes = {
            group: sum(bits * share for _, bits, share in parts) / 8
            for group, parts in self.stored
            if self._by_group.get(group) == parts[0][0]
        }
        object.__setattr__(self, "_bytes", sizes)

    def weight_format(self, group: str) -> str:
        return self._by_group.get(group, self.default)

    def weight_bytes(self, group: str) -> float:
        """Return the bytes per weight of a group [B]."""
        bits = self._bytes.get(group)
        return BITS[self.weight_format(group)] / 8 if bits is None else bits

    def parts(self, group: str) -> Parts:
        """Return the parts of a weight group: format, bits per weight and share of the weights."""
        if group in self._bytes:
            return dict(self.stored)[group]
        name = self.weight_format(group)
        return ((name, BITS[name], 1.0),)

    def compute(self, group: str) -> str:
        """Return the arithmetic format of matmuls with the weights of a group."""
        name = self.weight_format(group)
        name = COMPUTE.get(name, name)
        return self.default if name in self.lacks else name

    @property
    def act_bytes(self) -> float:
        """Bytes per activation value [B]."""
        return BITS[self.default] / 8

    @property
    def kv_bytes(self) -> float:
        """Bytes per cached K or V value [B]."""
        return BITS[self.kv] / 8

    def with_formats(self, dtype: str | None, kv_dtype: str | None) -> Numerics:
        """Return the formats after ``--dtype`` (all linear weights) and ``--kv-dtype``."""
        out = self
        if dtype is not None:
            check_dtype(dtype, "--dtype")
            if BITS[dtype] >= 16:
                out = replace(out, default=dtype, weights=())
            else:  # embeddings, the head and norms stay in 16 bit, as checkpoints do
                groups = tuple((g, dtype) for g in ("attention", "ffn", "experts"))
                out = replace(out, weights=groups)
        if kv_dtype is not None:
            out = replace(out, kv=check_dtype(kv_dtype, "--kv-dtype"))
        return out
