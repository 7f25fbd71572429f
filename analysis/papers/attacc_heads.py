"""Attention of whole heads in the memory stacks: units per bank, bank group or on the buffer die.

The K and V rows of one head lie in one channel, spread over its bank groups and banks, so a stack
works on as many heads at once as it has channels, and on the rest in further rounds. How long a
round takes is what the DRAM command model says of its commands (AttAcc, ASPLOS 2024, doi
10.1145/3620665.3640422).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from opbyte.extend import InputError, nearest
from opbyte.extend.devices import DramSpec, PimStream, run_stream, stream_of

LEVELS = {"bank": "pim_mac_ab", "bank-group": "pim_mac_sb_rot", "buffer": "pim_mac_pb_bgint"}
"""Where the units sit -> the command stream that feeds them: one command reads all banks of a
channel, one bank of every bank group, or one bank of each pseudo channel."""


@dataclass(frozen=True, slots=True)
class HeadAttention:
    """Units of one kind in the stacks of one device.

    Attributes
    ----------
    memory : DramSpec
        DRAM of a stack, with its in-bank commands.
    level : str
        A key of `LEVELS`.

    Raises
    ------
    InputError
        An unknown level, or a memory without the commands that it needs.
    """

    memory: DramSpec
    level: str
    stacks: int

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise InputError(f"level {self.level!r}", f"is unknown{nearest(self.level, LEVELS)}")
        stream_of(self.memory, LEVELS[self.level], 1, True)

    def row_columns(self, head_dim: int, value_bytes: float) -> int:
        """Columns of one key or value row: a part in every bank group, each of whole columns."""
        org = self.memory.organisation
        part = head_dim * value_bytes / org.bank_groups
        return org.bank_groups * math.ceil(part / org.atom_bytes)

    def rounds(self, heads: int) -> int:
        """Rounds of `heads` heads of the device: dealt over stacks, then over channels."""
        return math.ceil(math.ceil(heads / self.stacks) / self.memory.organisation.channels)

    def stream(self, tokens: float, head_dim: int, value_bytes: float) -> PimStream:
        """The commands that read the keys (or the values) of one head, row after row."""
        columns = math.ceil(tokens * self.row_columns(head_dim, value_bytes))
        plain = stream_of(self.memory, LEVELS[self.level], 1, True)
        commands = max(1, math.ceil(columns / plain.banks))
        rows = math.ceil(commands / plain.columns)
        return replace(plain, commands=commands, columns=math.ceil(commands / rows))

    def seconds(self, heads: int, tokens: float, head_dim: int, value_bytes: float) -> float:
        """Scores and weighted sums of `heads` heads over `tokens` cached tokens each [s].

        Keys are read, then values. The softmax of one head runs beside the products of another,
        as AttAcc pipelines them, and queries load in their shadow.
        """
        rounds = self.rounds(heads)
        if not rounds or tokens <= 0:
            return 0.0
        one = self.stream(tokens, head_dim, value_bytes)
        return _clocks(self.memory, one, 2 * rounds) * self.memory.tCK_s

    def bytes_per_s(self) -> float:
        """What the units of the device read of long rows, refresh included [B/s]."""
        long = replace(stream_of(self.memory, LEVELS[self.level], 1, True), commands=LONG)
        org, clocks = self.memory.organisation, _clocks(self.memory, long, 1)
        per_channel = LONG * long.banks * org.atom_bytes / (clocks * self.memory.tCK_s)
        return per_channel * org.channels * self.stacks


LONG = 1 << 16
"""Commands that a rate rests on."""


@lru_cache(maxsize=4096)
def _clocks(memory: DramSpec, one: PimStream, times: int) -> int:
    """Clock cycles of a stream that is sent `times` times."""
    return run_stream(memory, replace(one, commands=one.commands * times))
