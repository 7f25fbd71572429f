"""Settings of a real serving engine, as its ``engine.json`` gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...workloads.errors import SpecError, nearest
from ...workloads.hf.json_file import read_json_object
from . import sglang_file, sglang_sharing, trtllm_file, vllm_file, vllm_sharing
from .keys import Keys
from .settings import EngineSettings

ENGINES: Mapping[str, Callable[[Keys], EngineSettings]] = {
    "vllm": vllm_file.vllm_settings,
    "sglang": sglang_file.sglang_settings,
    "tensorrt-llm": trtllm_file.trtllm_settings,
}
"""What reads a file, by what its key `engine` says; the first is what it says if it does not."""

Only = Mapping[str, tuple[Any, str]]
KEYS: Mapping[str, tuple[tuple[str, ...], Only]] = {
    "vllm": ((*vllm_file.KEYS, *vllm_sharing.EPLB), {**vllm_file.ONLY, **vllm_sharing.ONLY, **vllm_sharing.ONLY_EPLB}),
    "sglang": (sglang_file.KEYS, {**sglang_file.ONLY, **sglang_sharing.ONLY}),
    "tensorrt-llm": (trtllm_file.KEYS, {**trtllm_file.ONLY, **trtllm_file.ONLY_CACHE, **trtllm_file.ONLY_SCHEDULER}),
}
"""Keys that are read, and which of them are refused with any other value than one, by engine."""


def read_engine(path: str | Path) -> EngineSettings:
    """Read an ``engine.json`` (the form of LLMServingSim's validation runs).

    Keys that do not bear on time are ignored; those that do and are not simulated are refused.
    `EngineSettings.doubts` names those that look misspelt.

    Raises
    ------
    SpecError
        Names the file and key that cannot be used, and what would be right.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "engine.json"
    return engine_of(path, read_json_object(path))


def engine_of(path: Path, values: dict[str, Any]) -> EngineSettings:
    """The same from the object that the file holds."""
    keys = Keys(path, values)
    engine = keys.text("engine", next(iter(ENGINES)))
    if engine not in ENGINES:
        raise SpecError(path, f"engine: unknown engine {engine!r}{nearest(engine, ENGINES)}")
    framework = values.get("framework")
    if framework is not None and not isinstance(framework, str):
        raise SpecError(path, f"framework: must be a name such as 'vllm', not {framework!r}")
    version = keys.text("version", keys.text("engine_version", ""))
    return replace(ENGINES[engine](keys), framework=framework, version=version)
