"""One call for many tasks, over processes of this machine (`local`) or of a cluster (`cluster`)."""

from collections.abc import Callable

OnProgress = Callable[[int, int], None]
"""Called with (done, all) as tasks finish."""
