"""Systems of a result with the sources of their numbers, for the end of its report."""

from __future__ import annotations

from pathlib import Path

from ...devices.catalog import describe_system
from ...devices.hosts.catalog import host_sources
from ...devices.spec import SystemSpec
from ...simulator.deploy.deployment import Deployment
from ..show.result import Rests


def basis_of(
    given: str | Path | SystemSpec, loaded: SystemSpec, deployment: Deployment | None = None, host: str | None = None
) -> Rests:
    """Return a system with the sources of its numbers; there are none if it was given as an object.

    Parameters
    ----------
    given : str, Path or SystemSpec
        The system as the user named it.
    loaded : SystemSpec
        The system that was loaded from it.
    host : str, optional
        Host of the devices, by name or file.
    """
    if isinstance(given, SystemSpec):
        return Rests(loaded, {}, deployment)
    sources = describe_system(given)[1] | host_sources(loaded, host)
    return Rests(loaded, sources, deployment)
