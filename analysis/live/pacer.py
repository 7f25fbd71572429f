"""The task that runs a simulation in real time and delivers its tokens.

Simulated time is the clock's, times a scale. The task sleeps until the next step or token; tokens keep their simulated
times, so delays do not add up.
"""

from __future__ import annotations

import asyncio
import math
import time
from bisect import bisect_left
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from .live import Gauges, Live

FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
         10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0)  # fmt: skip
BETWEEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
WHOLE = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
         240.0, 480.0, 960.0, 1920.0, 7680.0)  # fmt: skip
"""Bounds of vLLM's histograms [s] (vllm/v1/metrics/loggers.py)."""
PAGE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Histogram of times, in the form of Prometheus."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts = bounds, [0] * (len(bounds) + 1)
        self.total, self.most = 0.0, 0.0

    def note(self, value: float, times: int = 1) -> None:
        """Count a value [s] as `times` equal parts of it."""
        self.counts[bisect_left(self.bounds, value / times)] += times
        self.total += value
        self.most = max(self.most, value)

    @property
    def count(self) -> int:
        return sum(self.counts)

    def lines(self, name: str, labels: str) -> Iterator[str]:
        """Yield the histogram's samples as lines."""
        below = 0
        for bound, in_bucket in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            below += in_bucket
            yield f'{name}_bucket{{{labels},le="{bound}"}} {below}'
        yield f"{name}_count{{{labels}}} {below}"
        yield f"{name}_sum{{{labels}}} {self.total:.9g}"


@dataclass(slots=True)
class Meters:
    """Counters and histograms of a server, in seconds of real time.

    Attributes
    ----------
    ttft, gap, e2e : Histogram
        TTFT, gaps between tokens and end-to-end time of the simulated engine.
    late : Histogram
        Delay between the due time of tokens and their delivery.
    asked, finished, abandoned, refused : int
        Numbers of requests: accepted, completed, abandoned by their client, and refused.
    """

    ttft: Histogram = field(default_factory=lambda: Histogram(FIRST))
    gap: Histogram = field(default_factory=lambda: Histogram(BETWEEN))
    e2e: Histogram = field(default_factory=lambda: Histogram(WHOLE))
    late: Histogram = field(default_factory=lambda: Histogram(FIRST))
    asked: int = 0
    finished: int = 0
    abandoned: int = 0
    refused: int = 0


GAUGES = (
    ("num_requests_running", "gauge", "Requests in the running batch.", "running"),
    ("num_requests_waiting", "gauge", "Requests that wait.", "waiting"),
    ("kv_cache_usage_perc", "gauge", "Used share of the KV cache; 1 is all of it.", "kv_used"),
    ("num_preemptions", "counter", "Preempted requests.", "preemptions"),
    ("prompt_tokens", "counter", "Prompt tokens, computed or found.", "prompt_tokens"),
    ("prefix_cache_queries", "counter", "Prompt tokens looked for in the cache.", "prompt_tokens"),
    ("prefix_cache_hits", "counter", "Prompt tokens found in the prefix cache.", "cached_tokens"),
    ("generation_tokens", "counter", "Tokens generated.", "output_tokens"),
)
HISTOGRAMS = (
    ("vllm:time_to_first_token_seconds", "Time to the first token.", "ttft"),
    ("vllm:inter_token_latency_seconds", "Time between two tokens.", "gap"),
    ("vllm:e2e_request_latency_seconds", "Time of whole requests.", "e2e"),
    ("opbyte:token_lateness_seconds", "How late tokens were handed out.", "late"),
)


def page(meters: Meters, engines: Sequence[Gauges], model: str) -> str:
    """Return the metrics in Prometheus' text format; the histograms cover all engines together."""
    name = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    labels = [f'engine="{i}",model_name="{name}"' for i in range(len(engines))]
    out: list[str] = []
    for key, kind, text, attribute in GAUGES:
        total = "_total" if kind == "counter" else ""
        out += _head(f"vllm:{key}{total}", kind, text)
        out += [
            f"vllm:{key}{total}{{{label}}} {getattr(gauges, attribute):.9g}"
            for label, gauges in zip(labels, engines, strict=True)
        ]
    out += _head("vllm:request_success_total", "counter", "Requests answered, by how they ended.")
    for reason, ended in (("length", meters.finished), ("abort", meters.abandoned)):
        out.append(f'vllm:request_success_total{{{labels[0]},finished_reason="{reason}"}} {ended}')
    for key, text, attribute in HISTOGRAMS:
        out += [*_head(key, "histogram", text), *getattr(meters, attribute).lines(key, labels[0])]
    return "\n".join(out) + "\n"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


class Answer:
    """Response to one request; a task can wait for its tokens.

    Attributes
    ----------
    number : int
        Number of the request in the simulation.
    left : int
        Tokens that have not been delivered yet.
    cached_tokens : int
        Prompt tokens found in the prefix cache; known with the first token.
    """

    __slots__ = ("asked_s", "cached_tokens", "came", "ended", "last_s", "left", "number", "waiter")

    def __init__(self, number: int, output_tokens: int, asked_s: float) -> None:
        self.number, self.left, self.asked_s = number, output_tokens, asked_s
        self.came, self.last_s, self.ended, self.cached_tokens = 0, -math.inf, False, 0
        self.waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Wake the task that waits for tokens."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def end(self) -> None:
        """Mark the response as ended, and wake the waiting task."""
        self.ended = True
        self.wake()

    async def more(self) -> int:
        """Wait for tokens; return the number of new ones since the last call, 0 if the response has ended."""
        while not self.came and not self.ended:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
        came, self.came = self.came, 0
        self.left -= came
        return came


class Pacer:
    """Runs the simulated engines in real time, by a scaled clock.

    Parameters
    ----------
    scale : float
        Simulated seconds per second of real time.
    meters : Meters
        Called with every token, in seconds of the clock.
    """

    def __init__(self, live: Live, scale: float, meters: Meters) -> None:
        self.live, self.scale, self.meters = live, scale, meters
        self.answers: dict[int, Answer] = {}
        self._began = time.perf_counter()
        self._wake = asyncio.Event()
        self.closed = False

    def now(self) -> float:
        """Return the present time of the simulation [s]."""
        return (time.perf_counter() - self._began) * self.scale

    def submit(self, input_tokens: int, output_tokens: int, content: tuple[Hashable, ...]) -> Answer:
        """Send a request to the simulation.

        Raises
        ------
        CapacityError, InputError
            It could never be served.
        """
        now = self.now()
        number = self.live.submit(now, input_tokens, output_tokens, content)
        answer = self.answers[number] = Answer(number, output_tokens, now)
        self._wake.set()
        return answer

    def abandon(self, answer: Answer) -> None:
        """Abandon a request whose client has left."""
        if self.answers.pop(answer.number, None) is not None:
            self.live.cut(answer.number)
            self.live.forget(answer.number)
            self.meters.abandoned += 1
        answer.end()

    def close(self) -> None:
        """End every open response immediately."""
        self.closed = True
        for answer in self.answers.values():
            answer.end()
        self._wake.set()

    async def run(self) -> None:
        """Run the simulation until `close` is called."""
        loop = asyncio.get_running_loop()
        while not self.closed:
            now = self.now()
            self.live.advance(now)
            for tokens in self.live.due(now):
                self._hand_out(tokens.due_s, tokens.requests, tokens.counts)
            self._wake.clear()
            left = (self.live.next_s - self.now()) / self.scale
            if left <= 0.0:
                await asyncio.sleep(0)  # behind: others have their turn all the same
                continue
            timer = None if math.isinf(left) else loop.call_later(left, self._wake.set)
            await self._wake.wait()
            if timer is not None:
                timer.cancel()

    def _hand_out(self, due_s: float, numbers: list[int], counts: list[int]) -> None:
        """Deliver tokens that are due at one time to their requests, and record the latencies."""
        scale, meters, answers = self.scale, self.meters, self.answers
        for number, count in zip(numbers, counts, strict=True):
            answer = answers.get(number)
            if answer is None:
                continue
            answer.came += count
            if answer.last_s < 0.0:
                answer.cached_tokens = self.live.cached_tokens(number)
                meters.ttft.note((due_s - answer.asked_s) / scale)
            else:
                meters.gap.note((due_s - answer.last_s) / scale, count)
            answer.last_s = due_s
            if answer.came == answer.left:
                meters.e2e.note((due_s - answer.asked_s) / scale)
                meters.finished += 1
                del answers[number]
                self.live.forget(number)
                answer.ended = True
            answer.wake()
        meters.late.note((self.now() - due_s) / scale)
