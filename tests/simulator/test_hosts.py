"""Do simulate, a single step and capacity see the same host, and one GPU none of its links?

Expected values: closed forms (a step is longer by what its collectives are), and each other.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from opbyte.analysis.answers.error_factors import Conditions
from opbyte.analysis.answers.evidence import evidence
from opbyte.analysis.answers.interval import step_interval
from opbyte.analysis.answers.roofline import roofline
from opbyte.analysis.answers.simulate import simulate
from opbyte.analysis.studies.capacity import capacity
from opbyte.devices.catalog import load_system
from opbyte.devices.hosts.catalog import link_of
from opbyte.simulator.fleet.pools import Fleet, pools_of
from opbyte.simulator.scenario import Scenario
from opbyte.simulator.scenario.build import deployment_of
from opbyte.simulator.step.explicit import dealt, explicit_stage
from opbyte.workloads.errors import InputError

CLASSES = ("pcie-peer", "pcie-host", "pcie-sockets")
LOAD = {"closed_loop": 8, "requests": 16, "input_len": 64, "output_len": 16}


def steps(host: str, **options: object) -> float:
    """Median gap between tokens of a small closed loop [s]."""
    found = simulate("llama-3.1-8b", "rtx-pro-6000-x2", host=host, **LOAD, **options)
    return float(found.run.tbt_s.p50)


@pytest.mark.parametrize("costs", ["auto", "roofline"])
def test_simulation_and_step_agree(costs: str) -> None:
    """A class changes a decode step by what it changes the collectives of one, in both paths."""
    simulated = np.array([steps(host, costs=costs, tp=2) for host in CLASSES])
    alone = np.array(
        [
            roofline("llama-3.1-8b", "rtx-pro-6000-x2", batch=8, context=72, host=host, costs=costs, tp=2).step_seconds
            for host in CLASSES
        ]
    )
    assert (np.diff(simulated) > 0).all()
    # Gaps are counted in bins of 0.1 %; contexts differ by a few tokens.
    assert np.diff(simulated) == pytest.approx(np.diff(alone), rel=0.05)


def test_one_gpu_has_no_links() -> None:
    """Replicas on single GPUs exchange nothing: every class gives the same run."""
    runs = [simulate("llama-3.1-8b", "l40s-x2", host=host, tp=1, dp=2, **LOAD).run for host in CLASSES]
    for one in runs[1:]:
        assert (one.requests.last_token_s == runs[0].requests.last_token_s).all()


def test_capacity_falls_with_the_class() -> None:
    loads = [
        capacity(
            "llama-3.1-8b", ["rtx-pro-6000-x2"], slo="tpot_p99=0.012", tp=2, host=host,
            requests=40, input_len=128, output_len=16,
        ).found[0].load_per_s or 0.0
        for host in ("pcie-peer", "pcie-sockets")
    ]  # fmt: skip
    assert loads[0] > 1.2 * loads[1]


def test_nothing_named_is_the_devices_class() -> None:
    base = Scenario.of("llama-3.1-8b", "rtx-pro-6000-x2", tp=2, **LOAD)
    named, bare = (deployment_of(s)[0] for s in (base.changed(host="pcie-host"), base))
    op = next(o for o in _collectives(bare))
    assert named.link(op).cost(op) == bare.link(op).cost(op)
    told = [next(e for e in evidence(d, {}) if e["cost_model"] == "host's links") for d in (named, bare)]
    assert told[0]["why"].startswith("class pcie-host")
    assert told[1]["why"].startswith("assumed: no host is named, class pcie-host")


def _collectives(d: object) -> list[object]:
    from opbyte.analysis.answers.memory_rows import by_place

    return list(by_place(d)[link_of(d.system).name].values())  # type: ignore[attr-defined, arg-type]


def test_the_interval_takes_the_spread_of_the_class() -> None:
    """A step is as sure as its links: least across sockets, most between peers."""
    widths = []
    for host in CLASSES:
        scenario = Scenario.of("llama-3.1-8b", "rtx-pro-6000-x2", tp=2, host=host, **LOAD)
        d, _ = deployment_of(scenario)
        stage = explicit_stage(d, dealt(d, 64, 512, []), expected=True)
        found = step_interval(Conditions(d, stage))
        assert found is not None
        widths.append(found.high)
    assert widths == sorted(widths)
    assert widths[1] > widths[0] + 0.1


def test_a_gap_lengthens_every_step(tmp_path: Path) -> None:
    """A host's gap stands between all steps, hidden scheduling or not, and in the evidence."""
    path = tmp_path / "slow.yaml"
    path.write_text(
        "name: slow\nextends: nvlink\n"
        "fitted: {run: made up, step_gap_us: {value: 500, low: 400, high: 600, source: a test}}\n"
    )
    for policy in ("vllm", "chunked"):
        runs = [simulate("llama-3.1-8b", "h100-x1", policy=policy, host=host, **LOAD) for host in (None, path)]
        plain, slow = (found.run for found in runs)
        longer = slow.makespan_s - plain.makespan_s
        assert slow.iterations == plain.iterations
        assert longer == pytest.approx(5e-4 * plain.iterations, rel=0.1)
        assert any(e["cost_model"] == "gap between steps" for e in runs[1].evidence)


def test_pools_send_over_the_hosts_link(tmp_path: Path) -> None:
    """Prefill and decode pools of PCIe cards exchange caches at the host's rate."""
    path = tmp_path / "split.yaml"
    path.write_text(
        "name: split\ndevice: l40s\nhost: pcie-sockets\nmapping: {prefill_share: {value: 0.5, source: a test}}\n"
        "devices_per_node: {value: 2, source: a test}\n"
    )
    d, _ = deployment_of(Scenario.of("llama-3.1-8b", path, **LOAD))
    link = pools_of(d, Fleet()).link
    assert link is not None
    assert link.bandwidth_bytes_per_s == pytest.approx(0.135 * 32e9)
    assert link_of(load_system("l40s-x2")).bandwidth_bytes_per_s == pytest.approx(0.332 * 32e9)


def test_unknown_hosts_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'pcie-host'"):
        roofline("llama-3.1-8b", "l40s-x2", host="pcie-hst")
    with pytest.raises(InputError, match="nvlink4"):
        simulate("llama-3.1-8b", "h100-x2", host="pcie-host", **LOAD)
