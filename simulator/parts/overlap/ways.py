"""Ways to overlap a step's exchanges with its computation, by name.

``none``: serial. ``pipelined:N``: in every layer the ops around exchanges that depend only on tokens are cut into N
chunks; one is exchanged while another is computed (Tutel, PipeMoE, FSMoE). ``two-batch``: two halves of the batch, the
exchanges of one in parallel with the computation of the other (DeepSeek, SGLang). ``two-batch:D,P``: only steps with at
least D tokens a rank, with prompts P (vLLM); ``two-batch:alike`` and ``two-batch:decodes``: only the steps that SGLang
splits (`gates`). ``auto``: the fastest of these in every step.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....workloads.errors import InputError, nearest
from .chunking import MOST_CHUNKS
from .gates import ALWAYS, gate_of
from .gates import FORMS as GATED

SERIAL, PIPELINED, TWO_BATCH, PING_PONG = range(4)
"""Kinds of `Way`."""

COUNTS = (2, 4, 8, MOST_CHUNKS)
"""Numbers of chunks; powers of two, since experts' tokens are halved again and again."""

FORMS = ("none", "pipelined:N", "two-batch", *GATED, "auto")


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a step.

    Attributes
    ----------
    kind : int
        `SERIAL`, `PIPELINED`, `TWO_BATCH`, or `PING_PONG`: micro-batches that alternate between attention devices and
        expert devices, which has no name in options.
    chunks : int
        Into how many a batch is cut.
    """

    kind: int
    chunks: int

    @property
    def name(self) -> str:
        """As it is asked for."""
        names = "none", f"pipelined:{self.chunks}", "two-batch", f"ping-pong:{self.chunks}"
        return names[self.kind]


NONE = Way(SERIAL, 1)
AUTO = (NONE, Way(TWO_BATCH, 2), *(Way(PIPELINED, n) for n in (2, 4, 8)))
"""What ``auto`` chooses from."""


def ways(text: str) -> tuple[Way, ...]:
    """What a value of ``--overlap`` lets a step choose from.

    Raises
    ------
    InputError
        An unknown way, or a number of chunks that there is none of.

    Examples
    --------
    >>> [way.name for way in ways("pipelined:4")]
    ['pipelined:4']
    """
    kind, colon, count = text.partition(":")
    if text == "none":
        return (NONE,)
    if text == "auto":
        return AUTO
    if (gate := gate_of(text)) is not None:
        names = () if gate.rule == ALWAYS else (NONE,)
        return (*names, Way(TWO_BATCH, 2))
    if kind != "pipelined":
        raise InputError(f"--overlap {text!r}", f"must be {_forms()}{nearest(text, FORMS)}")
    if not colon or count not in map(str, COUNTS):
        known = ", ".join(f"pipelined:{n}" for n in COUNTS)
        raise InputError(f"--overlap {text!r}", f"must be one of {known}")
    return (Way(PIPELINED, int(count)),)


def _forms() -> str:
    return ", ".join(FORMS[:-1]) + f" or {FORMS[-1]}"
