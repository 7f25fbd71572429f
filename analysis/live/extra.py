"""Packages of the extra ``[serve]``, asked for where they are needed."""

from __future__ import annotations

from importlib.util import find_spec

from ...workloads.errors import InputError

MOST_FILES = 65_536
"""Connections and files that a process asks to have open."""


def needs(package: str, command: str) -> None:
    """Refuse a command whose package is not installed.

    Raises
    ------
    InputError
        Says what to install.
    """
    if find_spec(package) is None:
        raise InputError(f"opbyte {command}", f"needs {package}: pip install 'opbyte[serve]'")


def more_files() -> None:
    """Allow as many open connections as the system lets a process have."""
    try:
        import resource
    except ImportError:  # not of this system
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
