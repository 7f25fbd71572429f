"""How to start the simulated engine: its limits, and a manifest of its settings."""

from __future__ import annotations

from pathlib import Path

from ...devices.calibrated.libraries import generation
from ...devices.catalog import load_system
from ...devices.spec import SystemSpec
from ...simulator.frameworks.engine_file import ENGINES, KEYS
from ...simulator.frameworks.launch import Room, hub_name, launch_of
from ...simulator.frameworks.manifests import Copies, manifest
from ...simulator.results.record import Run
from ...simulator.scenario import Scenario
from ...simulator.scenario.build import engine_settings
from ...workloads.catalog import load_model
from ...workloads.errors import InputError
from ...workloads.hf.json_file import read_json_object
from ...workloads.model import ModelSpec

LENGTHS = 1024
"""The longest request is rounded up to a multiple of this."""


def room_of(asked: Scenario, run: Run) -> Room:
    """Return the limits to start an engine with, from the simulated run.

    They are the weight format, the longest request [tokens], the sequence limit and the memory share.
    """
    d = run.deployment
    longest = int((run.requests.input_tokens + run.requests.output_tokens).max())
    rounded = -(-longest // LENGTHS) * LENGTHS
    length = min(rounded, d.model.max_position or rounded)  # with more positions engines refuse to start
    model = asked.model
    spec = model if isinstance(model, ModelSpec) else load_model(str(model))
    settings = engine_settings(asked)
    share = settings.memory_share or settings.left_share
    ranks = d.layout.dp if settings.engine == "sglang" and d.lockstep else 1  # SGLang's limit is of all ranks
    return Room(spec.numerics.weight_format("ffn" if not d.has_experts else "experts"), length,
                run.policy.max_sequences * ranks, share, generation(d.system.device) > 0)  # fmt: skip


def started(emit: str, scenario: Scenario, run: Run | None = None) -> str:
    """Return a manifest that starts all replicas of an engine file; before a run, only check that this is possible.

    Raises
    ------
    InputError
        Without an engine file and a system, with separate pools, or if no start command supports the settings.
    """
    file, where = scenario.serving.engine, scenario.system
    if (
        file is None
        or where is None
        or scenario.parts.asks("two-pools")
        or (run is not None and "two-pools" in run.parts)
    ):
        raise InputError("--emit", "needs --engine, an engine's own settings, --system and one pool")
    path = Path(file)
    given = read_json_object(path / "engine.json" if path.is_dir() else path)
    engine = str(given.get("engine", next(iter(ENGINES))))
    options = {key: x for key, x in given.items() if key in (*KEYS[engine][0], "dtype")}
    model = str(getattr(scenario.model, "name", scenario.model))
    launch = launch_of(engine, hub_name(model), options, Room() if run is None else room_of(scenario, run))
    copies, system = scenario.fleet.replicas or 1, where if isinstance(where, SystemSpec) else load_system(where)
    devices, node = system.nodes * system.devices_per_node, system.device.node_size
    return manifest(emit, Copies(engine, launch, copies, devices, node))
