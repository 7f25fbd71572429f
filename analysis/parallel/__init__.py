"""One call for many tasks, over processes of this machine (`local`) or of a cluster (`cluster`)."""

from collections.abc import Callable

Told = Callable[[int, int], None]
"""Told (done, all) as tasks finish."""
