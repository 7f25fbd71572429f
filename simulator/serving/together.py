"""Engines that run in one compiled call, wherever they are of one kind; see `batching.level`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numba

from ...workloads.jit_held import Handle, address_of, kind_of
from ..batching.level import U_NODE, Fleet, Loop, bring_level, new_fleet, write_down
from ..batching.loop import GOAL, LOG_FULL, STUCK
from .engine import Engine


def able(engines: Sequence[Engine]) -> bool:
    """Whether engines can run so: several, that take requests as they come, in one of the plain loops."""
    config: Any = numba.config  # its stubs lack the setting
    return len(engines) > 1 and not config.DISABLE_JIT and all(
        engine.exact is None and engine.spec is None and engine.pipe is None
        and engine.clients is None and not engine.chained and not engine.keep_plans
        for engine in engines
    )  # fmt: skip


@dataclass(slots=True)
class Together:
    """Engines of one kind on one clock."""

    engines: Sequence[Engine]
    level: bool  # whether they see each other's caches, and so run level with each other
    fleet: Fleet = field(init=False)  # what is known of each
    stale: set[int] = field(init=False)  # those whose state may have been replaced
    # Written down; alive as long as their addresses are known.
    _loops: list[Loop] = field(init=False)
    _kind: bytes = b""
    _like: Handle | None = None

    def __post_init__(self) -> None:
        self.fleet, self._loops, self.stale = new_fleet(len(self.engines)), [], set()

    @classmethod
    def of(cls, engines: Sequence[Engine], level: bool) -> Together | None:
        """Those engines, if they can run so and are of one kind."""
        if not able(engines) or len({kind_of(_loop(engine)) for engine in engines}) > 1:
            return None
        return cls(engines, level)

    def bring(self, until: float, stops: bool, told: Callable[[], None] | None) -> int | None:
        """Run engines up to a time, or to completions; on which engine there are such that matter.

        Parameters
        ----------
        stops : bool
            Whether completions matter.
        told : callable, optional
            Called every now and then.
        """
        like, fleet, status = self.refresh(), self.fleet, LOG_FULL
        fleet.limit[1] = until
        while status == LOG_FULL:
            status = bring_level(fleet, like, stops, self.level)
            self.emptied(status)
            if told is not None:
                told()
        return int(fleet.under[1]) if status == GOAL else None

    def emptied(self, status: int) -> None:
        """Take what an engine's log holds that has no room for more."""
        if status in (LOG_FULL, STUCK):
            # Where nothing is under way any engine says that all are stuck.
            self.engines[max(int(self.fleet.under[U_NODE]), 0)].take_log(status)

    def refresh(self) -> Loop:
        """Let compiled code find engines' states that have been replaced; any of them, for its type."""
        if not self._loops:
            self._loops = [_loop(engine) for engine in self.engines]
            self._kind = kind_of(self._loops[0])
            for n in range(len(self.engines)):
                self._write(n)
            self._like = Handle(self._loops[0])
        for n in self.stale:
            if self.engines[n].state is not self._loops[n].state:
                self._loops[n] = _loop(self.engines[n])
                self._write(n)
        self.stale.clear()
        return cast(Loop, self._like)

    def _write(self, n: int) -> None:
        """Write down what an engine's steps run on."""
        loop = self._loops[n]
        if kind_of(loop) != self._kind:
            raise RuntimeError("engines of a fleet are no longer of one kind; a bug")
        write_down(loop)
        self.fleet.loops[n] = address_of(loop)


def _loop(engine: Engine) -> Loop:
    return Loop(engine.plan, engine.limits, engine.kv, engine.state, engine.books)
