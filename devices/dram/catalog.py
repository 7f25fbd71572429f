"""DRAM standards by name: the package's descriptions, and a user's own YAML files."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ...workloads.errors import SpecError, nearest
from ...workloads.specfile import below, build, load_description
from .spec import DramSpec

IDENTITY = ("name", "title", "aliases")
"""Keys of a standard that ``extends`` does not hand down."""

_SPECS = Path(__file__).parent / "specs"


def list_memories() -> list[str]:
    """Names of the DRAM standards that the package describes, sorted."""
    return sorted(_files())


def load_memory(name: str | Path) -> DramSpec:
    """Load a DRAM standard by name (case does not matter) or from a YAML file.

    Raises
    ------
    SpecError
        No such standard or file, or a file that does not describe one.

    Examples
    --------
    >>> round(load_memory("hbm3-6400-8hi").channel_bytes_per_s / 1e9, 1)
    51.2
    """
    return describe_memory(name)[0]


def describe_memory(name: str | Path) -> tuple[DramSpec, dict[str, str]]:
    """Load a standard as :func:`load_memory` does, with the source of every number."""
    if isinstance(name, str) and not _is_path(name):
        path_found = _names().get(name.lower())
        if path_found is None:
            raise SpecError(repr(name), f"unknown memory{nearest(name.lower(), _names())}")
        spec, sources = _catalog_memory(path_found)
        return spec, dict(sources)
    path = Path(name)
    return build(DramSpec, load_description(path, _find, IDENTITY))


def _is_path(name: str) -> bool:
    return "/" in name or name.endswith((".yaml", ".yml"))


def _find(name: str, beside: Path) -> Path:
    """Return the file of ``extends: name`` in the file `beside`."""
    if _is_path(name):
        return below(beside, name)
    files = _files()
    if name not in files:
        raise SpecError(f"{beside}: extends", f"unknown memory {name!r}{nearest(name, files)}")
    return files[name]


@cache
def _files() -> dict[str, Path]:
    return {path.stem: path for path in sorted(_SPECS.glob("*.yaml"))}


@cache
def _names() -> dict[str, str]:
    """Names and aliases in lower case -> name of the file."""
    out: dict[str, str] = {}
    for name in _files():
        spec, _ = _catalog_memory(name)
        out |= {alias.lower(): name for alias in (name, *spec.aliases)}
    return out


@cache
def _catalog_memory(name: str) -> tuple[DramSpec, dict[str, str]]:
    path = _files()[name]
    spec, sources = build(DramSpec, load_description(path, _find, IDENTITY))
    if spec.name != name:
        raise SpecError(path, f"its name is {spec.name!r}; the file must be called so")
    return spec, sources
