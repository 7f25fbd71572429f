"""Some steps of a run in detail: when and where each op runs, and the phases of each request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from ...simulator.parts.overlap.chunked import timelines_of
from ...simulator.results.record import Run
from ...simulator.results.steps import RunStep
from ...workloads.batch import PREFILL
from ...workloads.errors import InputError
from ..show.text import Blocks, Records, seconds
from .step_timeline import Bar, bars_of

if TYPE_CHECKING:
    import pandas as pd

MOST_SHOWN = 200
"""Maximum number of steps in a window; each step has hundreds of ops."""
MOST_TOLD = 20
"""Maximum number of steps printed in the terminal."""
HOST = "host"
"""Lane of waiting times that are not ops."""
QUEUED, PROMPT, DECODES, PREEMPTED, PASSED = ("queued", "prompt", "decodes", "preempted", "passed over")
"""Phases of a request; "passed over": a step runs without it although it is running."""


def read_window(text: str) -> range:
    """Read a window of steps: "N" (the first N) or "A:B" (from A, before B).

    Raises
    ------
    InputError
        If the text has neither form, or the window is empty or longer than `MOST_SHOWN` steps.

    Examples
    --------
    >>> read_window("3"), read_window("10:12")
    (range(0, 3), range(10, 12))
    """
    first, colon, last = text.partition(":")
    ends = (first, last) if colon else ("0", first)
    if not all(end.isascii() and end.isdigit() and len(end) < 10 for end in ends):
        raise InputError(f"--steps {text!r}", "must be N or A:B, such as 20 or 100:120")
    window = range(int(ends[0]), int(ends[1]))
    if not 0 < len(window) <= MOST_SHOWN:
        raise InputError(f"--steps {text!r}", f"must be 1 to {MOST_SHOWN} steps, the first below the last")
    return window


@dataclass(frozen=True, slots=True)
class Span:
    """A phase of a request; it computes `tokens` of the prompt or of the output."""

    request: int
    what: str
    start_s: float
    end_s: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Steps:
    """Window of a run's steps; times are from the first arrival [s].

    Attributes
    ----------
    bars : tuple of Bar
        Ops, each step's up to its end; waiting times on `HOST`.
    spans : tuple of Span
        State of requests at the same time, by request and start.
    """

    steps: tuple[RunStep, ...]
    bars: tuple[Bar, ...]
    spans: tuple[Span, ...]

    def __repr__(self) -> str:
        first = self.steps[0].number
        return f"<Steps: {len(self.steps)} from step {first} on; see .records(), .span_frame()>"

    def records(self) -> Records:
        """Return the steps as plain data."""
        return [
            {
                "step": s.number, "start_s": s.start_s, "end_s": s.end_s,
                "decodes": int((s.batch.phase != PREFILL).sum()),
                "prompt_tokens": int(s.batch.q_len[s.batch.phase == PREFILL].sum()),
                "requests": len(s.batch.q_len),
            }
            for s in self.steps
        ]  # fmt: skip

    def blocks(self) -> Blocks:
        """Return the first steps as a printed table."""
        rows = [
            {
                "step": row["step"], "from": f"{row['start_s']:.6f} s",
                "time": seconds(row["end_s"] - row["start_s"]), "decodes": row["decodes"],
                "prompt tokens": row["prompt_tokens"],
            }
            for row in self.records()[:MOST_TOLD]
        ]  # fmt: skip
        left = len(self.steps) - len(rows)
        return [rows, *([f"and {left:,} more steps: --out has all of them"] if left else [])]

    def span_frame(self) -> pd.DataFrame:
        """Return the phases of requests as `plots.gantt` needs them."""
        import pandas as pd

        return pd.DataFrame([asdict(span) for span in self.spans], columns=list(Span.__slots__))


def steps_seen(run: Run, window: range) -> Steps:
    """Return a window of a run whose steps were recorded.

    Raises
    ------
    InputError
        The run has no such steps.
    """
    shown = run.steps[window.start : window.stop]
    if not shown:
        last = len(run.steps)
        raise InputError("--steps", f"must begin within the run, which has {last:,} steps")
    bars = tuple(bar for step in shown for bar in _bars(run, step))
    return Steps(shown, bars, tuple(_spans(run, shown)))


def _bars(run: Run, step: RunStep) -> list[Bar]:
    """Return the bars of a step's ops, and of the host's time if it makes the step longer."""
    lines = timelines_of(run.deployment, [step.batch], step=step.number, captured=run.policy.captured)
    took = sum(line.makespan for line in lines)
    out = [replace(bar, step=step.number) for bar in bars_of(lines, step.start_s)]
    left = step.end_s - step.start_s - took
    assert left >= -1e-9 * took  # both paths agree on what a step takes
    if left > 1e-9 * took:
        out.append(
            Bar(0, -1, HOST, HOST, "between steps", HOST, -1, "latency", step.start_s + took, step.end_s, step.number)
        )
    return out


def _spans(run: Run, shown: Sequence[RunStep]) -> list[Span]:
    """Return the phases of requests during the given steps."""
    begin, end = shown[0].start_s, shown[-1].end_s
    before = run.steps[: shown[0].number]
    at: dict[int, tuple[float, int]] = {}  # request -> end of its last phase [s], and its cached tokens
    decoding: dict[int, bool] = {}
    for step in before:
        for i, q, cached in _rows(step):
            at[i] = step.end_s, cached + q
    out: list[Span] = []
    for step in shown:
        for (i, q, cached), phase in zip(_rows(step), step.batch.phase.tolist(), strict=True):
            since, in_cache = at.get(i, (float(run.requests.arrival_s[i]), 0))
            if step.start_s > max(since, begin):
                what = QUEUED if i not in at else PREEMPTED if cached < in_cache else PASSED
                out.append(Span(i, what, max(since, begin), step.start_s, 0))
            what = PROMPT if phase == PREFILL else DECODES
            out.append(Span(i, what, step.start_s, step.end_s, q))
            at[i], decoding[i] = (step.end_s, cached + q), what == DECODES
    for i, (since, _) in at.items():  # what still waits at the end of the window
        if begin <= since < end and float(run.requests.last_token_s[i]) > end:
            out.append(Span(i, PREEMPTED if decoding.get(i) else PASSED, since, end, 0))
    for i, arrival in enumerate(run.requests.arrival_s.tolist()):
        if i not in at and arrival < end:
            out.append(Span(i, QUEUED, max(arrival, begin), end, 0))
    out.sort(key=lambda span: (span.request, span.start_s))
    return _merged(out)


def _rows(step: RunStep) -> list[tuple[int, int, int]]:
    """Return request, new tokens and cached tokens for each sequence of a step."""
    b = step.batch
    return list(zip(b.seq_id.tolist(), b.q_len.tolist(), b.context.tolist(), strict=True))


def _merged(spans: Sequence[Span]) -> list[Span]:
    """Merge consecutive decodes of a request into one span."""
    out: list[Span] = []
    for span in spans:
        last = out[-1] if out else None
        joins = last is not None and last.what == DECODES == span.what
        if last is not None and joins and (last.request, last.end_s) == (span.request, span.start_s):
            tokens = last.tokens + span.tokens
            out[-1] = replace(last, end_s=span.end_s, tokens=tokens)
        else:
            out.append(span)
    return out
