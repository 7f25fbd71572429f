"""Published checkpoints in narrow formats: what an engine loads where it cannot make the format itself."""

from __future__ import annotations

from pathlib import Path

from ...workloads.catalog import catalog_entry
from ...workloads.errors import InputError
from ...workloads.yamlfile import read_yaml

CHECKPOINTS = Path(__file__).parent / "hub.yaml"
"""Checkpoint of a model -> format -> a published checkpoint in it."""
MADE = {"vllm": ("fp8",), "sglang": ("fp8",), "tensorrt-llm": ("fp8",)}
"""Formats that an engine makes of 16-bit weights as it loads them."""


def checkpoint_of(engine: str, model: str, dtype: str | None, own: str) -> tuple[str, bool]:
    """Return the checkpoint of a format, and whether the engine must quantise it.

    Parameters
    ----------
    dtype : str or None
        Format that is asked for; None = the checkpoint's own.
    own : str
        Format of the model's own checkpoint.

    Raises
    ------
    InputError
        No such checkpoint is known, and the engine makes none.

    Examples
    --------
    >>> checkpoint_of("vllm", "Qwen/Qwen3-32B", "fp8_block", "bf16")
    ('Qwen/Qwen3-32B-FP8', False)
    >>> checkpoint_of("vllm", "org/m", "fp8", "bf16"), checkpoint_of("vllm", "org/m", None, "mxfp4")
    (('org/m', True), ('org/m', False))
    """
    if dtype is None or dtype == own or dtype in ("bf16", "fp16"):
        return model, False
    listed = read_yaml(CHECKPOINTS).items()
    known: dict[str, str] = next((x for name, x in listed if name.lower() == model.lower()), {})
    if dtype in known:
        return known[dtype], False
    if dtype in MADE[engine] and own in ("bf16", "fp16"):
        return model, True
    raise InputError(
        f"--dtype {dtype}", f"no checkpoint of {model} in it is known, and {engine} makes none as it "
        "loads; quantise one, and name its folder",
    )  # fmt: skip


def hub_name(model: str) -> str:
    """What a model is called where its checkpoint lies: as it was asked for, or the first such name."""
    if "/" in model:
        return model
    entry = catalog_entry(model)
    hubs = [name for name in entry.aliases if "/" in name] if entry else []
    short = model.lower()
    return next((n for n in hubs if n.rpartition("/")[2].lower().startswith(short)), (*hubs, model)[0])
