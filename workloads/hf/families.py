"""Registry of the readers of model families, by architecture class.

A family is one function from the keys of a ``config.json`` to a model, registered under the architecture classes it
covers and under their ``model_type``. A new family is one function in any module of this folder, or outside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import InputError, SpecError
from ..model import ModelSpec
from ..registry import Registry
from .config import Config, shown

Family = Callable[[Config], ModelSpec]

ARCHITECTURES: Registry[Family] = Registry("architecture", home=__package__)
MODEL_TYPES: Registry[Family] = Registry("model type", home=__package__)


def family(*architectures: str, types: Sequence[str] = ()) -> Callable[[Family], Family]:
    """Register a reader for architecture classes and for values of ``model_type``."""

    def add(read: Family) -> Family:
        for name in architectures:
            ARCHITECTURES.register(name)(read)
        for name in types:
            MODEL_TYPES.register(name)(read)
        return read

    return add


TEXT_SECTIONS = ("text_config", "llm_config", "language_config", "thinker_config", "text_model_config")
"""Keys of the sections with the language model, in files of multimodal models."""


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
        return guess(replace(section or config, architecture=name), config, ARCHITECTURES)
    if config.prefix and kind in MODEL_TYPES:
        return MODEL_TYPES[kind](replace(config, architecture=kind))
    return build_by_type(config if section is None or _whole(config) else section)


def _whole(config: Config) -> bool:
    """Return whether the text model's sizes are at the top level; some files repeat only its width there."""
    return config.has("hidden_size") and any(map(config.has, ("num_hidden_layers", "num_layers", "n_layer")))


USUAL = ("decoders", "moe", "deepseek")
"""Modules of the most frequent classes; other modules are imported only if these do not know the class."""


def _known(name: str) -> bool:
    """Return whether a class can be read; import further modules only as needed."""
    for module in USUAL:
        if name in ARCHITECTURES.names():
            return True
        import_module(f"{__package__}.{module}")
    return name in ARCHITECTURES


def text_section(config: Config) -> Config | None:
    """Return the innermost section with the file's language model; None if there is none."""
    for key in TEXT_SECTIONS:
        if isinstance(config.values.get(key), dict):
            inner = config.section(key)
            return text_section(inner) or inner
    return None


def _by_section(section: Config, name: str | None) -> ModelSpec | None:
    """Read a file of an unknown class by the class or type of its text section; None if that is unknown too."""
    inner, kind = _architecture(section), section.text("model_type")
    read = ARCHITECTURES[inner] if inner is not None and inner in ARCHITECTURES else None
    if read is None and kind and kind in MODEL_TYPES:
        read = MODEL_TYPES[kind]
    return None if read is None else read(replace(section, architecture=name or inner or kind))


def build_by_type(config: Config) -> ModelSpec:
    """Build a model from keys by their ``model_type``."""
    kind = config.text("model_type")
    if not kind:
        raise SpecError(
            f"{config.path}: {config.prefix}architectures",
            "is missing, as is model_type; one of them must name the model",
        )
    if kind not in MODEL_TYPES:
        return guess(replace(config, architecture=kind), config, ARCHITECTURES, "model_type")
    return MODEL_TYPES[kind](replace(config, architecture=config.architecture or kind))


def _architecture(config: Config) -> str | None:
    """Return the only class that the file names; a remark in brackets, as paper models have, is dropped."""
    names = config.items("architectures")
    if not names:
        return None
    if len(names) > 1:
        raise config.error("architectures", f"must name one class, not {len(names)}")
    if not isinstance(names[0], str):
        raise config.error("architectures", f"must hold a class name, not {shown(names[0])}")
    return names[0].split(" (")[0]


@cache
def _lists() -> Any:
    """Return the lists of keys, activations and classes that guesses of the family use."""
    from ..yamlfile import read_yaml  # known classes are read without

    return read_yaml(Path(__file__).parent / "guess.yaml")


SIZES = re.compile(
    r"^(?!.*(vision|image|video|audio|rotary)).*(experts|experts_per_tok|_dim|_rank|_heads|_layers|intermediate_size)$"
)
"""Pattern of keys that describe the model's structure in spite of their names."""
CLOSEST = 3
"""Number of the most similar families that an error names."""


@dataclass(frozen=True, slots=True)
class _Read(Mapping[str, Any]):
    """Keys of a file, with a record of which keys were read."""

    own: Mapping[str, Any]
    seen: set[str]

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        return self.own[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)


@dataclass(frozen=True, slots=True)
class _Try:
    """One family's attempt to read a file: keys read, number of keys requested, and the model if it was built."""

    name: str
    read: frozenset[str]
    asked: int
    model: ModelSpec | None


def meaningful(values: Mapping[str, Any]) -> set[str]:
    """Return the keys that may describe a model's structure; keys with false, null or empty values are left out."""
    strange = {k for k in ("hidden_act", "activation_function") if values.get(k, "silu") not in _lists()["gated"]}
    return strange | {
        key for key, value in values.items()
        if value not in (None, False, "") and value != [] and value != {}
        and (SIZES.search(key) or not any(part in key for part in _lists()["no_structure"]))
    }  # fmt: skip


def guess(config: Config, file: Config, known: Registry[Family], key: str = "architectures") -> ModelSpec:
    """Read a file of an unknown class as a family that reads all of its keys; add a note about the guess.

    `config` is the section that holds the text model's keys, `file` what names the class, `known` every family by class.

    Raises
    ------
    SpecError
        If no family fits: the message names the families that share most of its keys, and the unread keys.
    """
    for names, why in _lists()["refused"].items():
        if config.architecture.startswith(tuple(names.split(", "))):
            raise file.error(key, f"{config.architecture} cannot be costed: {why}")
    wanted = meaningful(config.values)
    usual = {name: i for i, name in enumerate(_lists()["usual"])}
    tries = sorted(
        _tries(config, known), key=lambda t: (-len(t.read & wanted), usual.get(t.name, len(usual)), t.asked, t.name)
    )
    complete = [t for t in tries if t.model is not None and wanted <= t.read]
    noun = "architecture" if key == "architectures" else "model type"
    if complete and wanted and key == "architectures" and config.architecture.endswith(tuple(_lists()["generators"])):
        best = complete[0]
        assert best.model is not None
        note = (
            f"{config.path}: {noun} {config.architecture} is not known; every key of its file has a meaning in "
            f"{best.name}, so it is read as that: check its parameters"
        )
        return replace(best.model, architecture=config.architecture, notes=(*best.model.notes, note))
    near = [t for t in tries if t.read & wanted][:CLOSEST]
    reason = f"unknown {noun} {shown(config.architecture)}"
    if near:
        named = ", ".join(f"{t.name} ({len(t.read & wanted)} of {len(wanted)})" for t in near)
        strange = sorted(wanted - near[0].read)[:6]
        reason += f"; families that share its keys: {named}"
        if strange:
            reason += f"; keys that the first of them does not read: {', '.join(strange)}"
    reason += "; write its layers out as architecture LayerList (docs/layer-lists.md)"
    raise (file.error(key, reason) if near else file.error(key, f"{reason}; known: {', '.join(known)}"))


def _tries(config: Config, known: Registry[Family]) -> list[_Try]:
    """Try to read a file with every family of text models, except families of papers; name each by its first class."""
    readers: dict[Family, str] = {}
    for name in known:
        if name.endswith(("ForCausalLM", "LMHeadModel")) and not hasattr(known[name], "wraps"):
            readers.setdefault(known[name], name)
    out = []
    options = {key: value for key, value in config.values.items() if key != "model_type"}
    for read, name in readers.items():
        seen: set[str] = set()
        try:
            model: ModelSpec | None = read(replace(config, values=_Read(options, seen), architecture=name))
        except (InputError, RecursionError):
            model = None
        out.append(_Try(name, frozenset(k for k in seen if config.has(k)), len(seen), model))
    return out
