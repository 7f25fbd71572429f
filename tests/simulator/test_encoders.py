"""Do images wait for their encoder as a queue of so many servers says, and lengthen prompts?

Closed forms: a lone request waits the encoding of its images; with one server and requests far apart
nobody waits longer; the queue is Lindley's recursion.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte import simulate
from opbyte.analysis.answers.simulate import Simulation
from opbyte.devices.catalog import load_system
from opbyte.simulator.parts.encoders.run import Encoder, EncoderQueue, encoder_of, so_far
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError
from opbyte.workloads.requests import RequestBlock

MODEL, SYSTEM, CLIP = "llama-2-7b", "a100-80gb-x1", "clip-vit-l14-336"
COMMON = {"requests": 40, "input_len": 32, "output_len": 6, "seed": 1}


def run(**options: object) -> Simulation:
    return simulate(MODEL, SYSTEM, **{**COMMON, **options})


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return encoder_of(CLIP, "a100-80gb-x2", load_system(SYSTEM))


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_clip_has_its_published_size_and_tokens(encoder: Encoder) -> None:
    """304 million weights, 24 x 24 patches of 14 x 14 pixels; two devices, an encoder each."""
    assert load_model(CLIP).total_params == pytest.approx(304e6, rel=0.01)
    assert (encoder.tokens, encoder.devices) == (576, 2)
    assert encoder.seconds(1) < encoder.seconds(4) < 4 * encoder.seconds(1)
    weights = load_model(CLIP).weight_bytes
    assert encoder.seconds(1) > weights / 2039e9  # no faster than its weights are read


@given(jobs=st.lists(st.tuples(st.floats(0, 0.02), st.integers(0, 3)), min_size=1, max_size=30))
@settings(max_examples=60)
def test_the_queue_is_that_of_its_servers(encoder: Encoder, jobs: list[tuple[float, int]]) -> None:
    env, began = simpy.Environment(), {}
    queue = EncoderQueue(
        lambda at, call: env.timeout(max(at - env.now, 0.0)).callbacks.append(lambda _: call()),
        encoder, lambda row, at: began.update({row: at}),
    )  # fmt: skip
    images = np.array([count for _, count in jobs])
    queue.read(RequestBlock(images, images * 0.0, images, images, images=images))
    arrival = np.cumsum([gap for gap, _ in jobs])
    for row, at in enumerate(arrival):
        env.timeout(at).callbacks.append(lambda _, row=row: queue.ask(row, env.now))
    env.run()
    free = [0.0, 0.0]
    for row, (at, count) in enumerate(zip(arrival, images.tolist(), strict=True)):
        if not count:
            assert began[row] == pytest.approx(at)
            continue
        free.sort()
        free[0] = max(free[0], at) + encoder.seconds(count)
        assert began[row] == pytest.approx(free[0])
    assert queue.counts.images == images.sum()
    busy = sum(encoder.seconds(n) for n in images.tolist() if n)
    assert queue.counts.busy_s == pytest.approx(busy)


def test_a_lone_request_waits_for_its_images_and_for_their_tokens() -> None:
    """At one request every 5 s: the time to the first token of 576 tokens more, and the encoding."""
    rows = "".join(f"{5 * i},32,4,{1}\n" for i in range(3))
    Path("images.csv").write_text(f"arrival_s,input_tokens,output_tokens,images\n{rows}")
    longer = "".join(f"{5 * i},{32 + 576},4\n" for i in range(3))
    Path("text.csv").write_text(f"arrival_s,input_tokens,output_tokens\n{longer}")
    seen = simulate(MODEL, SYSTEM, trace="images.csv", encoder=CLIP).run
    read = simulate(MODEL, SYSTEM, trace="text.csv").run
    one = encoder_of(CLIP, None, load_system(SYSTEM)).seconds(1)
    assert seen.ttft_s.mean - read.ttft_s.mean == pytest.approx(one, rel=1e-6)
    assert seen.prompt_tokens == read.prompt_tokens == 3 * 608
    assert seen.tpot_s.mean == pytest.approx(read.tpot_s.mean)


def test_images_of_a_trace_come_before_those_of_the_option_and_may_be_none() -> None:
    Path("t.csv").write_text("arrival_s,input_tokens,output_tokens,images\n0,32,4,0\n1,32,4,2\n")
    found = simulate(MODEL, SYSTEM, trace="t.csv", encoder=CLIP, images=7).run
    assert found.parts["encoder"].images == 2
    assert found.prompt_tokens == 64 + 2 * 576
    plain = simulate(MODEL, SYSTEM, trace="t.csv").run
    assert "encoder" not in plain.parts
    assert plain.prompt_tokens == 64


def test_closed_loops_adapters_and_replicas_pass_the_encoder() -> None:
    common = {"encoder": CLIP, "images": 1}
    loop = run(closed_loop=5, **common).run
    both = run(rate=9, adapters=6, adapters_resident=2, **common).run
    two = run(rate=9, replicas=2, router="least-loaded", **common).run
    for found in (loop, both, two):
        assert found.parts["encoder"].images == 40
        assert len(found.requests.request_id) == 40
    more = run(rate=400, encoder_system="a100-80gb-x4", **common).run
    less = run(rate=400, **common).run
    assert more.parts["encoder"].waited_s < less.parts["encoder"].waited_s


def test_one_more_device_is_of_the_system_s_own_kind() -> None:
    """A device that no catalog names, such as one with a power cap, has an encoder beside it."""
    system = load_system(SYSTEM)
    mine = system.model_copy(update={"device": system.device.model_copy(update={"name": "mine"})})
    assert encoder_of(CLIP, None, mine).seconds(1) == encoder_of(CLIP, SYSTEM, system).seconds(1)


def test_turns_of_a_session_bring_images_of_their_own() -> None:
    """A prompt holds those of the turns before too; only its own are encoded."""
    before: dict[int, int] = {}
    assert so_far(np.array([4, 7, 4]), np.array([1, 2, 3]), before).tolist() == [1, 2, 4]
    assert so_far(np.array([7, 4]), np.array([0, 1]), before).tolist() == [2, 5]
    found = run(rate=4, turns=3, think=0.1, requests=12, encoder=CLIP, images=1, policy="vllm").run
    assert found.parts["encoder"].images == len(found.requests.request_id) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 2}, "images: needs encoder MODEL"),
        ({"encoder": CLIP}, "encoder: needs images N, or a trace with a column images"),
        ({"encoder": "llama-3-8b", "images": 1}, "encoder: llama-3-8b takes tokens, not images"),
        ({"encoder_system": "h100-x1"}, "encoder_system: needs encoder MODEL"),
        ({"encoder": CLIP, "images": 0}, "images: must be a whole number from 1"),
    ],
)
def test_what_cannot_be_served_is_one_clear_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        run(rate=2, **options)
    assert message in str(caught.value)


def test_a_bad_count_of_images_names_file_and_row() -> None:
    Path("t.csv").write_text("arrival_s,input_tokens,output_tokens,images\n0,32,4,1\n1,32,4,-2\n")
    with pytest.raises(InputError, match=r"t\.csv:3: images '-2' must be a whole number from 0"):
        simulate(MODEL, SYSTEM, trace="t.csv", encoder=CLIP)
