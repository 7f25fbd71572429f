"""What a recorded server is, as its owner says: model, system, settings of its engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...devices.catalog import describe_system, list_devices, load_system
from ...simulator.frameworks.engine_file import read_engine
from ...simulator.frameworks.settings import EngineSettings
from ...workloads.catalog import catalog_entry, load_model
from ...workloads.errors import InputError
from ...workloads.hf.json_file import config_file, read_json_object
from ..answers.description import Shown


@dataclass(frozen=True, slots=True)
class DeployedAs:
    """What a run's folder says of the server; empty where nobody has said it.

    Attributes
    ----------
    config : mapping or None
        The model's ``config.json``.
    device : str or None
        Name in the catalog, or in `description`.
    description : str or None
        File that describes the system, if its device is user-defined.
    engine : mapping
        Keys of an ``engine.json``; without one, all devices are one tensor-parallel group.
    vocab : int or None
        Entries of the model's vocabulary.
    """

    config: Mapping[str, Any] | None = None
    device: str | None = None
    devices: int | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    description: str | None = None
    vocab: int | None = None

    @property
    def missing(self) -> list[str]:
        """Options that a replay of the run would need."""
        return [option for option, value in (("--model", self.config), ("--system", self.device)) if value is None]


def deployed_as(model: str | None, system: str | None, engine: str | None) -> DeployedAs:
    """Read what is said of a server.

    Raises
    ------
    InputError
        An unknown name, or a file that cannot be read.
    """
    config: Mapping[str, Any] | None = None
    vocab = None
    if model is not None:
        vocab = load_model(model).vocab or None  # so that what cannot be replayed is not recorded as if it could
        entry = catalog_entry(model)
        config = entry.config if entry else read_json_object(config_file(Path(model)))
    device, devices, description = None, None, None
    if system is not None:
        spec = load_system(system)
        device, devices = spec.device.name, spec.devices_per_node * spec.nodes
        if device not in list_devices():
            # Whole, as other files of its own lie elsewhere.
            description = Shown(*describe_system(system)).text()
    settings: dict[str, Any] = {"engine": "vllm", "tensor_parallel_size": devices or 1}
    if engine is not None:
        _check_degrees(engine, read_engine(engine), system, devices)
        path = Path(engine)
        settings = read_json_object(path / "engine.json" if path.is_dir() else path)
    return DeployedAs(config, device, devices, settings, description, vocab)


def _check_degrees(engine: str, settings: EngineSettings, system: str | None, devices: int | None) -> None:
    """Refuse an engine that is spread over other devices than the system has."""
    spread = (settings.tp or 1) * (settings.dp or 1) * (settings.pp or 1)
    if devices is not None and spread != devices:
        raise InputError(
            engine, f"tensor_parallel_size, data_parallel_size and pipeline_parallel_size make "
            f"{spread}, not the {devices} devices of --system {system}",
        )  # fmt: skip
