"""Entry point of workloads: one function makes a request stream from a trace, a rate, or the embedded sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

from ..errors import InputError
from ..registry import Registry
from .arrivals import ARRIVALS, Gaps, profile_of, warped, with_arrivals
from .block import MAX_BLOCK, RequestBlock, RequestStream
from .frames import Table, is_table, table_file
from .lengths import (
    GAP_CV,
    LENGTHS,
    RATE_PER_S,
    Lengths,
    Purpose,
    client_lengths,
    generator,
    of_purpose,
    sample_lengths,
)
from .options import (
    MAX_RATE,
    MAX_TIME_S,
    MAX_TURNS,
    MIN_RATE,
    MIN_TIME_S,
    check_rate,
    check_real,
    check_seed,
    check_size,
)  # fmt: skip
from .rows import Rows, at_zero, bounded, first, numbered, spread_stamps, until, with_prefix
from .rows import since as later
from .sessions import with_turns
from .sources import RowSource, generated, own_rate, trace

DEFAULT_REQUESTS = 1000
"""Requests generated when neither a limit nor a duration is given."""

MAX_REQUESTS = 1_000_000_000
"""Largest number of requests; a simulation that stores all its requests accepts fewer, see `fleet.assigner`."""

T = TypeVar("T")
Step = Callable[[Iterable[Rows]], Iterator[Rows]]


def open_requests(
    source: str | Path | Table | None = None, *, rate: float | None = None,
    closed_loop: int | None = None, limit: int | None = None, duration: float | None = None,
    seed: int = 0, input_len: int | None = None, output_len: int | None = None,
    lengths: str | None = None, turns: float | None = None, think: float | None = None,
    arrivals: str | None = None, cv: float | None = None, rate_scale: float | None = None,
    spread: float | None = None, block_size: int = MAX_BLOCK,
    rate_profile: str | Path | None = None, mean_rate: float | None = None,
    since: float | None = None, prefix_len: int | None = None, prefixes: int | None = None,
) -> RequestStream:  # fmt: skip
    """Open a workload: a trace, generated requests, or the embedded sample.

    Lengths come from `source` if given, else from `input_len` and `output_len`, else from the
    sample. Arrivals come from `closed_loop` or `rate` if given, else from `source`, else from
    the sample. The first request arrives at 0.

    Parameters
    ----------
    source : str, Path or table, optional
        Trace file (or a pandas frame or list of rows with its columns), with its format detected from its first line
        (Azure CSV, Mooncake JSON lines, our `requests.csv`, Vidur lengths CSV), or ServeGen clients: a folder of
        `*-trace.csv` and `*-dataset.json` pairs, or the common start of some of their paths.
    rate : float, optional
        Mean arrival rate [1/s]; replaces a trace's own arrivals.
    closed_loop : int, optional
        Requests kept in flight; all arrivals are 0 and the engine releases them. With `rate`, most requests in
        flight: a request that arrives beyond them waits at its client, and its latencies begin as it is sent.
    limit : int, optional
        Most requests. A trace ends earlier if it is shorter; generated requests default to
        1,000 unless `duration` is given.
    duration : float, optional
        Only requests that arrive before this time [s].
    seed : int
        Same seed, same bytes, for any block size; a shorter `limit` is a prefix.
    input_len, output_len : int, optional
        Mean prompt and output length [tokens], 1 to 2**31 - 1; together.
    lengths : str, optional
        Their distribution: a name in `lengths.LENGTHS`, or a client's, see `lengths.client_lengths`; "fixed" by default.
    turns : float, optional
        Join generated requests to sessions of this many on average, each prompt starting with all
        that was said before; lengths then are what a turn adds, and `rate` counts sessions. See
        `sessions.with_turns`.
    think : float, optional
        Mean time from the end of a turn to the next [s]; 0 if not given.
    arrivals : str, optional
        A name in `ARRIVALS` for `rate`: "poisson" by default, "gamma" if `cv` is given.
    cv : float, optional
        Coefficient of variation of the gaps of "gamma" arrivals, 0.001 to 1000.
    rate_scale : float, optional
        Speed-up of a trace's own arrivals (times divided); for ServeGen, factor on the requests of every window, with
        unchanged windows.
    spread : float, optional
        Width [s] of a trace's time bins, in the trace's own time: requests with one timestamp are spaced evenly inside
        it (3 for Mooncake's conversation trace). By default timestamps do not change.
    block_size : int
        Most requests in a block, up to 65,536.
    rate_profile : str or Path, optional
        How `rate`, then the mean, changes over time; see `profiles.profile_of`.
    mean_rate : float, optional
        Instead of `rate_scale`: scales a trace's own arrivals so that all of them come at this mean
        rate [1/s].
    since : float, optional
        Only requests that arrive from this time on, counted from there [s]; `duration` is from there,
        too.
    prefix_len : int, optional
        Tokens of a shared start (a system prompt), before the `input_len` of each generated prompt; of a
        session, before its first prompt.
    prefixes : int, optional
        Number of different shared starts, equally likely; 1 by default.

    Returns
    -------
    RequestStream
        Iterable of `RequestBlock`, any number of times.

    Raises
    ------
    InputError
        A wrong option at once; a bad line of a file when iteration reaches it.

    Examples
    --------
    >>> stream = open_requests(rate=2.0, input_len=512, output_len=128, limit=3)
    >>> block = stream.read()
    >>> block.input_tokens.tolist(), float(block.arrival_s[0])
    ([512, 512, 512], 0.0)
    """
    check_seed(seed)
    _check_numbers(closed_loop, limit, duration, rate_scale, spread, block_size)
    gaps = _gaps(rate, arrivals, cv)
    if is_table(source):
        source = table_file(cast(Table, source), "--trace")
    _refuse("needs --rate" if rate is None else "", {"--rate-profile": rate_profile})
    if mean_rate is not None:
        rate_scale = _scale(source, gaps, closed_loop, rate_scale, mean_rate, seed)
    if source is not None:
        if not str(source):
            raise InputError("--trace", "is empty; give a file or a folder")
        _refuse("lengths come from the trace", {"--input-len": input_len, "--lengths": lengths})
        _refuse("lengths come from the trace", {"--output-len": output_len})
        _refuse("cannot be combined with --trace, which defines the sessions", {"--turns": turns, "--think": think})
        _refuse(
            "cannot be combined with --trace, which defines the prefixes",
            {"--prefix-len": prefix_len, "--prefixes": prefixes},
        )
        origin = trace(Path(cast(str, source)), seed, rate_scale or 1.0)
    else:
        if limit is None and duration is None:
            limit = DEFAULT_REQUESTS
        draws = _draws(input_len, output_len, lengths)
        name = "sample" if input_len is None else f"{input_len}+{output_len} tokens"
        name = name if prefix_len is None else f"{name} behind {prefix_len} shared"
        origin = generated(name, draws, seed, None if since else limit, block_size)
        if gaps is None and closed_loop is None and input_len is None:
            gaps = ARRIVALS["gamma"](RATE_PER_S, GAP_CV)
    steps = _sessions(turns, think, seed) + _shared(prefix_len, prefixes, seed)
    over_time = _over_time(origin, closed_loop, rate_profile, since)
    steps += _timing(origin, gaps, closed_loop, seed, rate_scale, spread, over_time, duration)
    if limit is not None:
        steps.append(partial(first, limit=limit))
    steps.append(partial(bounded, most=MAX_REQUESTS))

    def blocks() -> Iterator[RequestBlock]:
        rows: Iterator[Rows] = origin.rows()
        for step in steps:
            rows = step(rows)
        return numbered(rows, block_size)

    paced = closed_loop is None or gaps is not None
    return RequestStream(origin.name, paced, closed_loop, blocks, limit=limit)


def _scale(
    source: str | Path | Table | None, gaps: Gaps | None, closed_loop: int | None, rate_scale: float | None,
    mean_rate: float, seed: int,
) -> float:  # fmt: skip
    """Return the speed-up of a trace for the requested mean rate."""
    check_rate(mean_rate, "--mean-rate")
    _refuse("cannot be combined with --mean-rate", {"--rate-scale": rate_scale})
    if source is None or gaps is not None or closed_loop is not None:
        raise InputError("--mean-rate", "needs a trace that keeps its own arrivals")
    factor = mean_rate / own_rate(Path(cast(str, source)), seed)
    return check_real(factor, "--mean-rate over the trace's own", MIN_RATE, MAX_RATE)


def _over_time(
    origin: RowSource, closed_loop: int | None, rate_profile: str | Path | None, since: float | None
) -> list[Step]:
    """Return the steps that change rates over time and that drop requests before a time."""
    steps: list[Step] = []
    if closed_loop is not None:
        _refuse("cannot be combined with --closed-loop", {"--rate-profile": rate_profile, "--since": since})
    if rate_profile is not None:
        steps.append(partial(warped, profile=profile_of(str(rate_profile))))
    if since is not None:
        begin = check_real(since, "--since", 0.0, MAX_TIME_S)
        steps.append(partial(later, begin_s=begin, subject=origin.name))
    return steps


def _sessions(turns: float | None, think: float | None, seed: int) -> list[Step]:
    """Return the step that combines generated requests into sessions, if requested."""
    if turns is None:
        _refuse("needs --turns", {"--think": think})
        return []
    mean = check_real(turns, "--turns", 1.0, MAX_TURNS)
    pause = check_real(think or 0.0, "--think", 0.0, MAX_TIME_S)

    def step(rows: Iterable[Rows]) -> Iterator[Rows]:
        draws = generator(seed, Purpose.TURNS), generator(seed, Purpose.THINKING)
        return with_turns(rows, mean, pause, *draws)

    return [step]


def _shared(prefix_len: int | None, prefixes: int | None, seed: int) -> list[Step]:
    """Return the step that gives generated prompts a shared prefix, if requested."""
    if prefix_len is None:
        _refuse("needs --prefix-len", {"--prefixes": prefixes})
        return []
    tokens = check_size(prefix_len, "--prefix-len")
    count = 1 if prefixes is None else check_size(prefixes, "--prefixes")
    return [lambda rows: with_prefix(rows, tokens, count, generator(seed, Purpose.PREFIXES))]


def _check_numbers(
    closed_loop: int | None,
    limit: int | None,
    duration: float | None,
    rate_scale: float | None,
    spread: float | None,
    block_size: int,
) -> None:
    """Refuse numbers of a workload that are out of range; the error names the option."""
    for option, size in (("--closed-loop", closed_loop), ("--requests", limit)):
        if size is not None:
            check_size(size, option)
    if limit is not None and limit > MAX_REQUESTS:
        raise InputError("--requests", f"must be at most {MAX_REQUESTS:,}, not {limit:,}")
    for option, span in (("--duration", duration), ("--spread", spread)):
        if span is not None:
            check_real(span, option, MIN_TIME_S, MAX_TIME_S)
    if rate_scale is not None:
        check_real(rate_scale, "--rate-scale", MIN_RATE, MAX_RATE)
    if check_size(block_size, "block_size") > MAX_BLOCK:
        raise InputError("block_size", f"must be at most {MAX_BLOCK}")


def _gaps(rate: float | None, arrivals: str | None, cv: float | None) -> Gaps | None:
    if rate is None:
        _refuse("needs --rate", {"--arrivals": arrivals, "--cv": cv})
        return None
    name = arrivals or ("poisson" if cv is None else "gamma")
    return _named(ARRIVALS, name, "--arrivals")(check_rate(rate), cv)


def _draws(input_len: int | None, output_len: int | None, lengths: str | None) -> Lengths:
    if input_len is None and output_len is None:
        _refuse("needs --input-len and --output-len", {"--lengths": lengths})
        return sample_lengths()
    for option, value, other in (
        ("--input-len", input_len, "--output-len"),
        ("--output-len", output_len, "--input-len"),
    ):
        if value is None:
            raise InputError(option, f"is needed with {other}")
    means = check_size(input_len, "--input-len"), check_size(output_len, "--output-len")
    if lengths is not None and ":" in lengths:
        return client_lengths(lengths, *means)
    return Lengths(_named(LENGTHS, lengths or "fixed", "--lengths")(*means), of_purpose)


def _timing(
    origin: RowSource,
    gaps: Gaps | None,
    closed_loop: int | None,
    seed: int,
    rate_scale: float | None,
    spread: float | None,
    over_time: list[Step],
    duration: float | None,
) -> list[Step]:
    """Return the steps that set arrival times; refuse options that contradict each other."""
    recorded = gaps is None and closed_loop is None
    if not recorded or not origin.has_arrivals:
        reason = "needs a trace that keeps its own arrivals"
        _refuse(reason, {"--rate-scale": rate_scale, "--spread": spread})
    if closed_loop is not None and gaps is None:
        _refuse("cannot be combined with --closed-loop", {"--duration": duration})
        return [at_zero]
    steps: list[Step] = []
    if gaps is not None:
        steps.append(lambda rows: with_arrivals(rows, gaps, generator(seed, Purpose.ARRIVALS)))
    elif not origin.has_arrivals:
        reason = "has no arrival times: give --rate or --closed-loop too"
        raise InputError(origin.name, reason)
    if spread is not None:
        width = spread / (rate_scale or 1.0)
        steps.append(partial(spread_stamps, bin_s=width, subject=origin.name))
    steps += over_time
    if duration is not None:  # from where the steps before begin
        steps.append(partial(until, duration_s=duration))
    return steps


def _named(registry: Registry[T], name: str, option: str) -> T:
    try:
        return registry[name]
    except InputError as error:
        raise InputError(f"{option} {error.subject}", error.reason) from None


def _refuse(reason: str, options: dict[str, object]) -> None:
    """Refuse the first given option of `options`, if there is a reason."""
    for option, value in options.items():
        if value is not None and reason:
            raise InputError(option, reason)
