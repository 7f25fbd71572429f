"""Deployments of the simulator's tests, made once."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from numba import config

from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.workloads.adapters import Tenants
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import CapacityError, InputError


@cache
def deployed(
    model: str, system: str, placement: str | None = None, attention: str | None = None, routing: str = "uniform",
    memory: str = "flat", layers: int | None = None,
) -> Deployment | None:  # fmt: skip
    """A deployment of the first `layers`; None where the model does not fit the system."""
    if model.startswith("data/"):
        folder = os.environ.get("OPBYTE_DATA", "")
        path = Path(folder) / "model_configs" / model.removeprefix("data/")
        if not folder or not path.exists():
            pytest.skip(f"OPBYTE_DATA has no {model}")
        model = str(path)
    whole = load_model(model)
    try:
        found = deploy(
            replace(whole, layers=whole.layers[:layers]), load_system(system), placement=placement,
            attention=attention, routing=routing, memory=memory,
        )  # fmt: skip
        found.memory()
    except (InputError, CapacityError):
        return None
    return found


@cache
def small(name: str, system: str = "h100-x1", routing: str = "uniform", **degrees: int) -> Deployment:
    """A deployment of a model cut to two layers (or one a stage), so that the explicit path is quick.

    ``windowed`` has one layer that sees 20 tokens and one that sees all; ``NAME+adapters`` five adapters of tenants.
    Uncompiled, ops cost by rooflines: fitted kernels then take minutes to price.
    """
    costs = "roofline" if config.DISABLE_JIT else "auto"
    name, adapted, _ = name.partition("+")
    tenants = Tenants(5, 16, 5, "power_law:1.0") if adapted else None
    model = load_model({"windowed": "gemma-2-27b"}.get(name, name))
    layers = model.layers[: max(2, degrees.get("pp", 1))]
    if name == "windowed":
        mixers = [replace(layer.mixer, window=w) for layer, w in zip(layers, (20, 0), strict=True)]
        layers = tuple(replace(a, mixer=m) for a, m in zip(layers, mixers, strict=True))
    model = replace(model, layers=layers)
    return deploy(model, load_system(system), routing=routing, adapters=tenants, costs=costs, **degrees)
