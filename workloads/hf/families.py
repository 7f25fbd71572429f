"""Which reader understands which architecture class.

A family is one function from the keys of a ``config.json`` to a model, registered under the architecture classes it
covers and under their ``model_type``. A new family is one function in any module of this folder, or outside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module

from ..errors import SpecError
from ..model import ModelSpec
from ..registry import Registry
from .config import Config, shown

Family = Callable[[Config], ModelSpec]

ARCHITECTURES: Registry[Family] = Registry("architecture", home=__package__)
MODEL_TYPES: Registry[Family] = Registry("model type", home=__package__)


def family(*architectures: str, types: Sequence[str] = ()) -> Callable[[Family], Family]:
    """Register a function for architecture classes and for values of ``model_type``."""

    def add(read: Family) -> Family:
        for name in architectures:
            ARCHITECTURES.register(name)(read)
        for name in types:
            MODEL_TYPES.register(name)(read)
        return read

    return add


TEXT_SECTIONS = ("text_config", "llm_config", "language_config", "thinker_config", "text_model_config")
"""Sections that hold the language model of a file with towers."""


def build(config: Config) -> ModelSpec:
    """Turn the keys of a whole file into a model, by its architecture class.

    The class decides. Files without one (text sections, old files) use ``model_type``. Sizes may be at the top or in a
    section of the text model; an unknown class is read by that section's own name, else by its keys if one family
    supports them all.
    """
    name, kind = _architecture(config), config.text("model_type")
    section = text_section(config)
    if name is not None and _known(name):
        where = config if section is None or _whole(config) else section
        return ARCHITECTURES[name](replace(where, architecture=name))
    if section is not None:
        spec = _by_section(section, name)
        if spec is not None:
            return spec
    if name is not None:
        from .guess import guess  # only where a class is not known

        return guess(replace(section or config, architecture=name), config, ARCHITECTURES)
    if config.prefix and kind in MODEL_TYPES:
        return MODEL_TYPES[kind](replace(config, architecture=kind))
    return build_by_type(config if section is None or _whole(config) else section)


def _whole(config: Config) -> bool:
    """Return whether the text model's sizes are at the top; some files repeat only its width there."""
    return config.has("hidden_size") and any(map(config.has, ("num_hidden_layers", "num_layers", "n_layer")))


USUAL = ("decoders", "moe", "deepseek")
"""Modules of the classes that are met most; the others are imported where these do not know a class."""


def _known(name: str) -> bool:
    """Whether a class can be read; no more modules are imported than it takes."""
    for module in USUAL:
        if name in ARCHITECTURES.names():
            return True
        import_module(f"{__package__}.{module}")
    return name in ARCHITECTURES


def text_section(config: Config) -> Config | None:
    """The section of a file that holds its language model, however deep; None without any."""
    for key in TEXT_SECTIONS:
        if isinstance(config.values.get(key), dict):
            inner = config.section(key)
            return text_section(inner) or inner
    return None


def _by_section(section: Config, name: str | None) -> ModelSpec | None:
    """A file of an unknown class by what its text section calls itself; None where that is not known either."""
    inner, kind = _architecture(section), section.text("model_type")
    read = ARCHITECTURES[inner] if inner is not None and inner in ARCHITECTURES else None
    if read is None and kind and kind in MODEL_TYPES:
        read = MODEL_TYPES[kind]
    return None if read is None else read(replace(section, architecture=name or inner or kind))


def build_by_type(config: Config) -> ModelSpec:
    """Turn keys into a model by their ``model_type``."""
    kind = config.text("model_type")
    if not kind:
        raise SpecError(
            f"{config.path}: {config.prefix}architectures",
            "is missing, as is model_type; one of them must name the model",
        )
    if kind not in MODEL_TYPES:
        from .guess import guess

        return guess(replace(config, architecture=kind), config, ARCHITECTURES, "model_type")
    return MODEL_TYPES[kind](replace(config, architecture=config.architecture or kind))


def _architecture(config: Config) -> str | None:
    """The one class the file names; paper models add a remark in brackets, which is dropped."""
    names = config.items("architectures")
    if not names:
        return None
    if len(names) > 1:
        raise config.error("architectures", f"must name one class, not {len(names)}")
    if not isinstance(names[0], str):
        raise config.error("architectures", f"must hold a class name, not {shown(names[0])}")
    return names[0].split(" (")[0]
