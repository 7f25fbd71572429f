"""Classes of late 2026 against sums over their tensors, the published table of classes, and refusals by reason.

Shapes of tensors are those of transformers 5.24.0's modeling files, written out here one by one.
"""

import math
import re

import pytest

from opbyte.workloads.batch import Batch
from opbyte.workloads.errors import InputError
from opbyte.workloads.hf import known_architectures, model_from_keys
from opbyte.workloads.layers import Run

from ..tables import tables
from .conftest import refused_configs

TABLES = tables(__file__)

DOTS = TABLES["dots"]
MISTRAL = TABLES["mistral"]
QWEN = TABLES["qwen"]
STEP = {
    "architectures": ["Step3VLForConditionalGeneration"], "text_config": {
        "model_type": "step3_text", "hidden_size": 7168, "intermediate_size": 18432, "num_attention_heads": 64,
        "num_attention_groups": 1, "num_hidden_layers": 61, "vocab_size": 128815, "moe_intermediate_size": 5120,
        "moe_num_experts": 48, "moe_top_k": 3, "share_expert_dim": 5120, "share_q_dim": 2048, "head_dim": 256,
        "moe_layers_enum": ",".join(map(str, range(4, 60))),
    },
}  # fmt: skip
TEXT_01 = {
    "architectures": ["MiniMaxText01ForCausalLM"], "hidden_size": 6144, "num_attention_heads": 64, "head_dim": 128,
    "num_key_value_heads": 8, "num_hidden_layers": 80, "intermediate_size": 9216, "num_local_experts": 32,
    "num_experts_per_tok": 2, "vocab_size": 200064, "attn_type_list": [0, 0, 0, 0, 0, 0, 0, 1] * 10,
    "shared_intermediate_size": 0,
}  # fmt: skip


def spec(keys, **changes):
    if "text_config" in keys and changes:
        keys = {**keys, "text_config": {**keys["text_config"], **changes}}
    return model_from_keys({**keys, **({} if "text_config" in keys else changes)}, name="m", where="m")


def total(*shapes):
    return sum(math.prod(shape) for shape in shapes)


def dots_tensors():
    h = 5120

    def attention(heads, q, kv, nope, rope, v):
        return total(
            (h, q), (q,), (q, heads * (nope + rope)), (h, kv + rope), (kv,), (kv, heads * (nope + v)),
            (heads * v, h), (rope,), (h, heads),
        )  # fmt: skip

    indexer = total((1024, 64 * 128), (h, 128), (128,), (128,), (h, 64))
    full = [i for i in range(46) if i < 2 or i % 4 == 1]
    count = len(full) * (attention(128, 1024, 512, 128, 64, 128) + indexer)
    count += (46 - len(full)) * attention(64, 1024, 1024, 192, 64, 128)
    experts = total((256, 2 * 1536, h), (256, h, 1536), (256, h), (256,), (3, h, 1536))
    return count + 45 * experts + 3 * h * 13824 + 46 * 2 * h + h + 2 * 152064 * h


def mistral_tensors():
    h, count = 6144, 0
    for i in range(72):
        rope, nope = (64, 64) if (i + 1) % 4 else (0, 128)
        count += total((h, 64 * 128), (h, 512 + rope), (512,), (512, 64 * (nope + 128)), (64 * 128, h))
        count += total((h, 32 * 128), (h, 128), (128,), (128,), (h, 32), (h,), (h,)) + 2 * 64 + 2 * h
    experts = total((128, 2 * h, 6144), (128, h, 6144), (128, h), (3, h, 6144))
    return count + 71 * experts + 3 * h * 24576 + h + 2 * 204800 * h


def qwen_tensors():
    h, wide = 2048, 8192
    mixer = total((wide,), (wide, 320), (320, wide))
    delta = total((h, 8192), (8192, 4), (h, 4096), (h, 32), (h, 32), (32,), (32,), (128,), (4096, h))
    attention = total((h, 2 * 4096), (h, 512), (h, 512), (4096, h), (256,), (256,))
    attention += total((h, 9 * 128), (128,), (128,))
    block = total((512, 1024, h), (512, h, 512), (512, h), (3, h, 512), (h,))
    grams = total((16 * 20_000_000, 128), (h, wide), (h, h), (wide, 3), (wide, 4))
    layers = 30 * delta + 10 * attention + 40 * (block + 2 * (mixer + 4 * wide))
    return layers + mixer + grams + 2 * 248320 * h


@pytest.mark.parametrize(
    ("keys", "tensors"), [(DOTS, dots_tensors()), (MISTRAL, mistral_tensors()), (QWEN, qwen_tensors())]
)
def test_weights_are_the_sum_of_the_tensors(keys, tensors):
    assert spec(keys).total_params == tensors


@pytest.mark.parametrize(
    ("keys", "billions", "active"),
    [  # published: Step-3 316 and 38 (arXiv 2507.19427, table 1), Text-01 456 and 45.9 without its tables (2501.08313)
        (STEP, 316, 38), (TEXT_01, 456, 45.9 + 2 * 0.2 * 6.144),
        (MISTRAL, 1050, 52),  # "1T-A52B" in its checkpoint's name
    ],
)  # fmt: skip
def test_weights_as_published(keys, billions, active):
    model = spec(keys)
    assert model.total_params / 1e9 == pytest.approx(billions, rel=0.01)
    assert model.active_params / 1e9 == pytest.approx(active, rel=0.03)


def test_shared_latents_and_windows_keep_less():
    """A layer that reads another's latent keeps its index key alone; windows keep 512 latents of 1,024 + 64 values."""
    own, shared = spec(MISTRAL), spec(MISTRAL, kv_source_layers=[i - i % 2 for i in range(72)])
    gone = 18 * (512 + 128 + 16) + 18 * (512 + 16)  # every second of a row with rope, and without
    assert own.kv_bytes_per_token - shared.kv_bytes_per_token == gone
    assert own.total_params - shared.total_params == 36 * 512 + 6144 * (18 * 576 + 18 * 512)
    dots = spec(DOTS)
    assert dots.kv_classes()[512] == 33 * 1088
    assert dots.cache_bytes(100_000) < dots.cache_bytes(100_001) - 13 * (656 + 131)


def test_a_window_bounds_what_latent_attention_reads():
    """Beyond its window a decode of dots3-note's narrow layers reads no more."""
    narrow = next(la.mixer for la in spec(DOTS).layers if la.mixer.kind == "mla")
    run = Run(spec(DOTS).numerics)

    def read(keys):
        m = Batch.of([keys]).moments((0, 512))
        return sum(op.kv_read_bytes for op in narrow.ops(m, run, None))

    assert read(600) == read(60_000) > read(300) > 0


# Names that the table cuts short.
SHORT = {
    "V41": "DeepseekV41", "-Puzzle": "NemotronHPuzzle", "V2_5": "BailingMoeV2_5", "S2": "InternS2",
    "VL2": "DeepseekVLV2", "3Omni": "Qwen3Omni", "MiniCPM-V": "MiniCPMV", "O": "MiniCPMO", "4_5": "Exaone4_5",
    "MoE": "HunYuanMoE", "Granite*SWA": "GraniteSWA", "Glimmer": "MuseGlimmer", "M1": "MiniMaxM1",
}  # fmt: skip


def test_classes_of_weight_a_and_b_are_read(data_set):
    """The table of classes by weight: A and B without the named few; those of C that existing parts suffice for."""
    text = (data_set("facts") / "models_2026.md").read_text()
    rows = [line.split("|")[1:-1] for line in text.split("## 3.")[1].split("## 4.")[0].splitlines()
            if line.startswith("|")][2:]  # fmt: skip
    known = [name.lower() for name in known_architectures()]
    lacking, seen = {"A": set(), "C": set()}, {"A": 0, "C": 0}
    for classes, weight, _ in rows:
        group = "A" if set(weight) & set("AB") else "C"
        for part in re.split(r"[,;/]", re.sub(r"\(.*?\)", "", classes)):
            name = SHORT.get(part.strip(), part.strip().rstrip("*"))
            seen[group] += 1
            if not any(one.startswith(name.lower()) for one in known):
                lacking[group].add(name)
    assert lacking["A"] == {"DeepseekV41", "Molmo2"}, f"of {seen['A']}"
    assert len(lacking["C"]) < 0.45 * seen["C"], lacking["C"]


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("Zamba2ForCausalLM", "several layers share the weights of one block"),
        ("DeepseekV41ForCausalLM", "how its indexers share candidate blocks"),
        ("MllamaForConditionalGeneration", "attend to images beside the text"),
        ("IQuestLoopCoderForCausalLM", "run several times a token"),
    ],
)
def test_what_cannot_be_costed_says_why(architecture, reason):
    with pytest.raises(InputError) as error:
        model_from_keys({**TEXT_01, "architectures": [architecture]}, name="m", where="m")
    assert f"architectures: {architecture} cannot be costed: " in str(error.value)
    assert reason in str(error.value)


@pytest.mark.parametrize(("keys", "changes", "message"), refused_configs("newest"))
def test_impossible_combinations_name_their_key(keys, changes, message):
    with pytest.raises(InputError) as error:
        spec(globals()[keys], **changes)
    assert message in str(error.value)
