"""Reader of Hugging Face ``config.json`` files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import visible
from ..model import ModelSpec
from .config import Config
from .families import ARCHITECTURES, build
from .json_file import config_file, read_json_object
from .quantization import SIDE_FILE

YAML = (".yaml", ".yml")
"""File suffixes for the keys of a ``config.json`` in YAML."""


def read_config(path: str | Path) -> ModelSpec:
    """Read a model from its published configuration.

    Parameters
    ----------
    path : str or Path
        A ``config.json``, under any name, or the folder that holds it; or the same keys as YAML.

    Raises
    ------
    SpecError
        If the file is invalid; one line names the file and the key.
    """
    file = config_file(Path(path))
    keys = _keys(file)
    side = file.parent / SIDE_FILE
    if file.name == "config.json" and SIDE_FILE not in keys and os.path.isfile(side):
        keys = {**keys, SIDE_FILE: read_json_object(side)}
    resolved = Path(os.path.abspath(file))
    name = resolved.parent.name if resolved.name == "config.json" else resolved.stem
    return model_from_keys(keys, name=visible(name), where=str(file))


def _keys(file: Path) -> dict[str, Any]:
    """Read the keys of a file in either format."""
    if file.suffix not in YAML:
        return read_json_object(file)
    from ..yamlfile import read_yaml  # a parser that files of the usual format do without

    return read_yaml(file)


def model_from_keys(keys: Mapping[str, Any], *, name: str, where: str, source: str = "") -> ModelSpec:
    """Build a model from configuration keys that are already in memory.

    Parameters
    ----------
    keys : mapping
        The keys of a ``config.json``.
    name : str
        What to call the model.
    where : str
        What to call the origin of the keys in messages.
    source : str
        Where the numbers come from; `where` if empty.
    """
    config = Config(keys, path=where, name=name, source=source or where)
    if config.has("text_config"):
        config.section("text_config")  # whoever reads it, it must be an object
    return _with_towers(config, build(config))


AUDIO = ("audio_config", "audio_encoder_config", "speech_config", "sound_config")


def _with_towers(config: Config, spec: ModelSpec) -> ModelSpec:
    """Return the model with its image tower; for a sound tower, add a note that it is not counted."""
    inner = config.section("thinker_config") if isinstance(config.values.get("thinker_config"), dict) else config
    notes = spec.notes
    sounds = next((key for key in AUDIO if isinstance(inner.values.get(key), dict)), None)
    if sounds is not None:
        text = f"{config.path}: {inner.prefix}{sounds}: audio encoders are not simulated; text and images are"
        notes = (*notes, text)
    tower = None
    if isinstance(inner.values.get("vision_config"), dict):
        from .towers import read_tower  # of files that have one

        tower = read_tower(config, spec.hidden)
    return spec if tower is None and notes == spec.notes else replace(spec, tower=tower, notes=notes)


def known_architectures() -> tuple[str, ...]:
    """Return the architecture classes that can be read, sorted."""
    return tuple(ARCHITECTURES)
