"""What the simulator's tests share: a rule for a while."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from opbyte.simulator.parts.autoscale.scalers import SCALERS, Seen


@pytest.fixture(scope="module")
def always() -> Iterator[str]:
    """A rule that wants what its target says, whatever is seen."""

    @SCALERS.register("always")
    def want(seen: Seen, target: float) -> float:
        """So many."""
        return target

    yield "always"
    del SCALERS._items["always"]
