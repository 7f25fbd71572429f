"""What the simulator's tests share: one compiled step, and deployments made once."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from opbyte.devices.catalog import load_system
from opbyte.simulator.deployment import Deployment, deploy
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import CapacityError, InputError


@cache
def _deployed(
    model: str,
    system: str,
    placement: str | None,
    attention: str | None,
    routing: str,
    seed: int,
) -> Deployment | None:
    try:
        found = deploy(
            load_model(model), load_system(system), placement=placement, attention=attention,
            routing=routing, seed=seed,
        )  # fmt: skip
        found.memory()
    except (InputError, CapacityError):
        return None
    return found


@pytest.fixture(scope="session")
def deployed() -> Callable[..., Deployment | None]:
    """Deployments by name; None where the model does not fit the system."""

    def find(
        model: str,
        system: str,
        placement: str | None = None,
        attention: str | None = None,
        routing: str = "uniform",
        seed: int = 0,
    ) -> Deployment | None:
        if model.startswith("data/"):
            folder = os.environ.get("OPBYTE_DATA", "")
            path = Path(folder) / "model_configs" / model.removeprefix("data/")
            if not folder or not path.exists():
                pytest.skip(f"OPBYTE_DATA has no {model}")
            model = str(path)
        return _deployed(model, system, placement, attention, routing, seed)

    return find
