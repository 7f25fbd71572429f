"""Ranking of CPU kernel configurations for this machine from a few rates of its core.

`opbyte measure configs` times all of them and scores the choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ...devices.tiles.cpu import FORMS, Core
from ...kernels.ceilings import rates
from ...kernels.configs import SPACES, ConfigSpace, this_core
from ...kernels.host import this_host
from ...kernels.jit import use_threads
from ...kernels.lab import Bench
from ...workloads.errors import InputError, nearest
from ..show.output import SIGNIFICANT
from ..show.result import Result
from ..show.text import Blocks, Rows, seconds

BLOCK_BYTES = 256 << 20
EVIDENCE = (
    "slots of the loops and traffic of the caches (devices/tiles/cpu.py); rates of this core measured now; "
    "`opbyte measure configs` times every configuration"
)


@dataclass(frozen=True, slots=True)
class HostChoice:
    """One configuration: its seconds by what they are spent on."""

    config: Mapping[str, int]
    terms: Mapping[str, float]

    @property
    def seconds(self) -> float:
        return sum(self.terms.values())

    @property
    def bound(self) -> str:
        """What takes the most."""
        return max(self.terms, key=lambda name: self.terms[name])


@dataclass(frozen=True, slots=True)
class HostTune(Result):
    """Ranked configurations of a CPU kernel; see `tune_host`."""

    FILE = "tune.json"
    TABLES = (("tune.csv", "frame", SIGNIFICANT),)

    kernel: str
    device: str
    shape: Mapping[str, int]
    default: HostChoice
    found: tuple[HostChoice, ...]
    top: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "kernel": self.kernel, "device": self.device, "shape": dict(self.shape),
            "searched": len(self.found), "invalid": {},
            "default": {"config": dict(self.default.config), "seconds": self.default.seconds,
                        "bound": self.default.bound},
            "ranked": [
                {"rank": i, "config": dict(c.config), "seconds": c.seconds, "bound": c.bound,
                 "terms": dict(c.terms), "why": self.why(c)}
                for i, c in enumerate(self.found[: self.top], 1)
            ],
            "evidence": [EVIDENCE],
        }  # fmt: skip

    def why(self, choice: HostChoice) -> str:
        """A sentence from the terms."""
        shares = {name: part / choice.seconds for name, part in choice.terms.items()}
        first, *rest = sorted(shares.items(), key=lambda item: -item[1])
        text = ", ".join(f"{name} {share:.0%}" for name, share in rest if share >= 0.01)
        saved = self.default.seconds / choice.seconds
        return f"{first[0]} {first[1]:.0%}" + (f", {text}" if text else "") + (
            f"; the default takes {saved:.2f} times as long"
        )  # fmt: skip

    def records(self) -> Rows:
        return [
            {"rank": i, **c.config, "seconds": c.seconds, "bound": c.bound,
             **{f"{name}_s": part for name, part in c.terms.items()}}
            for i, c in enumerate(self.found[: self.top], 1)
        ]  # fmt: skip

    def rows(self) -> Rows:
        return [
            {"rank": i, **c.config, "time": seconds(c.seconds), "bound": c.bound}
            for i, c in enumerate(self.found[: self.top], 1)
        ]

    def blocks(self) -> Blocks:
        shape = ", ".join(f"{k} {v}" for k, v in self.shape.items())
        return [
            f"{self.kernel} on {self.device}, one thread: {shape}; {len(self.found)} configurations",
            self.rows(), f"1: {self.why(self.found[0])}", EVIDENCE,
        ]  # fmt: skip


def tune_host(kernel: str, shape: Mapping[str, object], top: int = 10) -> HostTune:
    """Rank the configurations of a CPU kernel on this machine, without running it.

    Parameters
    ----------
    kernel : str
        A kernel of `kernels.configs.SPACES`.
    shape : mapping
        Its shape columns.

    Raises
    ------
    InputError
        An unknown kernel, or a shape that is not the kernel's.
    """
    names = [space.name for space in SPACES]
    if kernel not in names:
        known = ", ".join(names)
        raise InputError(f"KERNEL {kernel!r}", f"has no configurations here{nearest(kernel, names)}; known: {known}")
    space = SPACES[names.index(kernel)]
    sizes = _checked(space, shape)
    use_threads(1)
    bench = Bench(BLOCK_BYTES, 1)
    of = Core.of(asdict(rates(bench)) | this_core(bench))
    form = FORMS[kernel]

    def priced(config: Any) -> HostChoice:
        fields = asdict(config)
        return HostChoice(fields, form.terms(form.start, of, sizes, fields))

    ranked = sorted(map(priced, space.configs()), key=lambda choice: choice.seconds)
    return HostTune(kernel, this_host(1).device, sizes, priced(space.default), tuple(ranked), top)


def _checked(space: ConfigSpace, shape: Mapping[str, object]) -> dict[str, int]:
    """The shape's numbers in the order of its columns; `window` is 0 where it is not given."""
    for name in shape:
        if name not in space.shape:
            raise InputError(f"--shape {name}", f"is not a key of {space.name}{nearest(name, space.shape)}")
    out = {}
    for name in space.shape:
        value = shape.get(name, 0 if name in ("window", "kv_prefix") else None)
        try:
            number = int(str(value))
        except ValueError:
            number = -1
        if number < (0 if name in ("window", "kv_prefix") else 1):
            raise InputError(f"--shape {name}", f"must be a whole number, not {value!r:.40}")
        out[name] = number
    if "heads_q" in out and out["heads_q"] % out["heads_kv"]:
        raise InputError("--shape heads_q", f"must be a multiple of heads_kv, {out['heads_kv']}")
    return out
