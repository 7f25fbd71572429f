"""Do parts from outside with compiled hooks, one file each, do what they say, and is a wrong field one clear line?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
NAMES = ("far_memory", "server_pauses", "shortest_next")
ASK = """
import json, sys
import far_memory, server_pauses, shortest_next
from opbyte import simulate

def ask(**options):
    result = simulate("llama-3-8b", "h100-x1", policy="vllm", **options)
    run = result.run
    table = run.requests
    return {"values": result.to_dict(), "ttft_s": run.ttft_s.mean, "first": table.first_token_s.tolist(),
            "last_s": float(table.last_token_s.max())}

def wrong(**options):
    try:
        return str(ask(**options))
    except Exception as error:
        return f"{type(error).__name__}: {error}"

one = dict(rate=1.0, requests=1, input_len=100, output_len=64)
trace = dict(trace=sys.argv[1], max_seqs=1)
texts = dict(rate=3.0, requests=300, input_len=3000, output_len=100, turns=4, think=60.0)
print(json.dumps({
    "pauses": [ask(**one), ask(**one, pause_every=10, pause_s=0.25)],
    "order": [ask(**trace), ask(**trace, shortest_within=1e5), ask(**trace, shortest_within=0.0)],
    "far": [ask(**texts), ask(**texts, far_blocks=1 << 18), ask(**texts, far_blocks=1 << 18, far_rate=0.5)],
    "together": ask(**trace, shortest_within=1e5, pause_every=10, pause_s=0.25, far_blocks=64),
    "refused": wrong(**one, pause_s=0.25),
}))
"""
WRONG = {
    ("state.counters[0].steps\n    if", "state.counters[0].emited\n    if"):
        "hook 'begins': cannot be compiled: no record has a field `emited`; did you mean 'emitted'?",
    ("row.count += 1", "row.cont += 1"): "no record has a field `cont`; did you mean 'count'?",
    ("pauses.length_s\n    return", "pauses.length\n    return"): "Pauses has every, length_s, pauses",
}  # fmt: skip


def run(code: str, folder: Path, *words: str) -> str:
    """Output of a script beside the examples: what they register stays in its process."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}", *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    trace = tmp_path_factory.mktemp("trace") / "trace.csv"
    sizes = (400, 900, 300, 600)
    trace.write_text(
        "arrival_s,input_tokens,output_tokens\n" + "".join(f"0.0{i},{n},40\n" for i, n in enumerate(sizes))
    )
    return json.loads(run(ASK, EXAMPLES, str(trace)))


@pytest.mark.parametrize("name", NAMES)
def test_a_part_is_one_short_file(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 120


def test_pauses_lengthen_a_run_by_what_they_count(found: dict) -> None:
    without, paused = found["pauses"]
    assert paused["values"]["pauses"] == {"count": 6, "seconds": 1.5}
    assert paused["last_s"] == pytest.approx(without["last_s"] + 1.5, rel=1e-12)
    assert "--pause-every" in found["refused"] or "pause_every" in found["refused"]


def test_the_shortest_prompt_is_next_unless_one_is_overdue(found: dict) -> None:
    order = [sorted(range(4), key=answer["first"].__getitem__) for answer in found["order"]]
    assert order == [[0, 1, 2, 3], [0, 2, 3, 1], [0, 1, 2, 3]]
    assert found["order"][1]["values"]["shortest"]["moved"] == 2


def test_a_far_memory_spares_prompts_their_computation(found: dict) -> None:
    without, fast, slow = found["far"]
    assert fast["values"]["far_memory"]["loaded"] > 1000
    assert fast["ttft_s"] < without["ttft_s"]
    assert slow["values"]["far_memory"]["link_s"] > fast["values"]["far_memory"]["link_s"]
    assert slow["ttft_s"] > fast["ttft_s"]


def test_parts_from_outside_run_together(found: dict) -> None:
    answer = found["together"]
    assert sorted(range(4), key=answer["first"].__getitem__) == [0, 2, 3, 1]
    assert answer["last_s"] == pytest.approx(
        found["order"][1]["last_s"] + answer["values"]["pauses"]["seconds"], rel=1e-9
    )


@pytest.mark.parametrize("change", WRONG, ids=lambda change: change[1].split("\n")[0])
def test_a_wrong_field_is_one_line_that_names_those_that_there_are(change: tuple[str, str], tmp_path: Path) -> None:
    old, new = change
    text = (EXAMPLES / "server_pauses.py").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "pausing.py").write_text(text.replace(old, new))
    code = (
        "import pausing\nfrom opbyte import InputError, simulate\ntry:\n"
        "    simulate('llama-3-8b', 'h100-x1', rate=1.0, requests=1, input_len=9, output_len=9, pause_every=5)\n"
        "except InputError as error:\n    print(error)"
    )
    line = run(code, tmp_path).strip()
    assert WRONG[change] in line
    assert "\n" not in line
