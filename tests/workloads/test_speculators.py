"""Are draft heads counted from their config.json, and is bad speculation refused in one line?

Expected values: DeepSeek-V3's README_WEIGHTS gives 11.5 billion weights of its own for the one head,
without the embedding and output head that it shares; the others by hand from their config.json.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError
from opbyte.workloads.layers import Run
from opbyte.workloads.model import layer_ops
from opbyte.workloads.requests import open_requests
from opbyte.workloads.speculators import SPECULATORS, Drafter, check_rates, read_asked, read_rates

from ..tables import tables

HEADS = {
    # attention, experts with the shared one, router and its bias, join with its norms, layer norms
    # and those of latents, norm before the head
    "deepseek-v3": (
        7168 * 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 * 128 * 256 + 128 * 128 * 7168
        + 257 * 3 * 7168 * 2048 + 256 * 7168 + 256
        + 2 * 7168**2 + 2 * 7168 + 2 * 7168 + 1536 + 512 + 7168
    ),
    "glm-4.5": (
        5120 * (96 + 2 * 8) * 128 + 96 * 128 * 5120 + (96 + 2 * 8) * 128 + 2 * 128
        + 161 * 3 * 5120 * 1536 + 160 * 5120 + 160
        + 2 * 5120**2 + 2 * 5120 + 2 * 5120 + 5120
    ),
    "qwen3-next-80b-a3b": (
        2048 * (2 * 16 + 2 * 2) * 256 + 16 * 256 * 2048 + 2 * 256
        + 513 * 3 * 2048 * 512 + 512 * 2048 + 2048
        + 2 * 2048**2 + 2 * 2048 + 2 * 2048 + 2048
    ),
}  # fmt: skip


FAMILIES = tables(__file__)["families"]
"""Heads of the catalog's other families, by their checkpoints."""


def drafter(model: str, method: str, argument: str = "") -> Drafter:
    return SPECULATORS[method](load_model(model), argument)


@pytest.mark.parametrize("model", HEADS)
def test_heads_are_counted(model: str) -> None:
    found = drafter(model, "mtp")
    assert found.model is not None
    assert found.copies == 1
    assert found.model.total_params == HEADS[model]
    target = load_model(model)
    last = target.layers[-1]
    assert found.model.layers[-1] == last
    assert found.model.kv_bytes_per_token * 1.0 == pytest.approx(
        last.mixer.state().keeps[0].token_bytes(target.numerics)
    )


def test_published_size_of_a_head() -> None:
    """README_WEIGHTS of deepseek-ai/DeepSeek-V3: 11.5B unique parameters of the module."""
    found = drafter("deepseek-v3", "mtp").model
    assert found is not None
    assert found.total_params / 1e9 == pytest.approx(11.5, rel=0.01)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("deepseek-v3", "DeepSeek-V3"), ("glm-4.5", "GLM-4.5"), ("qwen3-next-80b-a3b", "Qwen3-Next-80B-A3B")],
)
def test_published_files_have_the_catalogs_heads(data: Path, name: str, folder: str) -> None:
    published = load_model(data / "model_configs" / folder)
    ours = load_model(name)
    assert (published.mtp, published.mtp_heads) == (ours.mtp, ours.mtp_heads) != ((), 0)


def test_an_eagle_head_is_a_layer_and_a_join() -> None:
    """Llama-3-8B: its layer of 218,112,000 weights, 2 h x h, and a norm; embedding and head are shared."""
    found = drafter("llama-3-8b", "eagle").model
    assert found is not None
    layer = 4096 * (32 + 2 * 8) * 128 + 4096 * 4096 + 3 * 4096 * 14336 + 2 * 4096
    assert layer == 218_112_000
    assert found.total_params == layer + 2 * 4096**2


def test_a_join_reads_two_rows() -> None:
    """7168 x 14336 products a token: 2 x 7168 x 14336 FLOP."""
    found = drafter("deepseek-v3", "mtp").model
    assert found is not None
    m = Batch.of([100], new=1).moments((0,))
    ((norm, join),) = layer_ops(found.layers[0], m, Run(found.numerics), None)
    assert join.flops == 2 * 7168 * 14336
    assert norm.name == "fusion_norm"


@pytest.mark.parametrize(("model", "method", "argument", "says"), tables(__file__)["what cannot draft is refused"])
def test_what_cannot_draft_is_refused(model: str, method: str, argument: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        drafter(model, method, argument)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["mtp", "mtp:", "mtp:x", "mtp:-1", "mtp:1.5", "mtp:65", ":2", "medusa:2",
                                  "draft:4:", "mtp:\u0662"])  # fmt: skip
def test_bad_choices_are_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        read_asked(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "0.5,", "1.01", "-0.1", "nan", "inf", "a", "0.5;0.4"])
def test_bad_chances_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="numbers from 0 to 1"):
        read_rates(text)


def test_chances_are_one_a_draft() -> None:
    check_rates(read_asked("mtp:2"), (0.5, 0.5))
    with pytest.raises(InputError, match="has 2 values for the 3 drafts of mtp:3"):
        check_rates(read_asked("mtp:3"), (0.5, 0.5))


def test_traces_tell_the_chances_of_requests(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    path.write_text("arrival_s,input_tokens,output_tokens,acceptance\n0,5,5,0.75\n1,5,5,\n2,5,5,1\n")
    own = open_requests(str(path)).read().acceptance
    assert own is not None
    assert own[[0, 2]].tolist() == [0.75, 1.0]
    assert own[1] != own[1]
    path.write_text("arrival_s,input_tokens,output_tokens,acceptance\n0,5,5,0.75\n1,5,5,1.5\n")
    with pytest.raises(InputError, match=r"requests\.csv:3: acceptance '1\.5' must be a probability"):
        open_requests(str(path)).read()


@pytest.mark.parametrize("model", FAMILIES)
def test_every_family_with_heads_drafts_with_them(model: str) -> None:
    """The head is a layer of the model behind a join, small beside the model, and shares its vocabulary."""
    found, target = drafter(model, "mtp"), load_model(model)
    assert found.model is not None
    assert found.copies == FAMILIES[model]
    assert found.model.hidden == target.hidden
    assert 0 < found.model.total_params < 0.1 * target.total_params
    assert type(found.model.layers[-1].mixer) in {type(layer.mixer) for layer in target.layers}
