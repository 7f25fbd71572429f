"""Access patterns: order of reads and writes, and the rate of requests.

``KIND:KEY=VALUE,...`` on the command line, for instance ``rand_read:S=1024``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from ...workloads.errors import InputError, check_known, nearest

KINDS = ("seq", "rand", "stride", "multistream", "mix")
DIRECTIONS = ("read", "rw")

MIN_QUEUE, MAX_QUEUE = 2, 1024


@dataclass(frozen=True, slots=True)
class Pattern:
    """One stream of requests to every channel, in blocks of an atom.

    Attributes
    ----------
    kind : str
        ``seq``; ``rand`` (chunks of `S` bytes at random); ``stride`` (`X` bytes each `S`);
        ``multistream`` (`K` sequential streams in turn, `G` bytes each); ``mix`` (`a` blocks of
        `X` bytes of a sequential stream, then `b` of random chunks of `S`).
    reads, writes : int
        With ``rw``: a period is `reads` blocks of `X` bytes read, then `writes` written.
    a, b : int
        Blocks of the two streams of ``mix``.
    in_place : bool
        Whether writes go to what was read just before, not half a channel away.
    S, X, K, G : int
        Bytes and streams, as above.
    """

    kind: str = "seq"
    S: int = 0
    X: int = 0
    K: int = 1
    G: int = 0
    reads: int = 1
    writes: int = 0
    a: int = 1
    b: int = 0
    in_place: bool = False

    @property
    def name(self) -> str:
        """Name of the pattern, such as ``seq_read`` or ``rand_rw``."""
        return f"{self.kind}_{'rw' if self.writes else 'read'}"

    @property
    def regular(self) -> bool:
        """Whether the addresses contain no random numbers, so that a run repeats."""
        return self.kind in ("seq", "stride", "multistream")


@dataclass(frozen=True, slots=True)
class PatternRun:
    """Settings of a run of a pattern on a memory.

    Attributes
    ----------
    mapping : str
        See :mod:`.state`.
    channels : int
        Channels fed at once, each with its own stream.
    rate : Fraction, optional
        Requests offered as a fraction of the pins' rate; None for as many as are accepted.
    window : int, optional
        Most reads outstanding at a channel.
    read_queue, write_queue : int
        Entries of a channel's queues.
    refresh : str
        ``all``, ``pb`` (bank by bank) or ``none``.
    row_hits_first : bool
        Whether a row hit that waits longer keeps its row open (FR-FCFS with row hits).
    closed_after : int, optional
        Column accesses after which a row is closed; None for the open-page policy.
    requests : int, optional
        Requests of a channel until the end; by the queue and the channels if not given.
    """

    pattern: Pattern = field(default_factory=Pattern)
    mapping: str = "col64"
    channels: int = 1
    rate: Fraction | None = None
    window: int | None = None
    read_queue: int = 32
    write_queue: int = 32
    refresh: str = "all"
    row_hits_first: bool = True
    closed_after: int | None = None
    requests: int | None = None

    @property
    def length(self) -> int:
        """Number of requests of a channel until the end of the measuring window."""
        if self.requests is not None:
            return self.requests
        if self.channels > 1:
            return 20_000
        return 40_000 if max(self.read_queue, self.write_queue) >= 128 else 60_000


def read_pattern(text: str) -> PatternRun:
    """Parse ``KIND`` or ``KIND:KEY=VALUE,...`` (``;`` may replace commas) as a run.

    Examples
    --------
    >>> read_pattern("rand_read:S=1024,rdq=64").read_queue
    64
    """
    name, _, rest = text.partition(":")
    params: dict[str, str] = {}
    for part in (p for p in rest.replace(";", ",").split(",") if p.strip()):
        key, equals, value = part.partition("=")
        if not equals and list(params)[-1:] == ["map"]:
            params["map"] += f",{part.strip()}"  # a mapping field by field
            continue
        if not equals:
            raise InputError(f"pattern {text!r}", f"{part!r} is not KEY=VALUE")
        params[key.strip()] = value.strip()
    return run_of(name, params, f"pattern {text!r}")


KEYS = ("nch", "map", "S", "X", "K", "G", "rw", "inplace", "ab", "rate", "window", "rdq", "wrq",
        "refresh", "sched", "page", "transq", "bankq", "requests")  # fmt: skip


def run_of(name: str, params: dict[str, str], where: str) -> PatternRun:
    """Return a run from a pattern's name and its parameters as text.

    Raises
    ------
    InputError
        An unknown name, key or value; `where` says of what.
    """
    kind, _, direction = name.rpartition("_")
    known = [f"{k}_{d}" for k in KINDS for d in DIRECTIONS if (k, d) != ("mix", "rw")]
    check_known(where, name, known, f"unknown pattern {name!r}")
    unknown = next((key for key in params if key not in KEYS), None)
    if unknown is not None:
        raise InputError(where, f"unknown key {unknown!r}{nearest(unknown, KEYS)}")
    read, write = _pair(params.get("rw", "2:1"), where) if direction == "rw" else (1, 0)
    a, b = _pair(params.get("ab", "1:1"), where) if kind == "mix" else (1, 0)
    number = _Numbers(params, where)
    pattern = Pattern(
        kind=kind,
        S=number.whole("S", 64 if kind in ("rand", "mix") else 0, required=kind == "stride"),
        X=number.whole("X", 64),
        K=number.whole("K", 1, required=kind == "multistream"),
        G=number.whole("G", 64),
        reads=read, writes=write, a=a, b=b,
        in_place=_one_of(params.get("inplace", "no"), ("yes", "no"), "inplace", where) == "yes",
    )  # fmt: skip
    queue = number.whole("transq", 32)
    return PatternRun(
        pattern=pattern,
        mapping=params.get("map", "col64"),
        channels=number.whole("nch", 1),
        rate=_rate(params.get("rate", "sat"), where),
        window=None if params.get("window", "none") == "none" else number.whole("window", 1),
        read_queue=number.queue("rdq", queue),
        write_queue=number.queue("wrq", queue),
        refresh=_one_of(params.get("refresh", "all"), ("all", "pb", "none"), "refresh", where),
        row_hits_first=_one_of(params.get("sched", "FRFCFSRowHit"), SCHEDULERS, "sched", where) != "FRFCFS",
        closed_after=_page(params.get("page", "open"), where),
        requests=number.whole("requests", 1) if "requests" in params else None,
    )


SCHEDULERS = ("FRFCFSRowHit", "FRFCFS", "perbank-fr")


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Reader of whole numbers among a pattern's parameters."""

    params: dict[str, str]
    where: str

    def whole(self, key: str, default: int, required: bool = False) -> int:
        text = self.params.get(key)
        if text is None:
            if required:
                raise InputError(self.where, f"needs {key}=BYTES or a count")
            return default
        if not text.isdecimal() or not 0 < int(text) < 1 << 40:
            raise InputError(self.where, f"{key} must be a positive whole number, not {text!r}")
        return int(text)

    def queue(self, key: str, default: int) -> int:
        value = self.whole(key, default)
        if not MIN_QUEUE <= value <= MAX_QUEUE:
            raise InputError(self.where, f"{key} must be from {MIN_QUEUE} to {MAX_QUEUE}")
        return value


def _pair(text: str, where: str) -> tuple[int, int]:
    first, _, second = text.partition(":")
    if not (first.isdecimal() and second.isdecimal()) or int(first) + int(second) == 0:
        raise InputError(where, f"a ratio is written 2:1, not {text!r}")
    return int(first), int(second)


def _rate(text: str, where: str) -> Fraction | None:
    if text == "sat":
        return None
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise InputError(where, f"rate must be sat or a number, not {text!r}") from None
    if not 0 < rate <= 16:
        raise InputError(where, f"rate must be above 0 and at most 16, not {text}")
    return rate.limit_denominator(1_000_000)


def _page(text: str, where: str) -> int | None:
    if text == "open":
        return None
    count = text.removeprefix("closedcap")
    if text.startswith("closedcap") and count.isdecimal() and int(count) > 0:
        return int(count)
    raise InputError(where, f"page must be open or closedcapN, not {text!r}")


def _one_of(text: str, known: tuple[str, ...], key: str, where: str) -> str:
    if text not in known:
        raise InputError(where, f"{key} must be one of {', '.join(known)}, not {text!r}")
    return text


def describe(run: PatternRun) -> dict[str, Any]:
    """Return a run as plain data."""
    p = run.pattern
    return {
        "pattern": p.name, "map": run.mapping, "channels": run.channels,
        "S": p.S or None, "X": p.X or None, "K": p.K, "G": p.G or None,
        "reads": p.reads, "writes": p.writes, "in_place": p.in_place,
        "rate": None if run.rate is None else float(run.rate),
        "window": run.window, "read_queue": run.read_queue, "write_queue": run.write_queue,
        "refresh": run.refresh,
    }  # fmt: skip
