"""Does the batch that fits follow the kind: spans, shared keys, slices, states, room for prompts?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte import simulate
from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.engine.kv import CacheSettings, check_fits, kv_rules, sequence_bytes, sequences_that_fit
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import CapacityError
from opbyte.workloads.layers import HeadExperts, SlicedAttention
from opbyte.workloads.model import ModelSpec


def held(spec: ModelSpec, tokens: int, room: int = 0) -> float:
    """Bytes of a sequence on one device."""
    rules = kv_rules(deploy(spec, load_system("h100-x1")), CacheSettings(prompt_room=room))
    return float(sequence_bytes(rules, np.array([tokens]))[0])


def test_shared_keys_take_a_quarter_and_routed_heads_nothing_less() -> None:
    own, shared = (held(load_model(f"bam-small{end}"), 1024) for end in ("", "-shared-kv"))
    assert own == 4 * shared == 4 * held(load_model("btx-small"), 1024)
    moh = load_model("moh-llama-3-8b")
    assert isinstance(moh.layers[0].mixer, HeadExperts)
    assert held(moh, 1024) == held(load_model("llama-3-8b"), 1024)


def test_slices_keep_their_share_and_states_do_not_grow() -> None:
    half = load_model("union-of-experts-small")

    def all_slices(layer):  # type: ignore[no-untyped-def]  # a callback of two lines
        assert isinstance(layer.mixer, SlicedAttention)
        return replace(layer, mixer=layer.mixer.base)

    assert held(half, 1024) == held(half.map_layers(all_slices), 1024) / 2
    mom = load_model("mom-340m")
    assert held(mom, 16) == held(mom, 16_000) == 60 * 2**20


@given(st.integers(64, 16_384), st.integers(1, 16_384))
def test_spans_keep_no_more_than_all_keys_and_no_less_than_shorter_sequences(longest: int, tokens: int) -> None:
    tokens = min(tokens, longest)
    spans = load_model("vicuna-13b-moa").within(longest)
    kept = spans.cache_bytes(tokens)
    assert spans.cache_bytes(tokens - 1) <= kept <= tokens * spans.kv_bytes_per_token
    window = spans.windows[-1]
    assert kept == min(tokens, window or tokens) * spans.kv_bytes_per_token


@pytest.mark.parametrize("room", [0, 100, 4096])
def test_room_for_a_prompt_is_its_activations(room: int) -> None:
    """Gate, up projection and product of 11,008 columns in 16 bit, for every token."""
    model = load_model("llama-2-7b")
    assert held(model, 512, room) == held(model, 512) + room * 3 * 11_008 * 2
    rules = kv_rules(deploy(model, load_system("h100-x1")), CacheSettings(prompt_room=room))
    fits = sequences_that_fit(rules, 512)
    assert fits * held(model, 512, room) <= rules.capacity < (fits + 1) * held(model, 512, room)


@pytest.mark.parametrize(("inputs", "outputs"), [(17, 16), (1, 512), (512, 1), (3000, 41)])
def test_a_request_fits_where_all_but_its_last_token_do(inputs: int, outputs: int) -> None:
    """Nothing is computed from the last token."""
    rules = kv_rules(deploy(load_model("llama-2-7b"), load_system("h100-x1")), CacheSettings(1))
    need = (inputs + outputs - 1) * 2 * 32 * 4096 * 2
    asked = (np.array([inputs]), np.array([outputs]), np.array([7]), "model")
    check_fits(rules._replace(capacity=float(need)), *asked)
    with pytest.raises(
        CapacityError, match=rf"request 7 \({inputs} tokens in, {outputs} out\) needs {need / 2**30:.2f} GiB"
    ):
        check_fits(rules._replace(capacity=need - 1.0), *asked)


def test_a_run_holds_fewer_sequences_with_room_for_prompts() -> None:
    given_ = {"closed_loop": 60, "requests": 60, "input_len": 1000, "output_len": 8,
              "lengths": "fixed", "costs": "roofline"}  # fmt: skip
    plain, roomy = (
        simulate("llama-2-7b", "a100-40gb-x1", **given_, **more)  # type: ignore[arg-type]
        for more in ({}, {"prompt_room": 4000})
    )
    assert roomy.to_dict()["iterations"] > plain.to_dict()["iterations"]
