"""Errors of measured deployments by named factor; each factor widens the interval of deployments that have it.

`error_factors.yaml` gives for every factor the measured over simulated time beyond the kernels' errors, in logarithms
at 80 %. Factors are independent, so their squares add up. `opbyte validate runs --fit` fits them; `--without SOURCE`
scores a source left out. A median is never shifted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from math import log1p, log2
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...devices.calibrated.libraries import BLACKWELL, generation
from ...devices.catalog import load_device
from ...devices.hosts.catalog import host_of
from ...devices.power.cap import held_processor
from ...devices.ratios import Ratios
from ...simulator.deploy.deployment import Deployment
from ...simulator.scenario import Scenario
from ...simulator.step.explicit import StageCost
from ...workloads.csvfile import read_whole
from ...workloads.hf.json_file import read_json_object
from ...workloads.layers.base import State
from ...workloads.yamlfile import read_yaml
from ..show.text import Records

F8 = npt.NDArray[np.float64]
STEP, TOKEN, FIRST, POWER, TRAINING = "step", "token", "first_token", "power", "training"
"""Quantities with errors: step time (also TPOT and rates), TPOT beyond its steps, TTFT beyond its steps, power, training step time."""
ANY = "any deployment"
TELLING = 0.1
"""Minimum share of all factors' squares from which a factor is named as a reason."""
SHORT_S = 15e-6
"""Kernels shorter than this are mostly launch time [s]."""


class Conditions(NamedTuple):
    """Properties of a run on which its errors depend.

    `prompts`: share of the time in steps with prompts. `burst`: all requests arrive at once. `in_step`: equal lengths,
    in a closed loop or a burst. `split`: separate prefill and decode pools. `zero`: ZeRO stage of a training step.
    `outside`: share of TTFT that is neither steps nor queueing. `together`: logarithm of TTFT if all clients send at
    the same time, over the simulated TTFT.
    """

    deployment: Deployment
    stage: StageCost | None = None
    engine: str = ""
    version: tuple[int, ...] = ()
    prompts: float = 0.0
    burst: bool = False
    in_step: bool = False
    split: bool = False
    zero: int = 0
    outside: float = 0.0
    together: float = 0.0


Amounts = Mapping[str, float]
"""Amount of each error factor in a run, by the factor's name; factors that the run does not have are left out."""
TOGETHER = "lengths that are not published"


class ErrorFactor(NamedTuple):
    """A named reason why a deployment's error may exceed its kernels' error.

    `amount` returns how much of it a run has (0 for none); `of` names the quantities whose intervals it widens.
    """

    name: str
    why: str
    amount: Callable[[Conditions], float]
    of: tuple[str, ...] = (STEP, FIRST)


def no_peers(conditions: Conditions) -> float:
    """Return 1 if a model is tensor-parallel on devices whose host does not allow peer access, else 0."""
    machine = host_of(conditions.deployment.system)
    return float(conditions.deployment.layout.tp > 1 and machine is not None and not machine.link.peer_access)


def _below_clock(conditions: Conditions) -> float:
    """Return how often the clock is halved, -log2(clock / reference clock), at most 1 because no measured run had more.

    The clock is reduced by a power cap, and relative to the board whose kernel fits are used. For a step, the value is
    multiplied by the share of its time that is compute-bound.
    """
    spec = conditions.deployment.system.device
    processor = next(iter(spec.processors.values()))
    capped, share = held_processor(spec, processor), spec.clock_share
    if capped is not processor and spec.kernels is not None:
        timed = next(iter(load_device(spec.kernels)[0].processors.values()))
        share *= min((capped.clock_Hz or 1.0) / (timed.clock_Hz or 1.0), 1.0)
    return min(-log2(share), 1.0) * (
        1.0 if conditions.stage is None else _share(conditions.stage, lambda op: op.cost.bound == "compute")
    )


@cache
def _tuned() -> Mapping[tuple[str, int, int, str, str], tuple[int, ...]]:
    """Return the expert shapes with a tuned configuration in an engine -> the first engine version that has it.

    A key is (engine, experts, width per device, device, weight format), as in ``tuned_experts.csv``.
    """
    from ...simulator.frameworks.keys import numbers_of  # compiled code beside it

    columns = read_whole(Path(__file__).parent / "tuned_experts.csv", TUNED)
    rows = zip(*(columns[name].cells for name in TUNED), strict=True)
    return {(str(e), int(str(n)), int(str(w)), str(d), str(f)): numbers_of(str(since)) for e, n, w, d, f, since in rows}


TUNED = ("engine", "experts", "inter", "device", "format", "since")


def _untuned_experts(conditions: Conditions) -> float:
    """Return 1 if experts run on a Triton kernel that has no tuned configuration in the engine's version, else 0."""
    spec, numerics = conditions.deployment.system.device, conditions.deployment.run.numerics
    form = numerics.weight_format("experts") or "bf16"
    if (
        conditions.engine not in TRITON
        or form not in ("bf16", "fp8", "fp8_block")
        or generation(spec) in TRITON[conditions.engine]
    ):
        return 0.0
    for part in conditions.deployment.experts:
        count, width = getattr(part.spec, "experts_held", 0), getattr(part.spec, "width", 0)
        keys = [
            (conditions.engine, count + shared, width, spec.name, form) for shared in (0, 1)
        ]  # SGLang adds shared experts
        since = next((tuned for key in keys if (tuned := _tuned().get(key))), None)
        if since is None or (conditions.version and conditions.version < since):
            return 1.0
    return 0.0


TRITON: Mapping[str, tuple[int, ...]] = {"vllm": (BLACKWELL,), "sglang": ()}
"""Engine whose experts run on a Triton kernel -> device generations on which they do not (`devices.calibrated.libraries`)."""


def _share(stage: StageCost, chosen: Callable[[Any], bool]) -> float:
    """Return the share of a step's time in the ops for which `chosen` is true."""
    times = [(op.cost.seconds * op.count, chosen(op)) for op in stage.ops if op.critical]
    return sum(s for s, yes in times if yes) / max(sum(s for s, _ in times), 1e-300)


def _short(conditions: Conditions) -> float:
    return 0.0 if conditions.stage is None else _share(conditions.stage, lambda op: op.cost.seconds < SHORT_S)


UNTOLD = (0,)
"""Version that means "unknown": the engine's file does not state it, but should."""
OLD = {"vllm": (0, 8), "sglang": (0, 5), "trtllm": (1, 0)}
"""First versions of an engine with measured runs; hosts of earlier versions are only approximate."""
LATENT = "LatentAttention"
PLAIN = ("Attention", LATENT)


def _unusual_attention(conditions: Conditions) -> float:
    """Return 1 if a layer's cache is not the keys and values of all tokens, else 0; MTP projections have no cache."""
    mixers = [(type(x.mixer).__name__, x.mixer.state()) for x in conditions.deployment.model.layers]
    return float(any(state != State() and (state.window or name not in PLAIN) for name, state in mixers))


def _carried_power(conditions: Conditions) -> float:
    """Return 1 if a device's power model was not fitted to its own measurements, else 0."""
    from ...devices.power.transfer import power_model

    return float(
        conditions.deployment.device.board.model is not None
        and power_model(conditions.deployment.system.device).basis != "fitted"
    )


def _early_latent(conditions: Conditions) -> float:
    """Return 1 if a latent-attention model runs on an engine older than its kernels for such models, else 0."""
    latent = any(type(x.mixer).__name__ == LATENT for x in conditions.deployment.model.layers)
    return float(latent and conditions.engine in TRITON and _old(conditions))


def _ranks_in_step(conditions: Conditions) -> float:
    """Return the logarithm of the step time if no two ranks run prompts in the same step, over the simulated step time.

    Requests of equal lengths end in the same step on all ranks, so the next prompts of all ranks share a step too. With
    other lengths, each rank's prompts delay the decodes of all ranks: up to `dp` times as many steps contain prompts.
    """
    if not conditions.in_step or conditions.engine == "trtllm":
        return 0.0
    return log1p(conditions.prompts * (conditions.deployment.layout.dp - 1))


EVERY = (STEP, FIRST, POWER, TRAINING)
FACTORS = (
    ErrorFactor(
        "links without peer access", "the host's copies and what else its memory serves; 15 runs on pairs of two cards, vLLM 0.8", no_peers
    ),
    ErrorFactor(
        "boards with fewer watts", "what lower clocks do to arithmetic, and makers' own limits; Llama-2-70B on four systems of H100 NVL "
        "and PCIe, TensorRT-LLM, for each halving of the clock", _below_clock,
    ),
    ErrorFactor(
        "all requests at once", "the client and the front end; a time per token depends on how many of a request's tokens come while "
        "the prompts of others run, so on lengths of which only the mean is known", lambda c: float(c.burst), (STEP, TOKEN, FIRST),
    ),
    ErrorFactor("latent attention on an engine of early 2025 (NOT MODELLED)", "its kernels and its kernels of experts were new; DeepSeek-R1 "
                "under vLLM 0.7 and SGLang 0.4, 12 runs of two systems", _early_latent),
    ErrorFactor("data-parallel ranks in step", "all requests have one length; with others (--lengths) each rank's prompts delay the decodes of all ranks",
                _ranks_in_step, (STEP,)),
    ErrorFactor("an engine version that is not told", "the newest one that was read is simulated; earlier ones take up to a quarter more time. 145 times of 114 runs, nine sources, "
                "simulated with their version over without", lambda c: float(bool(c.engine) and c.version == UNTOLD), (STEP,)),
    ErrorFactor("devices of other makers than NVIDIA", "small kernels and collectives there", lambda c: float(not generation(c.deployment.system.device)), EVERY),
    ErrorFactor("an engine version that may be old", "hosts and kernels of 2024 and early 2025; which ones ran", lambda c: float(_old(c))),
    ErrorFactor("SGLang", "its host and its running limits by model", lambda c: float(c.engine == "sglang")),
    ErrorFactor("experts", "router, permutation and grouped products", lambda c: float(bool(c.deployment.experts)), EVERY),
    ErrorFactor("experts without a tuned kernel", "the engine ships no configuration of its Triton kernel for their shape on this device", _untuned_experts),
    ErrorFactor("small kernels", f"share of a step in kernels under {SHORT_S * 1e6:.0f} us", _short),
    ErrorFactor("steps with prompts", "share of the time; host work in parallel with them", lambda c: c.prompts),
    ErrorFactor("drafts", "the host between sequential passes of a draft", lambda c: float("drafts" in c.deployment.parts)),
    ErrorFactor("windows, states or compressed keys", "split of the memory, and kernels of one model", _unusual_attention, EVERY),
    ErrorFactor("data-parallel attention", "exchanges of ranks with unequal tokens; DeepSeek-V3 on eight MI300X takes twice the time, the cause is unknown. No run under "
                "vLLM is known, and none under TensorRT-LLM shows it", lambda c: float(c.deployment.layout.dp > 1 and c.engine != "trtllm")),
    ErrorFactor("separate pools", "the transfer of keys, and the router between them", lambda c: float(c.split)),
    ErrorFactor("gradients shared by ranks", "FSDP: frameworks with few measured steps", lambda c: float(c.zero >= 2), (TRAINING,)),
    ErrorFactor("TensorRT-LLM", "what its executor does between a request and its first step", lambda c: float(c.engine == "trtllm"), (FIRST,)),
    ErrorFactor("a first token that is mostly connection and HTTP", "its share of the time; it differs between clients and hosts", lambda c: c.outside, (FIRST,)),
    ErrorFactor(TOGETHER, "equal ones keep all clients in step, so that each waits for the prompts of half of the others", lambda c: c.together, (FIRST,)),
    ErrorFactor("a power model of another device", "constant power of a busy board", _carried_power, (POWER,)),
)  # fmt: skip


UNPRICED = 6
"""Number of leading entries of `FACTORS` that no cost model covers, or that depend on assumed lengths or versions.

Their errors of a step are not fitted, and some of these errors have a median other than zero.
"""


def _old(conditions: Conditions) -> bool:
    return bool(conditions.engine) and () < conditions.version[:2] < OLD.get(conditions.engine, (0, 0))


class Widths(NamedTuple):
    """Fitted error factors.

    `kernels` and `first_kernels` are exponents of the kernels' error ratios, for steps and for TTFT. `table` has for each
    quantity and factor the logarithms of measured over simulated time.
    """

    kernels: float
    table: Mapping[str, Mapping[str, Ratios]]
    first_kernels: float = 1.0

    def _known(self, amount: Amounts, quantity: str) -> dict[str, tuple[float, float, float]]:
        """Return the middle of each factor's error in a run, and the distances below and above it (logarithms)."""
        table = self.table.get(quantity, {})
        known = [(name, amount.get(name, 0.0), r) for name, r in table.items()]
        return {name: (x * r.middle, x * (r.middle - r.low), x * (r.high - r.middle)) for name, x, r in known}

    def reach(self, amount: Amounts, quantity: str) -> Ratios:
        """Return the combined error of all factors (logarithms), weighted by `amount`.

        The middles add up. The distances below and above the middle add up as squares.
        """
        middle, below, above = 0.0, 0.0, 0.0
        for one in self._known(amount, quantity).values():
            middle, below, above = middle + one[0], below + one[1] ** 2, above + one[2] ** 2
        return Ratios(middle - float(np.sqrt(below)), middle, middle + float(np.sqrt(above)))

    def reasons(self, amount: Amounts, *quantities: str) -> tuple[str, ...]:
        """Return the factors that contribute `TELLING` or more of some quantity's squared width, the largest first."""
        size = dict[str, float]()
        for quantity in quantities:
            squares = {name: (low + high) ** 2 for name, (_, low, high) in self._known(amount, quantity).items()}
            for name, square in squares.items():
                size[name] = max(size.get(name, 0.0), square / max(sum(squares.values()), 1e-300))
        order = sorted(size, key=lambda name: -size[name])
        return tuple(name for name in order if size[name] >= TELLING and name != ANY)


NO_FACTORS = Widths(1.0, {})


def amounts(conditions: Conditions) -> Amounts:
    """Return the amount of each error factor in a run, without factors of zero."""
    every = {ANY: 1.0} | {f.name: f.amount(conditions) for f in FACTORS}
    return {name: x for name, x in every.items() if x > 0.0}


@cache
def fitted_widths() -> Widths:
    """Return the fitted factors of `error_factors.yaml`."""
    raw = read_yaml(Path(__file__).parent / "error_factors.yaml")
    table = {quantity: {name: Ratios(*ends) for name, ends in rows.items()} for quantity, rows in raw["widths"].items()}
    return Widths(float(raw["kernels"]), table, float(raw["first_kernels"]))


def engine_of_scenario(scenario: Scenario) -> tuple[str, tuple[int, ...]]:
    """Return a scenario's engine, named as in `frameworks`, and its version; empty for the newest one."""
    from ...simulator.frameworks.keys import numbers_of  # compiled code beside it

    known = engine_file_of(scenario)
    if not known:
        return engine_named(scenario.deployment.framework)
    name, version = known.get("engine", "vllm"), known.get("version", known.get("engine_version", ""))
    return {"tensorrt-llm": "trtllm"}.get(str(name), str(name)), numbers_of(str(version)) or UNTOLD


def engine_file_of(scenario: Scenario) -> Mapping[str, Any]:
    """Return the keys and values of a scenario's engine file; empty without a file."""
    path = scenario.serving.engine
    return {} if path is None else read_json_object(Path(path, "engine.json") if Path(path).is_dir() else Path(path))


def engine_named(framework: str | None) -> tuple[str, tuple[int, ...]]:
    """Return the engine's name and version numbers of an option ``NAME@VERSION``."""
    name, _, version = (framework or "").partition("@")
    if not version:
        return name, ()
    from ...simulator.frameworks.keys import numbers_of  # compiled code beside it

    return name, numbers_of(version)


def factor_evidence(deployment: Deployment) -> Records:
    """Return evidence entries for the effects in a deployment that take time but have no cost model."""
    return [
        {
            "cost_model": "not priced", "applies_to": factor.name, "basis": "assumed", "error": None,
            "rows": 0, "assumptions": {}, "why": f"NOT MODELLED, the interval is wider: {factor.why}",
        }
        for factor in FACTORS[:UNPRICED] if factor.amount(Conditions(deployment))
    ]  # fmt: skip
