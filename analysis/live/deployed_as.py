"""What a recorded server is, as its owner says: model, system, settings of its engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...devices.catalog import list_devices, load_system
from ...simulator.frameworks.engine_file import read_engine
from ...simulator.frameworks.settings import EngineSettings
from ...workloads.catalog import catalog_entry, load_model
from ...workloads.errors import InputError, nearest
from ...workloads.hf.json_file import config_file, read_json_object


@dataclass(frozen=True, slots=True)
class DeployedAs:
    """What a run's folder says of the server; empty where nobody has said it.

    Attributes
    ----------
    config : mapping or None
        The model's ``config.json``.
    device : str or None
        Name in the catalog.
    devices : int or None
    engine : mapping
        Keys of an ``engine.json``; without one, all devices are one tensor-parallel group.
    """

    config: Mapping[str, Any] | None = None
    device: str | None = None
    devices: int | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """Options that a replay of the run would need."""
        return [
            option for option, value in (("--model", self.config), ("--system", self.device))
            if value is None
        ]  # fmt: skip


def deployed_as(model: str | None, system: str | None, engine: str | None) -> DeployedAs:
    """Read what is said of a server.

    Raises
    ------
    InputError
        An unknown name, a file that cannot be read, or a system of a device of one's own: a run's
        folder names its device by the catalog.
    """
    config: Mapping[str, Any] | None = None
    if model is not None:
        load_model(model)  # so that what cannot be replayed is not recorded as if it could
        entry = catalog_entry(model)
        config = entry.config if entry else read_json_object(config_file(Path(model)))
    device, devices = None, None
    if system is not None:
        spec = load_system(system)
        device, devices = spec.device.name, spec.devices_per_node * spec.nodes
        if device not in list_devices():
            raise InputError(
                f"--system {system!r}",
                f"must be of a device of the catalog{nearest(device, list_devices())}",
            )
    settings: dict[str, Any] = {"engine": "vllm", "tensor_parallel_size": devices or 1}
    if engine is not None:
        _check_degrees(engine, read_engine(engine), system, devices)
        path = Path(engine)
        settings = read_json_object(path / "engine.json" if path.is_dir() else path)
    return DeployedAs(config, device, devices, settings)


def _check_degrees(
    engine: str, settings: EngineSettings, system: str | None, devices: int | None
) -> None:
    """Refuse an engine that is spread over other devices than the system has."""
    spread = (settings.tp or 1) * (settings.dp or 1) * (settings.pp or 1)
    if devices is not None and spread != devices:
        raise InputError(
            engine, f"tensor_parallel_size, data_parallel_size and pipeline_parallel_size make "
            f"{spread}, not the {devices} devices of --system {system}",
        )  # fmt: skip
