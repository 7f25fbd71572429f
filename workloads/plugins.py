"""Plug-ins: modules of installed packages that the entry points of group ``opbyte.plugins`` name.

A package says in its ``pyproject.toml`` which of its modules register something::

    [project.entry-points."opbyte.plugins"] my-rules = "my_package.rules"

Importing such a module runs the decorators of the registries in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .errors import InputError, reason_of

GROUP = "opbyte.plugins"
OWN = {"opbyte.papers": "opbyte.analysis.papers", "opbyte.kinds": "opbyte.analysis.papers.kinds"}
"""Groups of entry points whose packages are imported on demand, and this distribution's package of each."""


@dataclass(slots=True)
class _Loading:
    """Whether this process has loaded the plug-ins, and the error of the first failure."""

    begun: bool = False
    error: InputError | None = None


_loading = _Loading()


def load_plugins() -> None:
    """Import the modules of all plug-ins, once in a process.

    Raises
    ------
    InputError
        A plug-in cannot be imported; the line names it, its package and why. It is raised again by
        every later call, since what the plug-in would have added is still missing.
    """
    if not _loading.begun:  # set first: a plug-in that lists a registry comes back to here
        _loading.begun = True
        try:
            _import_all()
        except InputError as error:
            _loading.error = error
    if _loading.error is not None:
        raise InputError(_loading.error.subject, _loading.error.reason)


def _import_all() -> None:
    """Import every plug-in, in order of their names."""
    from importlib.metadata import entry_points  # 20 ms that a known name needs not wait for

    for entry in sorted(entry_points(group=GROUP), key=lambda entry_point: entry_point.name):
        try:
            entry.load()
        except (Exception, SystemExit) as error:
            package = f" of {entry.dist.name} {entry.dist.version}" if entry.dist else ""
            raise InputError(
                f"plug-in {entry.name!r}{package}",
                f"cannot be loaded from {entry.value} ({reason_of(error)}); repair or uninstall it",
            ) from error


def packages_of(group: str) -> list[str]:
    """Return the packages that the entry points of a group name, of this and other distributions."""
    from importlib.metadata import entry_points

    packages = {entry.value for entry in entry_points(group=group)}
    return sorted(packages | {OWN[group]})  # a source tree may be installed from before it named it


def plugin_files() -> list[Path]:
    """Return the source files of all plug-ins: their modules and the packages that contain them."""
    from importlib.metadata import entry_points
    from importlib.util import find_spec

    files: set[Path] = set()
    for entry in entry_points(group=GROUP):
        spec = find_spec(entry.module.partition(".")[0])
        if spec is None:
            continue
        for place in spec.submodule_search_locations or ():
            files.update(Path(place).rglob("*.py"))
        if spec.origin is not None and not spec.submodule_search_locations:
            files.add(Path(spec.origin))
    return sorted(files)
