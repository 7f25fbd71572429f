"""Packages of the extra ``[serve]``, asked for where they are needed."""

from __future__ import annotations

from importlib.util import find_spec

from ...workloads.errors import InputError


def needs(package: str, command: str) -> None:
    """Refuse a command whose package is not installed.

    Raises
    ------
    InputError
        Says what to install.
    """
    if find_spec(package) is None:
        raise InputError(f"opbyte {command}", f"needs {package}: pip install 'opbyte[serve]'")
