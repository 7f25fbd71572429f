"""Deliberate faults that the tests must catch: ``python .ci/mutants.py [PART OF A PATH ...]``.

Each of `MUTANTS` is put into an unpacked copy of the tree, and the tests named beside it, which pass without it, run
there until the first that fails; where none does the mutant is alive, and the exit code 1. A text that does not stand in its
file exactly once is an error: code that was rewritten needs its mutants anew.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 600
AT_ONCE = min(2, os.cpu_count() or 1)
ASKED = "tests/analysis/test_odd_input.py"
COLLECTIVES = "tests/devices/test_collectives.py"
DRAM = "tests/devices/test_dram.py"
PLACES = "tests/simulator/test_placement.py tests/simulator/test_better_devices.py"
SCALING = "tests/simulator/test_autoscale.py"
POWER = f"tests/devices/test_power.py tests/devices/test_power_cap.py {ASKED}::test_a_cap_above_the_limit_says_nothing"
LABELS = "tests/workloads/test_classes.py"
CLASSES = f"{LABELS} {ASKED}::test_a_class_s_key_that_is_no_text"
OWN = "tests/workloads/test_own_folder.py"
SHELVES = "tests/simulator/test_kv_tiers.py::test_a_larger_tier_never_hits_less"
TIERS = " ".join(f"tests/analysis/test_kv_tiers.py::test_{n}" for n in ("sizes_and_links", "what_cannot_be_read"))
DRAFTS = "tests/workloads/test_speculators.py"
SPECULATION = "tests/simulator/test_speculation.py"
PRICES = "tests/analysis/test_price.py"
COST = "tests/devices/test_cost.py"
STEADY = " ".join(
    f"tests/simulator/test_steady.py::test_{n}"
    for n in ("the_interval_holds_what_is_known", "truncation_of_a_ramp", "short_and_drifting_runs_say_so",
              "a_growing_queue_is_overload_in_a_short_run_too", "a_queue_that_surely_grows_is_overload")
)  # fmt: skip
CAPACITY = " ".join(
    f"tests/analysis/test_capacity.py::test_{n}"
    for n in ("brackets_hold_the_limit", "brackets_below_what_full_engines_serve", "brackets_end",
              "both_ends_of_a_load_are_searched")
)  # fmt: skip
PLAN = "tests/analysis/test_plan.py::test_how_many_come_within_a_limit"
STATIONARY = " ".join(
    f"tests/analysis/test_stationary.py::test_{n}"
    for n in ("five_generations_tell_nothing", "shares_that_stay_are_found")
)
BACKLOG = "tests/analysis/test_backlog.py::test_waits_and_spells_are_those_of_a_single_server"
KV = "tests/simulator/test_layout.py"
CLOCK = "tests/analysis/test_error_factors.py::test_halvings_of_the_clock_count_to_one"
GATHER = "tests/simulator/test_policies.py::test_an_ended_sequence_keeps_its_place_until_its_result_is_known"
LAST = "tests/simulator/test_run.py::test_a_run_ends_with_its_last_step"

MUTANTS: list[tuple[str, str, str, str]] = [
    # collectives
    ("devices/collectives/exchanges.py", "share * steps / level.ranks))\n        share /= level.ranks",
     "share * steps / level.ranks))", COLLECTIVES),
    ("devices/collectives/exchanges.py", "share = [], float(rounds)", "share = [], 1.0", COLLECTIVES),
    ("devices/collectives/exchanges.py", "rounds * steps, share", "steps, share", COLLECTIVES),
    ("devices/collectives/exchanges.py", "2 * ceil(log2(level.ranks))", "ceil(log2(level.ranks))", COLLECTIVES),
    ("devices/collectives/exchanges.py", "2.0 * share))", "share))", COLLECTIVES),
    ("devices/collectives/exchanges.py", "rounds * (n - 1), 0.0", "rounds * n, 0.0", COLLECTIVES),
    ("devices/collectives/exchanges.py", "rounds * (n - 1) / n)", "rounds * 1.0)", COLLECTIVES),
    ("devices/collectives/exchanges.py", "slowest = min(used", "slowest = max(used", COLLECTIVES),
    ("devices/collectives/exchanges.py", "peers, peers / topology.ranks", "peers, peers / reached", COLLECTIVES),
    ("devices/collectives/exchanges.py", "yield level.link, reached - inside", "yield level.link, level.ranks - 1", COLLECTIVES),
    ("devices/collectives/exchanges.py", "level.ranks - 1, (level.ranks - 1) / level.ranks)", "level.ranks - 1, 1.0)", COLLECTIVES),
    ("devices/collectives/plans.py", "hop.messages * hop.latency_s", "hop.latency_s", COLLECTIVES),
    ("devices/collectives/plans.py", "if self.at_once else sum(hop_times)", "if not self.at_once else sum(hop_times)",
     COLLECTIVES),
    # DRAM
    ("devices/dram/timing.py", 'max(pc.act4 + c.faw, channel.s[0].row_bus)', 'channel.s[0].row_bus', DRAM),
    ("devices/dram/timing.py", "pc.next_act = max(pc.next_act, t + c.act_act)",
     "pc.next_act = max(pc.next_act, t + 1)", DRAM),
    ("devices/dram/timing.py", "bank.next_act = max(bank.next_act, t + c.rc)",
     "bank.next_act = max(bank.next_act, t)", DRAM),
    ("devices/dram/timing.py", "bank.next_rd = max(bank.next_rd, t + c.act_rd)",
     "bank.next_rd = max(bank.next_rd, t + 1)", DRAM),
    ("devices/dram/timing.py", "group.next_rd = max(group.next_rd, t + c.ccd_l)\n        for",
     "group.next_rd = max(group.next_rd, t + 1)\n        for", DRAM),
    ("devices/dram/timing.py", "s.row_bus = t + c.act_len", "s.row_bus = t", DRAM),
    # placement
    ("simulator/deploy/placement.py", 'near = experts or (decode and cost is not None and cost.seconds < first * CLEARLY)',
     "near = experts or decode", PLACES),
    ("simulator/deploy/placement.py", '    return option.seconds\n\n\n@placement("fastest"',
     '    return -option.attained\n\n\n@placement("fastest"', PLACES),
    ("simulator/deploy/placement.py", 'return 0.0 if option.near and option.place > 0 else 1.0 + option.place',
     'return 0.0 if option.near else 1.0 + option.place', PLACES),
    ("simulator/deploy/placement.py", "if seconds < best_s * CLEARLY:", "if seconds > best_s * CLEARLY:", PLACES),
    ("simulator/deploy/placement.py", "cache = frozenset(range(max(spaces - 1, 1)))", "cache = frozenset(range(spaces))",
     PLACES),
    # scaling
    ("simulator/parts/autoscale/scaling.py", "[wait for wait in waits if wait > late]", "waits", SCALING),
    ("simulator/parts/autoscale/scalers.py", "return (seen.waiting + seen.running) / target", "return seen.waiting / target",
     SCALING),
    ("simulator/parts/autoscale/scalers.py", "if seen.ready < seen.replicas:", "if False:", SCALING),
    ("simulator/parts/autoscale/scalers.py", "<= HALF * target) >= seen.share", "<= target) >= seen.share", SCALING),
    # power
    ("devices/power/cap.py", "if cap_W >= known.limit_W:", "if cap_W > known.limit_W:", POWER),
    ("devices/power/cap.py", "return min((HELD * cap_W - base_W) / nominal, 1.0)",
     "return (HELD * cap_W - base_W) / nominal", POWER),
    ("devices/power/cap.py", "if cap_W <= least:", "if cap_W <= 0:", POWER),
    # classes, inputs
    ("workloads/requests/classes.py", 'if not (name and rest) or "="', 'if not name or "="', CLASSES),
    ("workloads/requests/classes.py", "abs(sum(filter(None, shares)) - 1) > 1e-6", "False", CLASSES),
    ("workloads/requests/classes.py", "{str(key): value for", "{key: value for", CLASSES),
    ("workloads/pareto.py", "beaten &= np.any(best < costs[i], axis=1)", "pass",
     "tests/test_doctests.py"),
    ("workloads/requests/classes.py", 'if ("input_len" in settings) != ("output_len" in settings):', "if False:", CLASSES),
    ("workloads/requests/labelling.py", "edges = np.cumsum(np.array(shares, dtype=np.float64))",
     "edges = np.array(shares, dtype=np.float64)", CLASSES),
    ("workloads/requests/labelling.py", "np.where(labels.priority == NO_PRIORITY, priority, labels.priority)", "labels.priority",
     LABELS),
    ("workloads/requests/labelling.py", "which[mine] % len(names)", "which[mine] % 1", LABELS),
    ("workloads/requests/labelling.py", "inputs[mine], outputs[mine] = draw", "inputs[mine], _ = draw", LABELS),
    # tiers
    ("simulator/parts/kv_tiers/store.py", 'shelves.entries[store.first + store.room].next',
     'shelves.entries[store.first + store.room].previous', SHELVES),
    ("simulator/parts/kv_tiers/store.py", '    unlink_entry(shelves, row)\n    append_entry(shelves, store, row)', '    return', SHELVES),
    ("simulator/parts/kv_tiers/store.py", "if store.used < store.room:", "if store.used < store.room - 1:",
     SHELVES),
    ("simulator/parts/kv_tiers/store.py", "if ((at - begin) & mask) >= ((at - hole) & mask):",
     "if ((at - begin) & mask) > ((at - hole) & mask):", SHELVES),
    ("simulator/parts/kv_tiers/asked.py", "size = known.capacity_bytes * devices", "size = known.capacity_bytes", TIERS),
    ("simulator/parts/kv_tiers/asked.py", "* 1e-6 if len(rest) > 2", "* 1e-3 if len(rest) > 2", TIERS),
    ("simulator/parts/kv_tiers/asked.py", "if options.kv_prefetch and len(tiers) < 2:", "if False:", TIERS),
    ("simulator/parts/kv_tiers/asked.py", "if size > most:", "if False:", TIERS),
    # drafts
    ("workloads/speculators.py", "if not 0.0 <= rate <= 1.0:", "if not 0.0 <= rate:", DRAFTS),
    ("workloads/speculators.py", "if len(rates) != asked.tokens:", "if len(rates) > asked.tokens:", DRAFTS),
    ("workloads/speculators.py", "reached *= rate", "reached = rate", f"{SPECULATION}::test_expected_tokens"),
    ("simulator/parts/drafts/run.py", "replace(policy, ahead=False) if speculation.on_host else policy", "policy",
     f"{SPECULATION}::test_no_step_is_scheduled_ahead_of_n_grams"),
    ("simulator/parts/drafts/verify.py", 'row = index if draft_state.each else 0', 'row = 0',
     f"{SPECULATION}::test_requests_bring_their_own_chances"),
    ("simulator/engine/allocation.py", "min(request.cached + want, known)", "request.cached + want",
     f"{SPECULATION}::test_a_next_turn_finds_no_rejected_draft"),
    ("simulator/parts/tensorrt_llm/plan.py", "            return True, told\n", "            return False, told\n",
     "tests/simulator/test_own_rules.py::test_a_prompt_waits_for_what_another_computes"),
    # prices
    ("analysis/answers/price.py", "((scenario.years or YEARS) * HOURS_A_YEAR)", "(YEARS * HOURS_A_YEAR)", PRICES),
    ("analysis/answers/price.py", "/ 1000 * (scenario.pue or PUE)", "/ 1000", PRICES),
    ("analysis/answers/price.py", "USD_PER_KWH if scenario.usd_per_kWh is None else scenario.usd_per_kWh",
     "scenario.usd_per_kWh or USD_PER_KWH", PRICES),
    ("analysis/answers/price.py", "run.deployment.system.device.name not in amounts", "None in amounts", PRICES),
    ("analysis/answers/price.py", "if device.name in owned:", "if owned and False:", PRICES),
    ("devices/cost.py", "late = fixed_s > 0.5 * seconds", "late = fixed_s > seconds", COST),
    ("devices/cost.py", "op.bytes / bandwidth\n        busy", "op.bytes / self.bandwidth\n        busy", COST),
    ("devices/cost.py", "+ op.act_bytes * op.moved * self.act_J_per_byte", "+ op.act_bytes * op.moved * self.stream_J_per_byte", COST),
    # whether a load is held
    ("analysis/studies/stationary.py", "(high < GROWS and w.batches >= BATCHES)", "(high < GROWS)", STATIONARY),
    ("simulator/results/steady.py", "growth >= GROWS * float", "growth >= 4 * GROWS * float", STEADY),
    ("simulator/results/steady.py", "return float(stdtrit(n - 1, LEVEL) * error / mean)", "return float(error / mean)", STEADY),
    ("simulator/results/steady.py", "spread / left**2", "spread / left", STEADY),
    ("simulator/results/steady.py", "if drain - first < FEWEST * generation:", "if False:", STEADY),
    ("simulator/results/steady.py", "[0] > SURELY_GROWS", "[0] > 20 * SURELY_GROWS", STEADY),
    ("analysis/studies/capacity.py", "return load, 2 * load\n        load *= 2", "return load, load\n        load *= 2",
     CAPACITY),
    ("analysis/studies/capacity.py", "return load, 2 * load\n    return None, load", "return load, load\n    return None, load",
     CAPACITY),
    ("analysis/studies/capacity.py", "{name: most / r for", "{name: most for", CAPACITY),
    ("analysis/studies/capacity.py", "share = low / r / load", "share = low / load", CAPACITY),
    ("analysis/studies/capacity.py", "passing and load < start * HIGHEST:", "passing and load < 4 * start * HIGHEST:", CAPACITY),
    ("analysis/studies/plan/bounds.py", "(count - 1) + ROUNDING)) + 1, 1.0", "(count - 1) + ROUNDING)) + 2, 1.0", PLAN),
    ("analysis/answers/error_factors.py", "min(-log2(share), 1.0)", "min(-log2(share), 2.0)", CLOCK),
    ("simulator/engine/planning.py", "rank.running - rank.late\n    budget", "rank.running\n    budget",
     GATHER),
    ("simulator/fleet/collect.py", "end if stop else served.ended_s(end)", "end", LAST),
    # KV
    ("simulator/engine/kv.py", "block_bytes * -(-kept // rules.block)", "block_bytes * (kept // rules.block)", KV),
    ("simulator/engine/kv.py", "np.minimum(tokens, window) if window else tokens", "tokens", KV),
    # messages
    ("workloads/errors.py", "if len(text) <= MOST_LISTED:", "if True:", "tests/devices/test_own_files.py::test_unknown_devices"),
    # security
    ("workloads/own_folder.py", "path.stat().st_uid == _user() and not", "not", OWN),
    ("workloads/own_folder.py", "and not _others_write(path.stat())", "", OWN),
    ("workloads/own_folder.py", "and all(_is_kept(p) for p in folders[-1].parents)", "", OWN),
    ("workloads/requests/frames.py", "if not path.exists() or path.read_bytes() != data:", "if not path.exists():", OWN),
    # live
    ("analysis/live/record.py", "PromptSource(trace, seed, server.vocab)", "Prompts(trace, seed)",
     "tests/analysis/test_record.py::test_ids_lie_within_the_vocabulary"),
    ("analysis/live/asked.py", "raw.count(b\",\") > longest + ROOM_COMMAS", "False",
     "tests/analysis/test_serve.py::test_a_large_body_is_refused_before_it_is_parsed"),
]  # fmt: skip
"""File, text, what it becomes, and the tests that must notice."""


def copy(place: Path) -> Path:
    """The committed tree, unpacked."""
    packed = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
        files.extractall(place, filter="data")
    return place


def passes(tree: Path, tests: str) -> bool:
    """Whether tests pass; what never ends does not."""
    try:
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests.split()],
            cwd=tree, env={**os.environ, "PYTHONPATH": str(tree / "src")}, timeout=LIMIT_S,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    if run.returncode not in (0, 1):
        raise SystemExit(f"{tests}: pytest ended with {run.returncode}")
    return run.returncode == 0


def lives(tree: Path, path: str, old: str, new: str, tests: str) -> bool:
    """Whether no test notices a fault."""
    file = tree / path
    whole = file.read_text(encoding="utf-8")
    if whole.count(old) != 1:
        raise SystemExit(f"{path}: {old!r} stands there {whole.count(old)} times, not once")
    file.write_text(whole.replace(old, new), encoding="utf-8")
    try:
        return passes(tree, tests)
    finally:
        file.write_text(whole, encoding="utf-8")


def main(wanted: list[str]) -> int:
    """Try the mutants, one on each of two cores, once their tests have passed without; 1 where one is alive."""
    chosen = [m for m in MUTANTS if not wanted or any(part in m[0] for part in wanted)]
    alive, began = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(AT_ONCE) as pool:
        trees: Queue[Path] = Queue()
        for i in range(AT_ONCE):
            trees.put(copy(Path(name) / str(i)))

        def on_a_tree(act: Callable[..., bool], *given: str) -> tuple[bool, float]:
            tree, start = trees.get(), time.monotonic()
            try:
                return act(tree, *given), time.monotonic() - start
            finally:
                trees.put(tree)

        asked = sorted({tests for *_, tests in chosen})
        for tests, (sound, _) in zip(asked, pool.map(lambda tests: on_a_tree(passes, tests), asked), strict=True):
            if not sound:
                raise SystemExit(f"{tests}: fails without a fault")
        print(f"without a fault {len(asked)} sets of tests pass, {time.monotonic() - began:.0f} s", flush=True)
        tried = pool.map(lambda mutant: on_a_tree(lives, *mutant), chosen)
        for i, (mutant, (found, took)) in enumerate(zip(chosen, tried, strict=True), 1):
            alive += found
            state = "ALIVE" if found else "caught"
            print(f"{i}/{len(chosen)} {state} {took:.0f} s  {mutant[0]}: {mutant[2]!r}", flush=True)
    print(f"{alive} of {len(chosen)} alive, {time.monotonic() - began:.0f} s")
    return int(bool(alive))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
