"""The commands that a channel sends, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

from .controller import advance
from .pattern import PatternRun
from .run import FOREVER, check
from .spec import DramSpec
from .state import new_channel
from .timing import ACT, COMMANDS, RD, RDA, REFAB, REFPB, WR, WRA


@dataclass(frozen=True, slots=True)
class Command:
    """A command: when [s], which, how long it occupies its target [s], and where.

    `bank` is -1 for commands to all banks of a pseudo channel, `row` for those without a row.
    """

    start_s: float
    name: str
    length_s: float
    pseudo_channel: int
    bank: int
    row: int


def timeline(memory: DramSpec, run: PatternRun, most: int) -> list[Command]:
    """The first `most` commands of a run's first channel."""
    check(memory, run)
    st = new_channel(memory, run, log=most)
    advance(st, FOREVER, 4 * most)
    t = memory.timings
    clocks = {ACT: t.RCD_RD, RD: t.BL, RDA: t.BL, WR: t.BL, WRA: t.BL, REFAB: t.RFC, REFPB: t.RFC_PB or 1}
    banks = memory.organisation.banks_per_channel // memory.organisation.pseudo_channels
    all_banks = {COMMANDS.index("PREab"), REFAB}
    out = []
    for tick, command, bank, row in st.log[: int(st.s["logged"][0])].tolist():
        length = clocks.get(command, t.RP) * memory.tCK_s
        out.append(
            Command(tick * memory.tick_s, COMMANDS[command], length, bank // banks,
                    -1 if command in all_banks else bank % banks, row)
        )  # fmt: skip
    return out
