"""A part that makes steps longer and counts something: the server pauses after every N steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from opbyte.extend import CheckedOptions, Figures, InputError, Part, Quantity, add, described, real, whole
from opbyte.extend.engine import EnginePart, by_address, compiled_code, named, records

PAUSES = named("last count", "seconds")
"""Step before which the last pause was, pauses, and their seconds."""


@described
@dataclass(frozen=True, slots=True)
class PauseOptions(CheckedOptions):
    """Pauses of the server, of its memory management for example."""

    pause_every: int | None = whole("Pause after this number of steps.", 1, unit="steps")
    pause_s: float | None = real("Length of a pause; 10 ms unless given.", 0.0, 1e3, unit="s")


@by_address
class Pauses(NamedTuple):
    """State of the part in one engine."""

    every: int
    length_s: float
    pauses: Any  # [1] of `PAUSES`


@compiled_code
def begins(pauses: Pauses, state: Any, start: float) -> float:
    """When a step begins that could begin at `start`."""
    row, steps = pauses.pauses[0], state.counters[0].steps
    if steps - row.last < pauses.every:
        return start
    row.last = steps
    row.count += 1
    row.seconds += pauses.length_s
    return start + pauses.length_s


@compiled_code
def alike(pauses: Pauses, state: Any, limits: Any, kv_rules: Any) -> int:
    """Steps until the next pause: `begins` is asked before the first of equal steps only."""
    left = pauses.pauses[0].last + pauses.every - state.counters[0].steps
    return left if left > 0 else pauses.every


class Pausing(EnginePart):
    """The part in one engine."""

    hooks = ({"begins": begins, "alike": alike},)

    def start(self, engine: Any) -> Pauses:
        every, length_s = engine.deployment.parts["pauses"]
        return Pauses(every, length_s, records(1, PAUSES))


def value(options: PauseOptions, said: Any) -> tuple[int, float] | None:
    if options.pause_every is None:
        if options.pause_s is not None:
            raise InputError("--pause-s", "needs --pause-every N")
        return None
    return options.pause_every, 0.01 if options.pause_s is None else options.pause_s


@dataclass(frozen=True)
class Left:
    """What the part did in a run."""

    count: int
    seconds: float


def collect(run: Any, served: Any, stream: Any, warmup: Any) -> Left:
    rows = [engine.parts["pauses"].pauses[0] for engine in served.engines]
    return Left(int(sum(row.count for row in rows)), float(sum(row.seconds for row in rows)))


FIGURES = Figures("pauses", "Pauses", (
    Quantity("count", "Pauses of all engines.", label="pauses"),
    Quantity("seconds", "Their length in total [s].", unit="s", label="in total"),
))  # fmt: skip
add(
    Part(
        "pauses", "--pause-every", "pauses of the server", options=PauseOptions, scope="deployment",
        asked=lambda a: a.part("pauses") is not None,
        hooks={"value": value, "engine": Pausing, "collect": collect, "figures": FIGURES},
        cannot={
            "sglang": "its scheduler runs its steps itself", "tensorrt-llm": "its scheduler runs its steps itself",
        },
    )
)  # fmt: skip

if __name__ == "__main__":
    from opbyte import simulate

    load = {"rate": 8.0, "requests": 200, "input_len": 256, "output_len": 64}
    for every in (None, 100, 10):
        run = simulate(
            "llama-3-8b", "h100-x1", policy="vllm", **load, pause_every=every, pause_s=0.05 if every else None
        )
        print(every, f"{run.run.tpot_s.p50 * 1e3:.2f} ms per token", run.to_dict().get("pauses"))
