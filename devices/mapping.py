"""Named families of systems, each a device with a mapping of models: ``specs/systems/*.yaml``.

A system's name before its size (``duplex-pe`` of ``duplex-pe-x4``) may mean a device and a mapping. All other names are
devices, mapped by the defaults of `MappingSpec`.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from os.path import isfile
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ..workloads.specfile import Spec, build, load_description
from ..workloads.yamlfile import read_yaml
from .spec import MappingSpec, Name

Sources = dict[str, str]


class FamilySpec(Spec):
    """Systems of one device and one mapping: ``NAME-x4`` and so on; `sizes` are those listed."""

    name: Name
    title: str
    aliases: tuple[str, ...] = ()
    device: Name
    sizes: tuple[Annotated[str, Field(pattern=r"^([0-9]+)?x[0-9]+$")], ...] = ()
    mapping: MappingSpec


def family(name: str) -> tuple[FamilySpec, Sources] | None:
    """Return the family of a name or alias, ignoring case, with its numbers' sources; None if there is none."""
    key = name.lower()
    return next((f for f in families().values() if key in (f[0].name, *f[0].aliases)), None)


@cache
def families() -> dict[str, tuple[FamilySpec, Sources]]:
    """Return all families by name."""
    folder = Path(str(files("opbyte.devices") / "specs" / "systems"))
    specs = [build(FamilySpec, load_description(path)) for path in sorted(folder.glob("*.yaml"))]
    return {spec.name: (spec, sources) for spec, sources in specs}


def inherited(device: Any, path: Path) -> tuple[MappingSpec, Sources]:
    """Return the mapping of a user's device: the mapping of the catalog name that it is or extends.

    Parameters
    ----------
    device : str or dict
        A name or a path, or a description that may have ``extends``.
    path : Path
        The file that contains it.
    """
    text = device.get("extends") if isinstance(device, dict) else device
    if not isinstance(text, str):
        return MappingSpec(), {}
    known = family(text)
    if known is not None:
        return known[0].mapping, known[1]
    below = path.parent / text
    return inherited(read_yaml(below), below) if isfile(below) else (MappingSpec(), {})  # a name may be too long
