"""Image towers: weights as counted by tensors, tokens from pixels, and the tower's time where it runs.

Counts: transformers 5.24.0 on its meta device (default configurations, and the README of the model_configs_2026 data).
Tokens: pixels / (patch x merge)^2 with sides rounded to whole tokens (Qwen's smart_resize).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from opbyte import plan, simulate
from opbyte.analysis.answers.roofline import roofline
from opbyte.analysis.studies.capacity import capacity
from opbyte.analysis.studies.sweep import sweep
from opbyte.analysis.studies.sweep.run import TABLE
from opbyte.devices.catalog import load_system
from opbyte.simulator.parts.encoders.run import encoder_of
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError
from opbyte.workloads.hf import model_from_keys, read_config
from opbyte.workloads.model import ModelSpec, with_tower
from opbyte.workloads.tower import read_size

TEXT = {
    "model_type": "qwen3", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1000,
}  # fmt: skip
VISION = {
    "model_type": "qwen3_vl", "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
    "in_channels": 3, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 3584,
    "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24],
}  # fmt: skip
SIZE = "640x480"
SYSTEM = "duplex-gpu-x1"
COMMON: dict[str, Any] = {"requests": 30, "rate": 20.0, "input_len": 64, "output_len": 4, "seed": 3}


def model(vision: dict[str, Any] | None = None, **file: Any) -> ModelSpec:
    keys = {"architectures": ["Qwen3VLForConditionalGeneration"], "text_config": TEXT, **file}
    return model_from_keys({**keys, "vision_config": vision or VISION}, name="m", where="m")


COUNTED = {
    # `vision_config` and other keys of the file -> weights, and tokens of an image of 1920 x 1080
    "qwen3": (VISION, {}, 566_949_104, 2040),
    "qwen2.5": (
        {"model_type": "qwen2_5_vl", "depth": 32, "hidden_size": 3584, "intermediate_size": 3420, "num_heads": 16,
         "in_channels": 3, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
         "out_hidden_size": 3584, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]},
        {}, 3_083_025_152, 2691,
    ),
    "pixtral": (
        {"model_type": "pixtral", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
         "num_attention_heads": 16, "num_channels": 3, "image_size": 1540, "patch_size": 14, "head_dim": 64},
        {"spatial_merge_size": 2, "text_config": {**TEXT, "hidden_size": 5120}}, 438_958_080, 1705,
    ),
    "clip": (
        {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
         "num_attention_heads": 16, "num_channels": 3, "image_size": 336, "patch_size": 14},
        {"text_config": {**TEXT, "hidden_size": 4096}}, 324_487_168, 576,
    ),
    "internvl": (
        {"model_type": "internvl_vision", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
         "num_attention_heads": 16, "image_size": [448, 448], "patch_size": [14, 14], "num_channels": 3},
        {"downsample_ratio": 0.5, "text_config": {**TEXT, "hidden_size": 4096}}, 337_509_376, 9 * 256,
    ),
}  # fmt: skip
SHIPPED = {
    "minimax-m3": (865_567_232, 2691), "kimi-k3": (447_358_976, 2691), "step-3.7-flash": (1_981_014_784, 169),
    "gemma-3-4b": (419_816_304, 256), "llama-4-scout": (871_932_416, 2304), "ministral-3-14b": (438_958_080, 1705),
}  # fmt: skip
"""Catalog entries: weights of the tower, and tokens of an image of 1920 x 1080. M3: the whole checkpoint less its language model (427,040,140,160 -
426,174,572,928). Step: reference of the model_configs_2026 data. K3: summed over the tensors of SGLang's tower. Gemma: 4,300,079,472 of the checkpoint less
3,880,263,168. Llama 4: summed over the checkpoint's tensors. Ministral: as "pixtral"."""


@pytest.mark.parametrize("name", COUNTED)
def test_weights_and_tokens(name: str) -> None:
    vision, file, weights, tokens = COUNTED[name]
    tower = model(vision, **file).tower
    assert tower is not None
    assert (tower.params, tower.tokens((1920, 1080))) == (weights, tokens)


@pytest.mark.parametrize("name", SHIPPED)
def test_towers_of_the_catalog(name: str) -> None:
    tower = load_model(name).tower
    assert tower is not None
    assert (tower.params, tower.tokens((1920, 1080))) == SHIPPED[name]


@pytest.mark.parametrize(
    ("name", "billions", "tokens"),
    [("Qwen3-VL-8B-Instruct", 0.5764, 2040), ("Qwen3.5-35B-A3B", 0.4466, 2040), ("gemma-4-26B-A4B", 0.5728, 280),
     ("gemma-4-E4B-it", 0.1693, 280)],
)  # fmt: skip
def test_towers_of_real_files(name: str, billions: float, tokens: int, data_set: Any) -> None:
    tower = read_config(data_set("model_configs_2026") / name).tower
    assert tower is not None
    assert tower.params / 1e9 == pytest.approx(billions, rel=1e-3)
    assert tower.tokens((1920, 1080)) == tokens


def test_the_tower_is_no_part_of_the_text_models_counts_but_of_a_devices_memory() -> None:
    spec, plain = (model(), model_from_keys({**TEXT, "architectures": ["Qwen3ForCausalLM"]}, name="m", where="m"))
    assert spec.total_params == plain.total_params
    assert spec.tower is not None
    assert with_tower(spec, None).total_params == plain.total_params + spec.tower.params
    busy = with_tower(spec, (640, 480), 0.5)
    assert busy.total_params == plain.total_params + spec.tower.params
    assert busy.kv_bytes_per_token == plain.kv_bytes_per_token


def test_a_step_does_the_work_of_its_images() -> None:
    """Matrix FLOPs of 2 images: 2 x weights x rows, and 4 x width x patches^2 a block."""
    spec = model()
    assert spec.tower is not None
    part, patches, tokens = spec.tower.part, 30 * 40, 15 * 20
    ops = roofline(spec, SYSTEM, batch=0, prefill=40, images=2, image_size=SIZE).to_dict()["ops"]
    own = [op for op in ops if op["layer"] == "vision"]
    dense = part.depth * part.block + part.width * part.inputs
    merged = sum(n * k for n, k in part.per_token)
    wanted = 2 * (2.0 * dense * patches + 2.0 * merged * tokens + 4.0 * part.width * part.depth * patches**2)
    vector = ("vision_norm", "vision_activation")
    assert sum(op["flops"] * op["count"] for op in own if op["name"] not in vector) == pytest.approx(wanted)


def test_prompts_grow_and_wait_for_their_images() -> None:
    """On the same devices, apart, and with a cache: prompts are as long, only the tower's time differs."""
    spec = model()
    ask = {**COMMON, "images": 1, "image_size": SIZE}
    plain = simulate(spec, SYSTEM, **{**COMMON, "input_len": 64 + 300})
    same, apart = (simulate(spec, SYSTEM, **ask), simulate(spec, SYSTEM, **ask, encoder_system=SYSTEM))
    cached = simulate(spec, SYSTEM, **ask, encoder_cache_hits=1.0)
    runs = (plain, same, apart, cached)
    assert {int(run.run.requests.input_tokens.sum()) for run in runs} == {30 * 364}
    first = [float(np.mean(run.run.requests.first_token_s - run.run.requests.arrival_s)) for run in runs]
    assert first[0] < first[1]
    assert first[0] < first[2]
    assert first[3] == pytest.approx(first[0], rel=0.05)
    assert apart.to_dict()["encoder"]["images"] == 30


def test_an_image_alone_takes_the_towers_step() -> None:
    spec = model()
    encoder = encoder_of(spec, None, load_system(SYSTEM), (640, 480))
    assert encoder.tokens == 300
    assert encoder.seconds(2) > 1.5 * encoder.seconds(1) > 0


@pytest.mark.parametrize("hits", [None, 1.0])
def test_a_traces_column_says_how_many(hits: float | None, tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens,images\n0,64,2,0\n1,64,2,1\n2,64,2,3\n")
    run = simulate(model(), SYSTEM, trace=trace, image_size=SIZE, encoder_cache_hits=hits).run
    assert run.requests.input_tokens.tolist() == [64, 364, 964]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 1}, "images: needs image_size too, such as 1920x1080"),
        ({"images": 1, "image_size": "big"}, "image_size 'big': must be width x height in pixels"),
        ({"images": 1, "image_size": "0x5"}, "image_size '0x5': must be width x height"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        simulate(model(), SYSTEM, **COMMON, **options)
    assert message in str(error.value)


def test_models_without_a_tower_say_so() -> None:
    with pytest.raises(InputError, match="has no image tower"):
        simulate("llama-2-7b", "a100-80gb-x1", **COMMON, images=1)


def test_a_tower_for_sound_is_refused_by_part() -> None:
    spec = model(audio_config={"model_type": "whisper", "d_model": 1280})
    assert spec.tower is not None
    (note,) = spec.notes
    assert "audio_config: audio encoders are not simulated; text and images are" in note


def test_sizes_are_read() -> None:
    assert read_size("1920x1080") == (1920, 1080)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The text model alone, and with its tower, as files that every command takes."""
    folder = tmp_path_factory.mktemp("towers")
    text = {"architectures": ["Qwen3ForCausalLM"], **TEXT}
    whole = {"architectures": ["Qwen3VLForConditionalGeneration"], "text_config": TEXT, "vision_config": VISION}
    for name, keys in (("text", text), ("whole", whole)):
        (folder / f"{name}.json").write_text(json.dumps(keys))
    return {name: str(folder / f"{name}.json") for name in ("text", "whole")}


def test_sweeps_hold_towers_in_memory_and_run_them(files: dict[str, str], tmp_path: Path) -> None:
    """A tower takes memory from the cache, images take time, larger ones more; all three show in the table."""
    base = {"system": SYSTEM, **COMMON}
    for name, given, axes in (
        ("plain", {}, {"model": [files["text"], files["whole"]]}),
        ("images", {"model": files["whole"], "images": 1}, {"image_size": [SIZE, "1280x960"]}),
    ):
        study = tmp_path / f"{name}.yaml"
        study.write_text(json.dumps({"base": {**base, **given}, "axes": axes}))
        assert sweep(study, tmp_path / name, workers=1).failed == 0
    table = pd.concat([pd.read_csv(tmp_path / name / TABLE) for name in ("plain", "images")])
    first, cache = table.ttft_s_mean.tolist(), table.kv_peak_fraction.tolist()
    assert first[0] == first[1] < first[2] < first[3]
    assert cache[0] < cache[1] < cache[2] < cache[3]
    assert table.prompt_tokens.tolist() == [30 * 64, 30 * 64, 30 * 364, 30 * (64 + 30 * 40)]


def test_capacity_and_plan_count_images(files: dict[str, str]) -> None:
    """Fewer requests a second within the same level; a plan's first tokens come later."""
    ask = {"input_len": 64, "output_len": 4, "requests": 40}
    shown = {"images": 1, "image_size": "1280x960"}
    loads = [
        capacity(files["whole"], SYSTEM, "ttft_p99=0.2", tolerance=0.1, workers=1, **ask, **more).found[0].load_per_s
        for more in ({}, shown)
    ]
    assert loads[1] < 0.5 * loads[0]
    points = [
        plan(files["whole"], SYSTEM, "ttft_p99=0.5", load=2.0, most_devices=1, token_budget="2048", workers=1,
             **ask, **more).searched[0].chosen
        for more in ({}, shown)
    ]  # fmt: skip
    assert points[0].figures["ttft_p99"] < points[1].figures["ttft_p99"]
