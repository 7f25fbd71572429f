"""Models written as a list of layers, each part by its kind, for papers without a ``config.json``.

``layers`` is a list of groups of equal layers, in order: ``times`` (default 1), a ``mixer`` and, unless the group has
none, an ``ffn``, both with their ``kind`` (a name of `LAYER_KINDS`) and the fields of that kind; ``hidden`` defaults to
``hidden_size``. ``norms``, ``norm_width`` and ``parallel`` are fields of `Layer`.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, fields, replace
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import InputError, nearest
from ..layers import LAYER_KINDS, Attention, LayerKind, is_routed
from ..model import Layer, ModelSpec
from .config import MAX_LAYERS, SIZE_LIMIT, Config, shown
from .families import family
from .parts import assemble

LAYER_KEYS = ("times", "mixer", "ffn", "norms", "norm_width", "parallel")
MAX_DEPTH = 8
"""Maximum depth of parts within parts."""


@family("LayerList")
def layer_list(config: Config) -> ModelSpec:
    """Build a model from a list of layers written by kind."""
    groups = config.items("layers")
    if not groups:
        state = "is missing" if groups is None else "is empty"
        raise config.error("layers", f"{state}; a list of layers, each with a mixer, is required")
    layers: list[Layer] = []
    for i, group in enumerate(groups):
        entry = _entry(config, f"layers[{i}]", group)
        layer, times = _layer(entry), entry.size("times", default=1)
        if len(layers) + times > MAX_LAYERS:
            raise entry.error("times", f"makes more than {MAX_LAYERS} layers")
        layers += [layer] * times
    return assemble(config, tuple(layers))


def _entry(config: Config, key: str, value: Any) -> Config:
    """Return an object inside a list as a section of keys."""
    if not isinstance(value, dict):
        raise config.error(key, f"is {shown(value)}; an object is required")
    return replace(config, values=value, prefix=f"{config.prefix}{key}.", outer=config)


def _layer(config: Config) -> Layer:
    """Read one group of layers."""
    _known(config, LAYER_KEYS)
    hidden = config.nearest_with("hidden_size").size("hidden_size")
    mixer = layer_part(config.section("mixer"))
    ffn = layer_part(config.section("ffn")) if config.has("ffn") else None
    for key, part in (("mixer", mixer), ("ffn", ffn)):
        if part is not None and part.hidden != hidden:
            raise config.error(f"{key}.hidden", f"must be equal to hidden_size ({hidden}), not {part.hidden}")
    norms = config.count("norms", default=1 if ffn is None else 2)
    width = config.count("norm_width", default=hidden)
    return Layer(mixer, ffn, norms, width, config.flag("parallel", False))


def _known(config: Config, keys: tuple[str, ...]) -> None:
    for key in config.values:
        if key not in keys:
            raise config.error(key, f"unknown key{nearest(key, keys)}")


def layer_part(config: Config, depth: int = 0) -> LayerKind:
    """Read a layer part: ``kind`` and that kind's fields.

    Raises
    ------
    SpecError
        Unknown kind or field, a field missing or of the wrong type, or values that the kind refuses.
    """
    name = config.text("kind")
    if not name:
        raise config.error("kind", "is missing; the name of a layer kind is required")
    if name not in LAYER_KINDS:
        raise config.error("kind", f"unknown layer kind {shown(name)}{nearest(name, LAYER_KINDS)}")
    if depth == MAX_DEPTH:
        raise config.error("kind", f"is nested more than {MAX_DEPTH} deep")
    kind: Any = LAYER_KINDS[name]
    declared = fields(kind)
    _known(config, ("kind", *(f.name for f in declared)))
    hints = get_type_hints(kind)
    values = {f.name: _value(config, f, hints[f.name], depth) for f in declared if _given(config, f)}
    try:
        part: LayerKind = kind(**values)
    except InputError as error:
        raise config.error(error.subject, error.reason) from None
    _check(config, part)
    return part


def _given(config: Config, field: Field[Any]) -> bool:
    """Return whether a field must be read; an absent field with a default need not be."""
    without = field.default is MISSING and field.default_factory is MISSING
    return without or config.has(field.name)


def _value(config: Config, field: Field[Any], wanted: Any, depth: int) -> Any:
    """Return a field's value in the type that its kind declares; integers without a default are at least 1."""
    name = field.name
    if name == "hidden" and not config.has(name):
        return config.nearest_with("hidden_size").size("hidden_size")
    if wanted is bool:
        return config.flag(name, False)
    if wanted is int:
        return config.size(name, least=1 if field.default is MISSING else 0)
    if wanted is float or get_origin(wanted) is tuple:
        if not config.has(name):
            raise config.error(name, "is missing")
        return _plain(config, name, config.values[name], wanted)
    section = config.section(name)
    part = layer_part(section, depth + 1)
    if wanted is not LayerKind and not isinstance(part, wanted):
        raise section.error("kind", f"must be {wanted.kind}, not {part.kind}")
    return part


def _plain(config: Config, key: str, value: Any, wanted: Any) -> Any:
    """Return a number, or a (nested) list of numbers as tuples."""
    if get_origin(wanted) is tuple:
        inner = get_args(wanted)
        if not isinstance(value, list):
            raise config.error(key, f"must be a list, not {shown(value)}")
        if Ellipsis in inner:
            inner = (inner[0],) * len(value)
        if len(value) != len(inner):
            raise config.error(key, f"must have {len(inner)} entries, not {len(value)}")
        pairs = enumerate(zip(value, inner, strict=True))
        return tuple(_plain(config, f"{key}[{i}]", item, kind) for i, (item, kind) in pairs)
    integer = wanted is int
    if isinstance(value, bool) or not isinstance(value, int if integer else (int, float)):
        raise config.error(key, f"must be a {'whole ' if integer else ''}number, not {shown(value)}")
    if not abs(value) < SIZE_LIMIT:
        raise config.error(key, f"must be below {SIZE_LIMIT}, not {shown(value)}")
    return value if integer else float(value)


def _check(config: Config, part: LayerKind) -> None:
    """Check values of a part that its kind does not check itself."""
    if is_routed(part) and not 1 <= part.routed.top_k <= part.routed.experts:
        reason = f"must be from 1 to the number of experts ({part.routed.experts}), not {part.routed.top_k}"
        raise config.error("top_k", reason)
    if isinstance(part, Attention) and (part.kv_heads < 1 or part.heads % part.kv_heads):
        reason = f"must divide the {part.heads} query heads, {part.kv_heads} does not"
        raise config.error("kv_heads", reason)
