"""Names and files to specs, with the number formats of the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...devices.catalog import load_system
from ...devices.spec import SystemSpec
from ...workloads.catalog import load_model
from ...workloads.model import ModelSpec


def load(
    model: str | Path | ModelSpec,
    system: str | Path | SystemSpec,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    longest: int | None = None,
) -> tuple[ModelSpec, SystemSpec]:
    """Load a model and a system and apply ``--dtype`` and ``--kv-dtype``.

    Parameters
    ----------
    longest : int, optional
        Tokens of the longest sequence that is accepted: windows that never bind are none.

    Raises
    ------
    InputError
        Unknown name, bad file or unknown number format.
    """
    spec = model if isinstance(model, ModelSpec) else load_model(model)
    spec = replace(spec, numerics=spec.numerics.with_formats(dtype, kv_dtype))
    if longest is not None:
        spec = spec.within(longest)
    return spec, system if isinstance(system, SystemSpec) else load_system(system)
