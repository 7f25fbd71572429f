"""Unknown classes: read by the family that supports every key, else refused with the nearest families.

A family is tried on the file's keys, and the keys that it reads are recorded. Names of classes are not compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..model import ModelSpec
from ..registry import Registry
from ..yamlfile import read_yaml
from .config import Config, shown

LISTS = read_yaml(Path(__file__).parent / "guess.yaml")
"""Names of keys, activations and classes that a guess goes by."""
SIZES = re.compile(
    r"^(?!.*(vision|image|video|audio|rotary)).*(experts|experts_per_tok|_dim|_rank|_heads|_layers|intermediate_size)$"
)
"""Keys that say something all the same."""
CLOSEST = 3
"""Families that a refusal names."""


Family = Callable[[Config], ModelSpec]


@dataclass(frozen=True, slots=True)
class _Read(Mapping[str, Any]):
    """Keys of a file that remember which were looked at."""

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
    """A family on the keys of a file: the keys it read, how many it asked for, the model if it could be built."""

    name: str
    read: frozenset[str]
    asked: int
    model: ModelSpec | None


def meaningful(values: Mapping[str, Any]) -> set[str]:
    """Keys that may say something of a model's structure: switches that are off and nulls do not."""
    strange = {k for k in ("hidden_act", "activation_function") if values.get(k, "silu") not in LISTS["gated"]}
    return strange | {
        key for key, value in values.items()
        if value not in (None, False, "") and value != [] and value != {}
        and (SIZES.search(key) or not any(part in key for part in LISTS["no_structure"]))
    }  # fmt: skip


def guess(config: Config, file: Config, known: Registry[Family], key: str = "architectures") -> ModelSpec:
    """Read a file of an unknown class as a family that understands all its keys, with a note that says so.

    `config` is the section that holds the text model's keys, `file` what names the class, `known` every family by class.

    Raises
    ------
    SpecError
        If no family fits: the message names the families that share most of its keys, and the unread keys.
    """
    for names, why in LISTS["refused"].items():
        if config.architecture.startswith(tuple(names.split(", "))):
            raise file.error(key, f"{config.architecture} cannot be costed: {why}")
    wanted = meaningful(config.values)
    usual = {name: i for i, name in enumerate(LISTS["usual"])}
    tries = sorted(
        _tries(config, known), key=lambda t: (-len(t.read & wanted), usual.get(t.name, len(usual)), t.asked, t.name)
    )
    complete = [t for t in tries if t.model is not None and wanted <= t.read]
    noun = "architecture" if key == "architectures" else "model type"
    if complete and wanted and key == "architectures" and config.architecture.endswith(tuple(LISTS["generators"])):
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
            reason += f"; not understood by the first: {', '.join(strange)}"
    reason += "; write its layers out as architecture LayerList (docs/layer-lists.md)"
    raise (file.error(key, reason) if near else file.error(key, f"{reason}; known: {', '.join(known)}"))


def _tries(config: Config, known: Registry[Family]) -> list[_Try]:
    """Return every text family's reading of a file's keys, by its first class; papers' families are skipped."""
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
