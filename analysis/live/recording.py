"""A recorded run as a result: its requests, their outcomes, and its latencies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ...workloads.requests import RequestBlock
from ..show.result import Result
from ..show.text import seconds
from ..validate.statistics import TIMES, statistics
from .client import NOT_SENT, OK, RequestOutcome
from .deployed_as import DeployedAs
from .target import ServerTarget

F8 = npt.NDArray[np.float64]
LATE_S = 0.05
"""Delay from which a late request is reported."""


MOST_KINDS = 10
"""Maximum number of reported kinds of failure."""


def kind_of(status: str) -> str:
    """A failure with its numbers and names left out, so that equal ones are counted together.

    Examples
    --------
    >>> kind_of("error: Token id 29396 is out of vocabulary"), kind_of("HTTP 500")
    ('error: Token id N is out of vocabulary', 'HTTP 500')
    """
    if not status.startswith("error: "):
        return status
    return re.sub(r"'[^']*'|\"[^\"]*\"|\b[0-9a-f]{8,}\b|\d+", "N", status)


@dataclass(frozen=True, slots=True)
class Recording(Result):
    """One run of a trace against a server.

    Attributes
    ----------
    name, workload : str
        Of the run and of its trace.
    target : ServerTarget
        What was asked, and how.
    server : DeployedAs
        What is known of it.
    trace : RequestBlock
        Every request that was to be sent.
    outcomes : sequence of RequestOutcome
        What has come of each request, in the same order.
    due_s : float64 array, shape (n,), or None
        When each was due [s]; None in a closed loop.
    places : int
        Most requests in flight: the clients of a closed loop, or a bound.
    cut : str
        Signal that ended it before its end; empty without one.
    stalls_s : float64 array
        Samples of how late the client itself was [s].
    """

    name: str
    workload: str
    target: ServerTarget
    server: DeployedAs
    trace: RequestBlock
    outcomes: Sequence[RequestOutcome]
    due_s: F8 | None
    places: int
    cut: str = ""
    stalls_s: F8 = field(default_factory=lambda: np.zeros(0))

    @property
    def failed(self) -> dict[str, int]:
        """Requests that were sent and not answered in full, by kind, the most frequent first."""
        return dict(Counter(map(kind_of, self._failures)).most_common())

    @property
    def examples(self) -> dict[str, str]:
        """What the server said first, of kinds that leave something out."""
        statuses: dict[str, str] = {}
        for status in self._failures:
            statuses.setdefault(kind_of(status), status)
        return {kind: text for kind, text in statuses.items() if kind != text}

    @property
    def _failures(self) -> list[str]:
        return [o.status for o in self.outcomes if o.status not in (OK, NOT_SENT)]

    @property
    def sent(self) -> list[int]:
        """Rows of the requests that were sent, in the order of sending."""
        rows = [i for i, o in enumerate(self.outcomes) if o.status != NOT_SENT]
        return sorted(rows, key=lambda i: (self.outcomes[i].sent_s, i))

    @property
    def answered(self) -> list[int]:
        """Rows of those that were answered whole."""
        return [i for i in self.sent if self.outcomes[i].status == OK]

    def output_tokens(self, row: int) -> int:
        """Return the tokens of a response: as counted by the server, else its chunks; requested tokens after a failure."""
        outcome = self.outcomes[row]
        if outcome.status != OK:
            return int(self.trace.output_tokens[row])
        return outcome.output_tokens or len(outcome.chunks)

    def input_tokens(self, row: int) -> int:
        """Tokens of a prompt: as the server counted them, else those asked for."""
        return self.outcomes[row].prompt_tokens or int(self.trace.input_tokens[row])

    def latencies(self) -> dict[str, F8]:
        """Times of the answered requests as a client sees them [s], by metric.

        ``ttft`` ends at the first chunk, ``e2e`` with the stream; ``tpot`` is the time between them per token; ``itl``
        are all gaps between chunks.
        """
        outcomes = [self.outcomes[i] for i in self.answered if self.outcomes[i].chunks]
        tokens = np.array([self.output_tokens(i) for i in self.answered if self.outcomes[i].chunks])
        sent = np.array([o.sent_s for o in outcomes])
        ttft = np.array([o.chunks[0] for o in outcomes]) - sent
        e2e = np.array([o.ended_s for o in outcomes]) - sent
        several = tokens > 1
        gaps = [np.diff(np.frombuffer(o.chunks)) for o in outcomes if len(o.chunks) > 1]
        return {
            "ttft": ttft, "tpot": (e2e - ttft)[several] / (tokens[several] - 1), "e2e": e2e,
            "itl": np.concatenate(gaps) if gaps else np.zeros(0),
        }  # fmt: skip

    def measured(self) -> dict[str, dict[str, float]]:
        """Return statistics of `latencies`, by metric; metrics without values are skipped."""
        return {f"{name}_s": statistics(values) for name, values in self.latencies().items() if len(values)}

    def lateness(self) -> float | None:
        """How late requests were sent, 99 of 100 of them at most [s]; None without times."""
        if self.due_s is None or not self.sent:
            return None
        late = [self.outcomes[i].sent_s - float(self.due_s[i]) for i in self.sent]
        return float(np.quantile(late, 0.99))

    def stall(self) -> float | None:
        """Return the client's own delay of timestamps, 99th percentile [s]."""
        return float(np.quantile(self.stalls_s, 0.99)) if len(self.stalls_s) else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "run": self.name, "url": self.target.base, "checkpoint": self.target.model,
            "workload": self.workload, "requests": len(self.outcomes), "sent": len(self.sent),
            "answered": len(self.answered), "failed": self.failed, "examples": self.examples, "cut": self.cut or None,
            "prompts": "ids" if self.target.ids else "words", "places": self.places,
            "late_p99_s": self.lateness(), "stall_p99_s": self.stall(),
            **{n: self.measured().get(f"{n}_s") for n in TIMES},
        }  # fmt: skip

    def remarks(self) -> Sequence[str]:
        out = []
        if self.cut:
            left = len(self.outcomes) - len(self.sent)
            out.append(f"cut by {self.cut}: {left:,} of {len(self.outcomes):,} were not sent")
        failed, examples = self.failed, self.examples
        for kind, count in list(failed.items())[:MOST_KINDS]:
            text = examples.get(kind, kind)
            out.append(f"{count:,} of {len(self.sent):,} requests failed: {text}")
        if len(failed) > MOST_KINDS:
            rest = sum(list(failed.values())[MOST_KINDS:])
            out.append(f"{rest:,} more failed in {len(failed) - MOST_KINDS:,} other ways: run.json")
        late = self.lateness()
        if late is not None and late > LATE_S:
            out.append(
                f"1 of 100 requests was sent {seconds(late)} late or more: this machine is too slow "
                f"for the trace, or its {self.places:,} places in flight are too few"
            )
        stall = self.stall()
        if stall is not None and stall > LATE_S:
            out.append(
                f"this client was busy: 1 of 100 timestamps may be {seconds(stall)} late or more; record "
                "fewer streams at a time, or on another machine"
            )
        if self.server.missing:
            out.append(f"the folder cannot be replayed without {' and '.join(self.server.missing)}")
        return out

    def records(self) -> Sequence[Mapping[str, Any]]:
        return [{"metric": n, **figures} for n, figures in self.measured().items()]

    def rows(self) -> Sequence[Mapping[str, Any]]:
        return [
            {"latency": name.removesuffix("_s").upper()} | {k: seconds(v) for k, v in summary.items()}
            for name, summary in self.measured().items()
        ]

    def blocks(self) -> list[str | Sequence[Mapping[str, Any]]]:
        text = (
            f"{self.target.model} at {self.target.base}: {len(self.answered):,} of "
            f"{len(self.outcomes):,} requests of {self.workload} answered; {self.target.says()}"
        )
        return [text, *([self.rows()] if self.measured() else [])]
