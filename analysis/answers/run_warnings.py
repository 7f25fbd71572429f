"""Warnings of a run: about its input files, the run itself, and its options."""

from __future__ import annotations

import numpy as np

from ...devices.checks import doubts, without_arithmetic
from ...devices.power.cap import cap_texts
from ...simulator.engine.kv import kv_rules, sequence_bytes
from ...simulator.frameworks.keys import far_version
from ...simulator.results.record import Run
from ...simulator.scenario import Scenario
from ...simulator.scenario.build import engine_settings
from .summary import overload

ROUND_ROBIN = "round-robin"


def warnings_of(scenario: Scenario, run: Run) -> tuple[str, ...]:
    """Return the warnings about a run's input files, the run itself, and its options."""
    sides = {d.system.device.name: d.system.device for d in run.deployment.pools or (run.deployment,)}
    if (apart := run.parts.get("experts-apart")) is not None:
        device = apart.deployment.system.device
        sides[device.name] = device
    known = [doubt for device in sides.values() for doubt in doubts(device)]
    out = [
        *engine_settings(scenario).doubts,
        *_too_long(run),
        *_sampled(run),
        *_cut(scenario, run),
        *_front_end(run),
        *known,
    ]
    out += far_version(scenario.deployment.framework or "")
    out += [line for device in sides.values() for line in cap_texts(device)]
    if run.window.overloaded:
        out.append(overload(run))
    out += _thrash(scenario, run)
    out += without_arithmetic(run.deployment.model.numerics, sides.values())
    for system in {d.system.name: d.system for d in run.deployment.pools or (run.deployment,)}.values():
        node = system.device.node_size
        if system.devices_per_node > node:
            text = f"a node of {system.device.name} has {node} devices, {system.name} has"
            out.append(f"{text} {system.devices_per_node}: all are simulated with the links of one node")
    # Only for vLLM's policy without an engine file: the file itself states how experts are distributed.
    serving = scenario.serving
    named_vllm = serving.policy == scenario.deployment.framework == "vllm" and serving.engine is None
    groups = run.deployment.layout.ep
    if named_vllm and scenario.deployment.ep is None and groups > 1:
        out.append(
            f"experts are distributed to {groups} groups; vLLM needs "
            "--enable-expert-parallel for this; its default is --ep 1"
        )
    return tuple(out)


FOUND = 0.5
"""Share of earlier turns' tokens found in the cache below which a warning gives the reason."""
HELD = 0.9
"""Share of the turns for which the suggested cache size suffices: less than this size is stored between the turn and its
earlier turn. The oldest entries are evicted first."""


def _thrash(scenario: Scenario, run: Run) -> list[str]:
    """Warn about sessions whose KV caches are evicted or on another replica at the next turn, with a remedy."""
    d, r = run.deployment, run.requests
    if not (run.cached and scenario.workload.turns) or r.count or d.pools:
        return []
    turns = scenario.workload.open(scenario.seed).read().turns
    if turns is None or len(turns.follows) != len(r):
        return []
    later = np.flatnonzero(turns.follows >= 0)
    before = turns.follows[later]
    tokens = r.input_tokens + r.output_tokens
    earlier = int(tokens[before].sum())
    if run.cached_tokens >= FOUND * earlier:
        return []
    size = sequence_bytes(kv_rules(d), tokens)
    order = np.argsort(r.last_token_s, kind="stable")
    ends, stored = r.last_token_s[order], np.append(0.0, np.cumsum(size[order]))
    since = stored[np.searchsorted(ends, r.arrival_s[later])] - stored[np.searchsorted(ends, r.last_token_s[before])]
    needed = float(np.quantile(since, HELD)) / (run.engines * d.ranks)
    text = f"{run.cached_tokens / earlier:.0%} of the tokens of earlier turns are found in the KV cache"
    if needed > run.kv_capacity:
        tiers = needed * d.layout.all_devices / d.replicas / 2**30
        text = f"cache thrash: {text}: the sessions need {needed / run.kv_capacity:.1f} times its size"
        return [f"{text}; --kv-tiers of {tiers:,.0f} GiB a replica hold {HELD:.0%} of them"]
    if run.engines > 1 and (scenario.fleet.router or ROUND_ROBIN) == ROUND_ROBIN:
        return [
            f"{text}: round-robin sends turns of a session to different replicas; --router sticky or kv-aware does not"
        ]
    return []


BUSY = 0.2
"""Minimum utilisation at which a warning names the server's front end."""


def _front_end(run: Run) -> list[str]:
    """Warn about a front end that is busy for much of the run, as it prepares requests one by one."""
    front, rows = run.policy.host.front, run.requests
    took = front.round_s + front.token_s * float(rows.input_tokens.mean())
    busy = len(rows) * took / (run.makespan_s * run.engines)
    if busy < BUSY:
        return []
    text = f"the server's front end prepares {1.0 / took:,.3g} requests/s, one after another, and is busy {busy:.0%} of the time"
    return [f"{text}: requests that arrive together queue there"]


def _sampled(run: Run) -> list[str]:
    """Return the text on the sampled part of a run with more requests than are recorded."""
    text = (
        f"of {len(run.requests):,} requests {len(run.requests.request_id):,}, evenly spread, represent all in plots; "
        "quantiles are to 0.05 %, and stages are from the start of the run"
    )
    return [text] if run.requests.count else []


def _cut(scenario: Scenario, run: Run) -> list[str]:
    """Return the text on the approximation of a fleet in groups without round-robin routing."""
    router = scenario.fleet.router or ROUND_ROBIN
    if run.groups == 1 or router == ROUND_ROBIN:
        return []
    text = f"approximate: {router} chose within {run.groups} groups of replicas, to which requests were assigned round-robin"
    return [f"{text}; without --groups it looks at all replicas"]


def _too_long(run: Run) -> list[str]:
    """Return notes on how the model file was read, and warn of requests beyond the model's last position."""
    notes = list(run.deployment.model.notes)
    longest = run.deployment.model.max_position
    lengths = run.requests.input_tokens + run.requests.output_tokens
    beyond = 0 if longest is None else int((lengths > longest).sum())
    if not beyond:
        return notes
    text = (
        f"{beyond:,} of {len(lengths):,} requests are longer than the {longest:,} positions "
        f"{run.deployment.model.name} was made for (longest: {int(lengths.max()):,})"
    )
    return [*notes, text]
