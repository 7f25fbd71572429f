"""What the simulator's tests share: one compiled step, and deployments made once."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.parts.autoscale.scalers import SCALERS, Seen
from opbyte.simulator.step.books import Books
from opbyte.simulator.step.lowering import F8, I8, Plan
from opbyte.simulator.step.timed import Costs, Lowered, cost_step, costs_of
from opbyte.simulator.step.unequal import added_seconds
from opbyte.workloads.adapters import Tenants
from opbyte.workloads.batch import PREFILL, Batch, Moments
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import CapacityError, InputError
from opbyte.workloads.jit import compiled


@cache
def _deployed(
    model: str,
    system: str,
    placement: str | None,
    attention: str | None,
    routing: str,
    seed: int,
    memory: str,
    layers: int | None,
) -> Deployment | None:
    whole = load_model(model)
    try:
        found = deploy(
            replace(whole, layers=whole.layers[:layers]), load_system(system), placement=placement,
            attention=attention, routing=routing, seed=seed, memory=memory,
        )  # fmt: skip
        found.memory()
    except (InputError, CapacityError):
        return None
    return found


@pytest.fixture(scope="session")
def deployed() -> Callable[..., Deployment | None]:
    """Deployments by name, of the first `layers`; None where the model does not fit the system."""

    def find(
        model: str,
        system: str,
        placement: str | None = None,
        attention: str | None = None,
        routing: str = "uniform",
        seed: int = 0,
        memory: str = "flat",
        layers: int | None = None,
    ) -> Deployment | None:
        if model.startswith("data/"):
            folder = os.environ.get("OPBYTE_DATA", "")
            path = Path(folder) / "model_configs" / model.removeprefix("data/")
            if not folder or not path.exists():
                pytest.skip(f"OPBYTE_DATA has no {model}")
            model = str(path)
        return _deployed(model, system, placement, attention, routing, seed, memory, layers)

    return find


@compiled
def one_step(costs: Costs, moments: F8, step: int, decodes: int, chunks: I8, fresh: bool, captured: int) -> float:
    """`cost_step` for a caller outside compiled code: what engines call, so that both are compiled once."""
    return cost_step(costs, moments, step, decodes, chunks, chunks.shape[1], fresh, captured)


@pytest.fixture(scope="session")
def compiled_step() -> Callable[..., float]:
    """One step of the compiled path, from a batch and its moments for every rank."""

    def seconds(
        plan: Plan, books: Books, batches: Sequence[Batch], moments: Sequence[Moments],
        step: int = 0, fresh: bool = True, captured: int = 0,
    ) -> float:  # fmt: skip
        prefill = np.concatenate([b.phase == PREFILL for b in batches])
        chunks = np.stack(
            [np.concatenate([getattr(b, name) for b in batches])[prefill] for name in ("q_len", "seq_id")]
        )
        values = np.stack(
            [
                np.append(m.values, added_seconds(plan.uneven, b, captured))
                for m, b in zip(moments, batches, strict=True)
            ]
        )
        decodes = int((~prefill).sum())
        model = Lowered(plan, books)  # must outlive the call
        return one_step(costs_of(model), values, step, decodes, chunks, fresh, captured)

    return seconds


def _beside(name: str) -> ModuleType:
    """A module that lies beside the tests and is none."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """The slow scheduler of `reference.py`."""
    return _beside("reference")


@pytest.fixture(scope="session")
def references() -> Callable[[str], ModuleType]:
    """Slow schedulers of other engines, by the names of their files."""
    return cache(_beside)


@pytest.fixture(scope="session")
def small() -> Callable[..., Deployment]:
    """Deployments of models cut to two layers (or one a stage), so that the explicit path is quick.

    ``windowed`` has one layer that sees 20 tokens and one that sees all; ``NAME+adapters`` five adapters of tenants.
    """

    @cache
    def find(name: str, system: str = "h100-x1", routing: str = "uniform", **degrees: int) -> Deployment:
        name, adapted, _ = name.partition("+")
        tenants = Tenants(5, 16, 5, "power_law:1.0") if adapted else None
        model = load_model({"windowed": "gemma-2-27b"}.get(name, name))
        layers = model.layers[: max(2, degrees.get("pp", 1))]
        if name == "windowed":
            mixers = [replace(layer.mixer, window=w) for layer, w in zip(layers, (20, 0), strict=True)]
            layers = tuple(replace(a, mixer=m) for a, m in zip(layers, mixers, strict=True))
        model = replace(model, layers=layers)
        return deploy(model, load_system(system), routing=routing, adapters=tenants, **degrees)

    return find


@pytest.fixture(scope="module")
def always() -> Iterator[str]:
    """A rule that wants what its target says, whatever is seen."""

    @SCALERS.register("always")
    def want(seen: Seen, target: float) -> float:
        """So many."""
        return target

    yield "always"
    del SCALERS._items["always"]
