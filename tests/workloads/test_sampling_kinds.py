"""Does `--sampling` mean what requests say, and do penalties cost what was measured?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte import simulate
from opbyte.workloads.errors import InputError, SpecError
from opbyte.workloads.sampling import (
    EXTRAS,
    PENALTY_BYTES,
    SAMPLING,
    asked_sampling,
    parse_sampling,
    sample_bytes,
    sampling_named,
    sort_bytes,
)

LOAD = {"closed_loop": 32, "requests": 64, "input_len": 64, "output_len": 16, "policy": "vllm"}


@given(kind=st.sampled_from(SAMPLING), extras=st.lists(st.sampled_from(sorted(EXTRAS)), unique=True, max_size=3))
def test_more_asked_never_costs_less(kind: str, extras: list[str]) -> None:
    name = "+".join((kind, *extras))
    assert parse_sampling(name) == name
    assert sample_bytes(name) >= sample_bytes(kind)
    assert sort_bytes(name) == sort_bytes(kind)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("zzz", "must be one of none, greedy"),
        ("nucleus+zzz", "must be one of none, greedy"),
        ("topp=0.9", "unknown key 'topp'; did you mean 'top_p'?"),
        ("top_p=2", r"top_p must be in \[0, 1\], not '2'"),
        ("top_p=x", r"top_p must be in \[0, 1\], not 'x'"),
    ],
)
def test_unknown_sampling_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        sampling_named(text, "m")


def test_a_checkpoint_says_its_own(tmp_path: Path) -> None:
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"do_sample": True, "top_k": 20, "eos_token_id": [1, 2]}))
    assert sampling_named(str(path), "m") == "nucleus"
    path.write_text(json.dumps({"do_sample": False, "repetition_penalty": 1.05}))
    assert sampling_named(str(path), "m") == "greedy+penalties"
    assert sampling_named("checkpoint", "qwen3-8b") == "nucleus"
    path.write_text(json.dumps({"top_k": "many"}))
    with pytest.raises(SpecError, match="top_k: must be a number"):
        sampling_named(str(path), "m")


def test_penalties_are_traffic_of_every_logit() -> None:
    """By hand: 800 bytes a logit more at 3.352 TB/s, in a run as in one step."""
    asked = asked_sampling({"temperature": 0.8, "repetition_penalty": 1.1})
    plain, slow = (
        simulate("llama-3.2-1b", "h100-x1", sampling=name, framework="vllm", **LOAD) for name in ("random", asked)
    )
    assert plain.run.tbt_s.p50 is not None
    assert slow.run.tbt_s.p50 is not None
    added = slow.run.tbt_s.p50 - plain.run.tbt_s.p50
    assert added == pytest.approx(PENALTY_BYTES * 128_256 * 32 / 3.352e12, rel=0.1)
    assert (slow.run.watts_per_device or 0.0) < (plain.run.watts_per_device or 0.0)  # they wait most of that time
