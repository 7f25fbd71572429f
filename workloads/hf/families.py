"""Which reader understands which architecture class.

A family is one function from the keys of a ``config.json`` to a model, registered under the
architecture classes it covers and under their ``model_type``. A new family is one function in
any module of this folder, or outside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..errors import SpecError, nearest
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


def build(config: Config) -> ModelSpec:
    """Turn the keys of a whole file into a model, by its architecture class.

    The class decides. Files without one (text sections, old files) go by ``model_type``.
    Sizes may stand at the top or in ``text_config``, whatever the class.
    """
    name, kind = _architecture(config), config.text("model_type")
    if name is not None and name not in ARCHITECTURES:
        raise _unknown(config, "architectures", "architecture", name, ARCHITECTURES)
    if config.has("text_config") and not config.has("hidden_size"):
        config = config.section("text_config")
    if name is not None:
        return ARCHITECTURES[name](replace(config, architecture=name))
    if config.prefix and kind in MODEL_TYPES:
        return MODEL_TYPES[kind](replace(config, architecture=kind))
    return build_by_type(config)


def build_by_type(config: Config) -> ModelSpec:
    """Turn keys into a model by their ``model_type``."""
    kind = config.text("model_type")
    if not kind:
        raise SpecError(
            f"{config.path}: {config.prefix}architectures",
            "is missing, and so is model_type; one of them must say what the model is",
        )
    if kind not in MODEL_TYPES:
        raise _unknown(config, "model_type", "model type", kind, MODEL_TYPES)
    return MODEL_TYPES[kind](replace(config, architecture=config.architecture or kind))


def _architecture(config: Config) -> str | None:
    """The one class the file names; paper models add a remark in brackets, which is dropped."""
    found = config.items("architectures")
    if not found:
        return None
    if len(found) > 1:
        raise config.error("architectures", f"must name one class, not {len(found)}")
    if not isinstance(found[0], str):
        raise config.error("architectures", f"must hold a class name, not {shown(found[0])}")
    return found[0].split(" (")[0]


def _unknown(
    config: Config, key: str, noun: str, name: str, known: Registry[Family]
) -> SpecError:  # fmt: skip
    listed = f"; known: {', '.join(known)}"
    close = nearest(name, known)
    hint = f"{close}{listed}" if close.startswith("; did") else listed
    return config.error(key, f"unknown {noun} {shown(name)}{hint}")
