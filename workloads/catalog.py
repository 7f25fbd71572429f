"""The model catalog: named models, one file each in ``models/``, in the keys of ``config.json``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .errors import InputError, SpecError, nearest
from .hf import model_from_keys, read_config
from .hf.read import YAML
from .model import ModelSpec
from .specfile import SourcedNumber, load_description
from .yamlfile import read_yaml

MODELS = Path(__file__).parent / "models"
VARIANTS = ("-instruct", "-hf", "-chat", "-base", "-it")
"""Suffixes of hub identifiers that do not change the model's dimensions."""
QUANTISED = {"-fp8": "fp8 or fp8_block", "-fp8-block": "fp8_block", "-nvfp4": "nvfp4", "-fp4": "nvfp4"}
"""Suffixes of hub identifiers for quantised copies -> the number format to pass as ``--dtype``."""
HUB = Path(__file__).parent / "hub.yaml"
"""File that maps each model's checkpoint to its published copies in other number formats."""
OWN_CODE = Path(__file__).parent / "own_code.yaml"
"""File that lists checkpoints whose repositories carry code that engines run only with permission."""
KEYS = {"name", "title", "aliases", "config"}


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """One entry of the catalog.

    Attributes
    ----------
    name, title : str
        What commands call it, and what people do.
    aliases : tuple of str
        Other names, the hub's among them.
    source : str
        Where the dimensions come from.
    config : dict
        Keys of a ``config.json``, dimensions only.
    path : Path
        The file.
    """

    name: str
    title: str
    aliases: tuple[str, ...]
    source: str
    config: dict[str, Any]
    path: Path

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


def list_models() -> list[str]:
    """Names of the catalog, sorted."""
    return sorted(path.stem for path in MODELS.glob("*.yaml"))


def catalog_entry(name: str) -> CatalogModel | None:
    """Find an entry by its name, an alias or a hub identifier, in any case; None if there is none."""
    wanted = name.lower()
    if wanted in list_models():
        return _read(MODELS / f"{wanted}.yaml")
    if wanted in _aliases():
        return _read(_aliases()[wanted])
    # A hub's identifier: who published it, and often what was done to the weights since. A folder
    # of that path is the user's own model, whatever its name.
    publisher, _, short = wanted.partition("/")
    if publisher in ("", ".", "..", "~") or not short or "/" in short or os.path.exists(name):
        return None
    short = short.removeprefix("meta-")
    for ending in ("", *VARIANTS):
        base = short.removesuffix(ending)
        if base in list_models():
            return _read(MODELS / f"{base}.yaml")
        if base in _aliases():
            return _read(_aliases()[base])
    return None


@cache
def _aliases() -> dict[str, Path]:
    """Return the catalog file of each alias; aliases are in lower case."""
    files = [MODELS / f"{name}.yaml" for name in list_models()]
    known = {alias.lower(): file for file in files for alias in _read(file).aliases}
    return {alias.rpartition("/")[2]: file for alias, file in known.items()} | known


def load_model(model: str | Path) -> ModelSpec:
    """Load a model by catalog name or alias, else from a ``config.json``, its folder, or its keys as YAML.

    A name of the catalog wins over a file of the same name; write ``./name`` for the file.

    Raises
    ------
    InputError
        Neither a known name nor a path; or a file that cannot be read as a model.
    """
    entry = catalog_entry(model) if isinstance(model, str) else None
    if entry is not None:
        return _catalog_model(entry.name)
    text = str(model)
    if is_model_path(text) or (isinstance(model, Path) and model.exists()):
        return read_config(model)
    close = _quantised(text) or nearest(text.rpartition("/")[2].lower(), list_models())
    if not close.startswith(("; did you mean", "; give")):
        close = "; see opbyte list models"
    what = "is neither a model of the catalog nor a config.json or its folder"
    raise InputError(f"{text!r:.80}", what + close)


@cache
def _catalog_model(name: str) -> ModelSpec:
    """Return the model of an entry, built once: a plan asks for it with every layout."""
    entry = _read(MODELS / f"{name}.yaml")
    return model_from_keys(entry.config, name=entry.name, where=f"{entry.path}: config", source=entry.source)


def _quantised(text: str) -> str:
    """Return the advice for a quantised checkpoint that is not in the catalog: the base model and a ``--dtype``."""
    for ending, formats in QUANTISED.items():
        entry = catalog_entry(text[: -len(ending)]) if text.lower().endswith(ending) else None
        if entry is not None:
            return f"; give {entry.name} and --dtype {formats}"
    return ""


def fp8_format(model: ModelSpec) -> str:
    """Return the fp8 format of a model's checkpoint: its config's, a listed copy's, or the usual one."""
    entry = catalog_entry(model.name)
    copies = [name for known, formats in read_yaml(HUB).items() if catalog_entry(known) == entry for name in formats]
    usual = "fp8" if model.architecture == "LlamaForCausalLM" else "fp8_block"  # NVIDIA's and Meta's
    return next((n for n in (model.numerics.weight_format("attention"), *copies) if n.startswith("fp8")), usual)


def is_model_path(text: str) -> bool:
    """Whether a text is the path of a model file or folder, and not a name of the catalog."""
    named = text.lower() in list_models() or text.lower() in _aliases()
    return not named and (text.endswith((".json", *YAML)) or os.path.exists(text))


@cache
def _read(path: Path) -> CatalogModel:
    tree = load_description(path).tree
    if set(tree) != KEYS or tree["name"] != path.stem or not isinstance(tree["config"], dict):
        raise SpecError(path, f"must be named like its file, and have exactly the keys {', '.join(sorted(KEYS))}")
    numbers = [leaf for leaf in _leaves(tree["config"]) if isinstance(leaf, SourcedNumber)]
    return CatalogModel(
        name=tree["name"],
        title=tree["title"],
        aliases=tuple(tree["aliases"]),
        source=numbers[0].source,
        config=_plain(tree["config"]),
        path=path,
    )


def _leaves(node: Any) -> list[Any]:
    if isinstance(node, dict):
        node = list(node.values())
    return [leaf for item in node for leaf in _leaves(item)] if isinstance(node, list) else [node]


def _plain(node: Any) -> Any:
    """Replace each number with a source by the bare number, as in a ``config.json``."""
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    return node.value if isinstance(node, SourcedNumber) else node
