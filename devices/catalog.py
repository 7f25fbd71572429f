"""Devices and systems by name: the package's catalog, and a user's YAML files.

A system is ``<device>-x<N>`` (one node of N devices), ``<device>-<nodes>x<N>``, or a file. Names and aliases ignore
case. Inside ``extends:`` and ``device:`` a bare name always means the catalog, and a text with a folder or a ``.yaml``
ending is a path relative to its file, so a user's file cannot replace a catalog device.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..workloads.errors import SpecError, nearest
from ..workloads.parameters import Template
from ..workloads.specfile import Description, below, build, describe, load_description, merge, source_table
from ..workloads.yamlfile import Sources, read_yaml
from .hosts.catalog import host_in
from .mapping import families, family, inherited
from .spec import MAX_DEVICES, DeviceSpec, MappingSpec, SystemSpec

FITTED = "-calibrated"
"""Suffix of a catalog name in ``extends``: the device's fits are inherited too. For catalog files of the same silicon."""

IDENTITY = ("name", "title", "aliases")
"""Keys of a device that ``extends`` does not inherit."""

_SYSTEM = re.compile(r"(?P<device>.+)-(?P<nodes>[0-9]+)?x(?P<devices>[0-9]+)")


def list_devices() -> list[str]:
    """Return the names of the catalog's devices, sorted."""
    return sorted(_catalog_files())


def fitted_devices() -> list[str]:
    """Return the names of the catalog's devices with kernel models fitted to their own measurements, sorted."""
    return [name for name in list_devices() if _calibrated(name) is not None]


def list_systems() -> list[str]:
    """Return a representative list of catalog systems; any ``<device>-<nodes>x<N>`` can be loaded."""
    systems = {f"{name}-{size}" for name, (f, _) in families().items() for size in f.sizes}
    return sorted(systems | {of_device(name)[0].name for name in {*list_devices(), *families()}})


def device_names() -> dict[str, str]:
    """Return the device's name for every name and alias of the catalog."""
    return {n: d for d in list_devices() for n in (d, *load_device(d)[0].aliases)}


def device_aliases() -> dict[str, str]:
    """Return the device's name for every alias of the catalog in lower case."""
    return dict(_aliases())


def load_device(
    name_or_path: str | Path, parameters: Mapping[str, float] | None = None
) -> tuple[DeviceSpec, dict[str, str]]:
    """Load a device of the catalog, by name or alias, or a YAML file.

    Parameters
    ----------
    parameters : mapping of str to number, optional
        Values of its `parameters` other than its own (`workloads.parameters`).

    Returns
    -------
    spec : DeviceSpec
        The description in SI units.
    sources : dict[str, str]
        Key path as written in the file -> source of that number.

    Raises
    ------
    SpecError
        No such device or file, or a file that is not a device description.

    Examples
    --------
    >>> load_device("H100-SXM-80GB")[0].name
    'h100'
    """
    if not isinstance(name_or_path, Path):
        catalog_name = _lookup(name_or_path)
        if catalog_name is not None:
            spec, sources = (
                build(DeviceSpec, device_template(catalog_name).at(parameters))
                if parameters
                else _catalog_device(catalog_name)
            )
            return spec, Sources(sources)
        if not is_path(name_or_path):
            raise SpecError(repr(name_or_path), f"unknown device{_suggest(name_or_path)}")
    return _own_device(device_template(Path(name_or_path)).at(parameters))


def device_template(name_or_path: str | Path) -> Template:
    """Return a device's description with its expressions not yet evaluated; see :func:`load_device`."""
    catalog_name = None if isinstance(name_or_path, Path) else _lookup(name_or_path)
    if catalog_name is None:
        return Template(load_description(Path(name_or_path), _find, IDENTITY))
    path = _catalog_files()[catalog_name]
    description, fitted = load_description(path, _find, IDENTITY), _calibrated(catalog_name)
    if fitted is not None:
        raw = {k: v for k, v in read_yaml(fitted).items() if k in ("sources", "calibration")}
        description = Description(merge(description.tree, describe(raw, fitted).tree), path)
    return Template(description)


def load_system(name: str | Path) -> SystemSpec:
    """Load ``<device>-x<N>``, ``<device>-<nodes>x<N>``, a system file or a device file.

    A system file has ``name``, ``device`` (a name, a path, or a mapping that may ``extends``), ``devices_per_node``,
    ``nodes`` and optionally ``host``. A device file means one device.

    Raises
    ------
    SpecError
        Unknown name, wrong count, or a file that is not a description.

    Examples
    --------
    >>> system = load_system("duplex-2x8")
    >>> system.device.name, system.nodes, system.devices_per_node
    ('duplex', 2, 8)
    """
    return describe_system(name)[0]


def describe_system(
    name: str | Path, parameters: Mapping[str, float] | None = None
) -> tuple[SystemSpec, dict[str, str]]:
    """Load a system as :func:`load_system` does, with the source of every number.

    `parameters` belong to its device, see :func:`load_device`.
    """
    if not isinstance(name, Path):
        named = _named_system(name, parameters)
        if named is not None:
            return named
        if not is_path(name):
            raise _unknown_system(name)
    path = Path(name)
    raw = read_yaml(path)
    if "device" in raw:
        return _system_file(raw, path, parameters)
    return of_device(path, parameters=parameters)


def of_device(
    name_or_path: str | Path,
    devices: int | None = None,
    nodes: int = 1,
    counted: bool = False,
    parameters: Mapping[str, float] | None = None,
) -> tuple[SystemSpec, dict[str, str]]:
    """Return a system of the device of a catalog name or file, with the mapping of that name or of what it extends.

    Parameters
    ----------
    devices : int, optional
        Devices of a node; the fewest that the mapping allows if not given.
    nodes : int
    counted : bool
        The name says how many nodes there are, even if one.
    """
    text = "" if isinstance(name_or_path, Path) else name_or_path
    known = family(text)
    device, sources = load_device(known[0].device if known else name_or_path, parameters)
    name, title = (known[0].name, known[0].title) if known else (device.name, device.title)
    mapping, given = MappingSpec(), dict[str, str]()
    if known is not None:
        mapping, given = known[0].mapping, known[1]
    elif _lookup(text) is None:
        mapping, given = inherited(read_yaml(Path(name_or_path)), Path(name_or_path))
    few = mapping.fewest(device) if devices is None else devices
    size = f"x{few}" if nodes == 1 and not counted else f"{nodes}x{few}"
    system = SystemSpec(name=f"{name}-{size}", title=title, device=device, devices_per_node=few,
                        nodes=nodes, mapping=mapping)  # fmt: skip
    return system, Sources(given | _of_device(sources))


def _named_system(name: str, parameters: Mapping[str, float] | None) -> tuple[SystemSpec, dict[str, str]] | None:
    """Return the system of a name, or None if it is not in the catalog."""
    match = _SYSTEM.fullmatch(name)
    if match is None or not _taken(match["device"]):
        return None
    counts = [match["devices"], match["nodes"] or "1"]
    # The length first: int() refuses thousands of digits in its own way.
    if any(len(count) > 9 or not 1 <= int(count) <= MAX_DEVICES for count in counts):
        raise SpecError(repr(name), f"devices per node and nodes must be 1 to {MAX_DEVICES}")
    try:
        devices, nodes = map(int, counts)
        many = match["nodes"] is not None
        return of_device(match["device"], devices, nodes, counted=many, parameters=parameters)
    except ValidationError as error:
        raise SpecError(repr(name), str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from None


def _of_device(sources: Mapping[str, str]) -> dict[str, str]:
    """Return the sources of a device's numbers under the keys of a system."""
    return {f"device.{key}": source for key, source in sources.items()}


def _taken(name: str) -> bool:
    """Return whether a name is in the catalog, as a device or as a family of systems."""
    return family(name) is not None or _lookup(name) is not None


def _unknown_system(name: str) -> SpecError:
    device = _lookup(name)
    if device is not None:
        return SpecError(repr(name), f"is a device; a system is {device + '-x1'!r} or more of it")
    match = _SYSTEM.fullmatch(name)
    if match is not None and match["device"].lower().endswith((".yaml", ".yml")):
        return SpecError(
            repr(name), "cannot add a number of devices to a file; write a system file: name, device: "
            f"{match['device']}, devices_per_node: {match['devices']}",
        )  # fmt: skip
    if match is None:
        close = suggestion(name) or "; a system is <device>-x<N>, <device>-<nodes>x<N> or a YAML file"
        return SpecError(repr(name), f"unknown system{close}")
    return SpecError(repr(name), f"the name has an unknown device{_suggest(match['device'])}")


def suggestion(name: str) -> str:
    """Return the most similar system or device name for the end of an error message; empty if none is similar."""
    close = (nearest(name, list_systems()), _suggest(name))
    return next((text for text in close if text.startswith("; did you mean")), "")


def _suggest(name: str) -> str:
    """Return the most similar device name or alias, or the list of names (aliases would make it too long)."""
    close = nearest(name, [*list_devices(), *_aliases()])
    return close if close.startswith("; did you mean") else nearest(name, list_devices())


def _system_file(
    raw: dict[str, Any], path: Path, parameters: Mapping[str, float] | None
) -> tuple[SystemSpec, dict[str, str]]:
    """Read a system's file; its device and host are names, paths or descriptions."""
    device, host = raw.pop("device"), raw.pop("host", None)
    raw.pop("design", None)  # what a search makes of it (`analysis.studies.design`)
    table = source_table(raw, path)
    tree = describe(raw, path).tree
    mapping, inner = inherited(device, path)
    if isinstance(device, dict):
        template = Template(describe(device, path, _find, IDENTITY, table))
        tree["device"] = template.at(parameters).tree
    elif isinstance(device, str):
        catalog_name = _lookup(device)
        spec, given = load_device(catalog_name if catalog_name is not None else _find(device, path), parameters)
        tree["device"] = spec
        inner = inner | _of_device(given)
    else:
        raise SpecError(f"{path}: device", "must be a name, a path or a device description")
    if host is not None:
        tree["host"], of_host = host_in(host, path, table)
        inner = inner | of_host
    if isinstance(tree.get("mapping", {}), dict):
        tree["mapping"] = merge(mapping.model_dump(), tree.get("mapping", {}))
    system, sources = build(SystemSpec, Description(tree, path))
    taken = _SYSTEM.fullmatch(system.name)
    if taken is not None and _taken(taken["device"]):
        raise SpecError(f"{path}: name", f"{system.name!r} is a catalog system; choose another")
    if isinstance(device, dict):
        _refuse_taken(system.device.name, f"{path}: device.name")
    return system, Sources(inner | sources)


def _own_device(description: Description) -> tuple[DeviceSpec, dict[str, str]]:
    spec, sources = build(DeviceSpec, description)
    if not description.path.resolve().is_relative_to(_folder().resolve()):
        _refuse_taken(spec.name, f"{description.path}: name")
    return spec, sources


def system_template(path: Path) -> Template:
    """Return the device of a system's file with its expressions not yet evaluated.

    Raises
    ------
    SpecError
        No system's file.
    """
    raw = read_yaml(path)
    device = raw.get("device")
    if isinstance(device, dict):
        return Template(describe(device, path, _find, IDENTITY, source_table(raw, path)))
    if not isinstance(device, str):
        raise SpecError(f"{path}: device", "must be a name, a path or a device description")
    catalog_name = _lookup(device)
    return device_template(catalog_name if catalog_name is not None else _find(device, path))


def _refuse_taken(name: str, where: str) -> None:
    if _lookup(name) is not None:
        raise SpecError(where, f"{name!r} is a catalog device; choose another name")


def _find(text: str, path: Path) -> Path:
    """Convert the text after ``extends:`` or ``device:`` in the file `path` to a path."""
    if text.startswith("_") and (shared := _folder() / f"{text}.yaml").is_file():
        return shared
    fitted = _calibrated(text.removesuffix(FITTED)) if text.endswith(FITTED) else None
    if fitted is not None:
        return fitted
    catalog_name = _lookup(text)
    if catalog_name is not None:
        # A catalog file takes over another's hardware, never its fit; a user's file takes both.
        is_catalog = path.resolve().is_relative_to(_folder().resolve())
        fitted = None if is_catalog else _calibrated(catalog_name)
        return fitted or _catalog_files()[catalog_name]
    if is_path(text):
        return below(path, text)
    raise SpecError(path, f"unknown device {text!r}{_suggest(text)}")


def is_path(text: str) -> bool:
    """Return whether a text means a file and not a catalog name."""
    return text.lower().endswith((".yaml", ".yml")) or os.sep in text or "/" in text


def _folder() -> Path:
    return Path(str(files("opbyte.devices") / "specs"))


def _calibrated(name: str) -> Path | None:
    """Return the file of a catalog device's fitted parameters, as ``opbyte calibrate`` writes it; None without one."""
    path = _folder() / "calibrated" / f"{name}.yaml"
    return path if path.is_file() else None


@cache
def _catalog_files() -> dict[str, Path]:
    """Return the file of each device by name; files that begin with an underscore are not devices."""
    return {path.stem: path for path in sorted(_folder().glob("[!_]*.yaml"))}


@cache
def _aliases() -> dict[str, str]:
    """Return the device's name for each alias in lower case, from the files' ``aliases``."""
    return index_aliases(_catalog_files())


def index_aliases(catalog: dict[str, Path]) -> dict[str, str]:
    """Map each alias to its device; refuse an alias of two devices, or one that is a device's name."""
    owners: dict[str, str] = {}
    for name, path in catalog.items():
        for alias in read_yaml(path).get("aliases", ()):
            key = str(alias).lower()
            owner = key if key in catalog else owners.get(key)
            if owner is not None:
                raise SpecError(f"{path}: aliases", f"{alias!r} already means {owner!r}")
            owners[key] = name
    return owners


def _lookup(name: str) -> str | None:
    """Return the catalog name for a name or alias, ignoring case; None if there is none."""
    key = name.lower()
    if key in _catalog_files():
        return key
    return _aliases().get(key)


@cache
def _catalog_device(name: str) -> tuple[DeviceSpec, dict[str, str]]:
    description = device_template(name).at()
    spec, sources = build(DeviceSpec, description)
    if spec.name != name:
        raise SpecError(f"{description.path}: name", f"must be {name!r}, as the file is named")
    return spec, sources
