"""Result of a recorded run: its requests, their outcomes and their latencies."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...workloads.requests import RequestBlock
from ..show.output import OutputFolder
from ..show.result import Result
from ..show.text import Blocks, Rows, seconds
from ..validate.runs.spec import RECORDED, SYSTEM
from ..validate.statistics import TIMES, statistics
from .play import NOT_SENT, OK, DeployedAs, RequestOutcome
from .target import ServerTarget


@contextmanager
def partial_copy(folder: str | None) -> Iterator[Callable[[int, RequestOutcome], None]]:
    """Write each request that has ended to ``requests.partial-*.jsonl``, which is left if the process is killed.

    Its name is unique, so that the copy of an earlier run stays. It is removed when the block succeeds.
    """
    if folder is None:
        yield lambda row, outcome: None
        return
    path = Path(folder, f"requests.partial-{time.time_ns()}.jsonl")

    def add(row: int, outcome: RequestOutcome) -> None:
        line = f"{json.dumps({'row': row, **asdict(outcome)}, default=list)}\n".encode()
        with suppress(OSError), path.open("ab", 0) as file:  # writing the run's files will fail too
            end = file.tell()
            if file.write(line) < len(line):  # the disk is full
                file.truncate(end)

    yield add
    path.unlink(missing_ok=True)


def write_recording(result: Recording, folder: OutputFolder) -> None:
    """Write the files of a run, whole or cut."""
    folder.csv("requests.csv", _requests(result))
    folder.csv("chunks.csv", _chunks(result))
    if result.server.config is not None:
        folder.json("config.json", result.server.config)
    if result.server.description is not None:
        folder.text(SYSTEM, result.server.description)
    folder.json("run.json", run_json(result))


def run_json(result: Recording) -> dict[str, Any]:
    """Return the content of ``run.json``."""
    server, target = result.server, result.target
    engine = dict(server.engine)
    version = target.version and re.match(r"\d+\.\d+", target.version)  # as vLLM's versions are written
    if version and "version" not in engine and "engine_version" not in engine:
        engine["version"] = target.version
    return {
        "run": result.name,
        "origin": f"opbyte record {target.url}",
        **({} if server.device is None else {"device": server.device, "devices": server.devices}),
        **({} if server.description is None else {"system": SYSTEM}),
        **({} if server.config is None else {"model": "config.json"}),
        "checkpoint": target.model,
        "engine": engine,
        "workload": _workload(result),
        "measured": [_measured(result)] if result.answered else [],
        "recorded": {
            "cut": result.cut or None, "requests": len(result.outcomes), "sent": len(result.sent),
            "not_sent": sum(o.status == NOT_SENT for o in result.outcomes),
            "failed": result.failed,
            **({"examples": result.examples} if result.examples else {}), "late_p99_s": result.lateness(),
            "stall_p99_s": result.stall(),
        },
        "assumed": _assumed(result),
    }  # fmt: skip


def _workload(result: Recording) -> dict[str, Any]:
    """Return the workload block of the run's file: one stage with the mean rate [1/s], and statistics of the prompts.

    The requests themselves are in ``requests.csv``.
    """
    sent = [result.outcomes[i].sent_s for i in result.sent]
    inputs = [result.input_tokens(i) for i in result.sent]
    outputs = [result.output_tokens(i) for i in result.sent]
    span = max(max(sent), 1e-3) if sent else 0.0
    return {
        "name": result.workload,
        "arrivals": RECORDED,
        "requests": "requests.csv",
        "closed_loop": None if result.due_s is not None else result.places,
        "stages": [{"rate": len(sent) / span, "duration_s": span}] if sent else [],
        "prompts": {
            "distinct": len(inputs), "tokens_mean": float(np.mean(inputs)),
            "tokens_min": min(inputs), "tokens_max": max(inputs),
            "kind": "ids" if result.target.ids else "words",
        } if inputs else {},
        **({"output_tokens": outputs[0]} if len(set(outputs)) == 1 else {}),
    }  # fmt: skip


def _measured(result: Recording) -> dict[str, Any]:
    count, failed = len(result.answered), sum(result.failed.values())
    last = max(result.outcomes[i].ended_s for i in result.answered)
    return {"stage": 0, "requests": count, "failed": failed, "achieved_rate": count / last, **result.measured()}


def _assumed(result: Recording) -> list[str]:
    out = ["timestamps are the client's: a chunk gets one when its bytes are read"]
    if any(result.outcomes[i].prompt_tokens is None for i in result.answered):
        out.append("input_tokens: as requested, because the server did not report its count")
    if not result.target.extras:
        out.append("output_tokens: the server takes no ignore_eos; outputs may end early")
    return out


def _requests(result: Recording) -> dict[str, Any]:
    """Return the table of sent requests, one row per request in the order of sending."""
    rows = result.sent
    outcomes = [result.outcomes[i] for i in rows]
    nan = float("nan")
    due = np.full(len(rows), nan) if result.due_s is None else result.due_s[rows]
    return {
        "request_id": result.trace.request_id[rows],
        "arrival_s": np.array([o.sent_s for o in outcomes]),
        "input_tokens": np.array([result.input_tokens(i) for i in rows], dtype=np.int64),
        "output_tokens": np.array([result.output_tokens(i) for i in rows], dtype=np.int64),
        "first_token_s": np.array([o.chunks[0] if o.chunks else nan for o in outcomes]),
        "last_token_s": np.array([o.chunks[-1] if o.chunks else nan for o in outcomes]),
        "ended_s": np.array([o.ended_s for o in outcomes]),
        "due_s": due,
        "chunks": np.array([len(o.chunks) for o in outcomes], dtype=np.int64),
        "status": np.array([o.status for o in outcomes], dtype=object),
    }


def _chunks(result: Recording) -> dict[str, Any]:
    """Return the table of received chunks, one row per chunk, ordered by request."""
    chunks = [(int(result.trace.request_id[i]), result.outcomes[i].chunks) for i in result.sent]
    return {
        "request_id": np.repeat(
            np.array([i for i, _ in chunks], dtype=np.int64), [len(stamps) for _, stamps in chunks]
        ),
        "received_s": np.concatenate([np.zeros(0), *(np.frombuffer(stamps) for _, stamps in chunks)]),
    }


F8 = npt.NDArray[np.float64]
LATE_S = 0.05
"""Delay from which a late request is reported."""


MOST_KINDS = 10
"""Maximum number of reported kinds of failure."""


def kind_of(status: str) -> str:
    """Return an error message without its numbers and names, so equal errors can be counted together.

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
        Name of the run and of its trace.
    target : ServerTarget
        The server, and the form of the requests.
    server : DeployedAs
        Description of the server by its owner.
    trace : RequestBlock
        All requests of the trace, sent or not.
    outcomes : sequence of RequestOutcome
        Outcome of each request, in the same order.
    due_s : float64 array, shape (n,), or None
        Send time of each request by the trace [s]; None in a closed loop.
    places : int
        Maximum requests in flight: the clients of a closed loop, or the limit of an open loop.
    cut : str
        Name of the signal that ended the run early; empty if there was none.
    stalls_s : float64 array
        Samples of the client's own delay [s].
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
        """Count failed requests by kind of failure, the most frequent kind first."""
        return dict(Counter(map(kind_of, self._failures)).most_common())

    @property
    def examples(self) -> dict[str, str]:
        """Return the first message of each kind of failure, if it says more than the kind."""
        statuses: dict[str, str] = {}
        for status in self._failures:
            statuses.setdefault(kind_of(status), status)
        return {kind: text for kind, text in statuses.items() if kind != text}

    @property
    def _failures(self) -> list[str]:
        return [o.status for o in self.outcomes if o.status not in (OK, NOT_SENT)]

    @property
    def sent(self) -> list[int]:
        """Return the rows of the sent requests, in the order of sending."""
        return sorted(
            (i for i, o in enumerate(self.outcomes) if o.status != NOT_SENT), key=lambda i: (self.outcomes[i].sent_s, i)
        )

    @property
    def answered(self) -> list[int]:
        """Rows of requests that received a complete response."""
        return [i for i in self.sent if self.outcomes[i].status == OK]

    def output_tokens(self, row: int) -> int:
        """Return the tokens of a response: as counted by the server, else its chunks; requested tokens after a failure."""
        outcome = self.outcomes[row]
        if outcome.status != OK:
            return int(self.trace.output_tokens[row])
        return outcome.output_tokens or len(outcome.chunks)

    def input_tokens(self, row: int) -> int:
        """Return the tokens of a prompt: the server's count, else the requested number."""
        return self.outcomes[row].prompt_tokens or int(self.trace.input_tokens[row])

    def latencies(self) -> dict[str, F8]:
        """Return latencies of the complete responses as the client sees them [s], by metric.

        ``ttft`` ends at the first chunk, ``e2e`` with the stream; ``tpot`` is the time between them per token; ``itl``
        are all gaps between chunks.
        """
        rows = [i for i in self.answered if self.outcomes[i].chunks]
        outcomes = [self.outcomes[i] for i in rows]
        tokens = np.array([self.output_tokens(i) for i in rows])
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
        """Return the 99th percentile of the sending delay [s]; None if requests had no send times."""
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
        failed = self.failed
        for kind, count in list(failed.items())[:MOST_KINDS]:
            out.append(f"{count:,} of {len(self.sent):,} requests failed: {self.examples.get(kind, kind)}")
        if len(failed) > MOST_KINDS:
            rest = sum(list(failed.values())[MOST_KINDS:])
            out.append(f"{rest:,} more failed in {len(failed) - MOST_KINDS:,} other ways: run.json")
        if (late := self.lateness() or 0.0) > LATE_S:
            out.append(
                f"1 of 100 requests was sent {seconds(late)} late or more: this machine is too slow "
                f"for the trace, or its {self.places:,} places in flight are too few"
            )
        if (stall := self.stall() or 0.0) > LATE_S:
            out.append(
                f"this client was busy: 1 of 100 timestamps may be {seconds(stall)} late or more; record "
                "fewer streams at a time, or on another machine"
            )
        if self.server.missing:
            out.append(f"the folder cannot be replayed without {' and '.join(self.server.missing)}")
        return out

    def write(self, folder: OutputFolder) -> None:
        """Write the folder of a run."""
        write_recording(self, folder)

    def records(self) -> Rows:
        return [{"metric": n, **figures} for n, figures in self.measured().items()]

    def rows(self) -> Rows:
        return [
            {"latency": name.removesuffix("_s").upper()} | {k: seconds(v) for k, v in summary.items()}
            for name, summary in self.measured().items()
        ]

    def blocks(self) -> Blocks:
        text = (
            f"{self.target.model} at {self.target.base}: {len(self.answered):,} of "
            f"{len(self.outcomes):,} requests of {self.workload} answered; {self.target.says()}"
        )
        return [text, *([self.rows()] if self.measured() else [])]
