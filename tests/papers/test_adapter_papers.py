"""Are the rows of MixLoRA, RMoE, MoDE, SCMoE, DeepSeekMoE, SMoRA, MoS and Uni-MoE those of closed forms?

Each closed form stands beside its check, from shapes alone; papers as in the modules that are tested.
"""

from __future__ import annotations

import pytest

from opbyte.analysis.papers import mixlora, mode, rmoe, scmoe
from opbyte.analysis.papers.deepseekmoe import training_flops
from opbyte.analysis.papers.moe_graphs_adapters import mos, plain, pooled, room, smora, tenant_bytes
from opbyte.analysis.papers.moe_graphs_unimoe import encoder, encoder_s, language_model, prompt_s
from opbyte.analysis.papers.scmoe import Shares


def test_mixloras_flops_are_two_blocks_against_four_thirds() -> None:
    """Attention 4 d^2, a block 3 d f; the head aside 0.733 of the plain design, adapters a little more."""
    d, f = 4096, 11008
    by_hand = (4 * d * d + 4 * d * f) / (4 * d * d + 6 * d * f)
    assert by_hand == pytest.approx(0.733, abs=0.0005)
    found = [mixlora.flops("llama-2-7b", design) for design in ("optimised", "plain")]
    assert by_hand < found[0] / found[1] < 1.01 * by_hand


def test_mixloras_memory_is_one_base_and_a_set_of_adapters_each() -> None:
    """8 experts x 16 x 3 (d + f), attention 16 x 8 d, router 8 d, in 32 bit."""
    d, f = 4096, 11008
    own = 32 * (8 * 16 * 3 * (d + f) + 16 * 8 * d + 8 * d)
    one, two = (mixlora.memory_gib("llama-2-7b", n) for n in (1, 2))
    assert two - one == pytest.approx(own * 4 / 2**30)
    assert one - (two - one) == pytest.approx(6_738_415_616 * 2 / 2**30)


def test_mixloras_saving_shrinks_by_what_both_designs_do() -> None:
    for model in ("llama-2-7b", "gemma-2b"):
        for training in (False, True):
            ours, base = (mixlora.forward_s(model, d, 8, training) for d in ("optimised", "plain"))
            alone = mixlora.forward_s(model, "lora", 8, training)
            assert alone < ours < base
            work = mixlora.flops(model, "optimised") / mixlora.flops(model, "plain")
            assert work < ours / base < 1


def test_rmoes_router_by_hand() -> None:
    """l p (h + E) + 6 p^2 against l h E."""
    for size, layers, hidden in (("small", 8, 352), ("large", 24, 1280)):
        assert rmoe.router_weights(size, False) == layers * hidden * 16
        by_hand = layers * 128 * (hidden + 16) + 6 * 128**2
        assert rmoe.router_weights(size, True) == by_hand
    large = rmoe.model("large", False)
    assert large.active_params == pytest.approx(0.53e9, rel=0.01)
    assert large.total_params == pytest.approx(0.91e9, rel=0.01)


def test_a_recurrent_router_costs_something_and_little() -> None:
    plain_step, ours = rmoe.step(False), rmoe.step(True)
    assert 1 < ours.seconds / plain_step.seconds < 1.1
    assert 1 < ours.memory.total / plain_step.memory.total < 1.1


def test_modes_pass_is_28_squares_of_its_width() -> None:
    """14 tokens x 12 layers x (4 + 24) d^2 with scores of 14 x 14 pairs; dense 52 d^2."""
    d, tokens = 1024, 14 * 12
    scores = 2 * 14 * tokens * d
    for block, squares in (("merged", 28), ("top2", 28), ("dense", 52)):
        assert mode.gmac(block) * 1e9 == pytest.approx(tokens * squares * d * d + scores)
    assert mode.projections_gmac(512) == pytest.approx(512 * tokens * 4 * d * d / 1e9)
    assert mode.expert_flops("merged") == pytest.approx(mode.expert_flops("top2"))


def test_modes_pass_is_not_faster_than_its_weights_and_products() -> None:
    """12 x 28 d^2 weights of 16 bit at 768 GB/s; twice as many FLOP a token at 154.8 TFLOP/s."""
    weights = 12 * 28 * 1024**2
    for samples in (1, 64, 512):
        floor = max(2 * weights / 768e9, 2 * weights * 14 * samples / 154.8e12)
        assert floor < mode.seconds("merged", samples) < mode.seconds("dense", samples)


def test_scmoe_reads_what_its_experts_weigh() -> None:
    """Mixtral: 12.9 billion weights a token, 0.176 an expert and layer; 2.75 experts for two passes."""
    one = 3 * 4096 * 14336 * 32
    greedy = scmoe.weight_bytes(scmoe.GREEDY)
    for shares, experts in ((scmoe.TOP3, 3.0), (scmoe.SELF_CONTRAST, 2.75), (Shares.of_passes((2, 2)), 3.5)):
        assert scmoe.distinct(shares) == pytest.approx(experts)
        more = scmoe.weight_bytes(shares) - greedy
        assert more == pytest.approx(2 * one * (experts - 2))
    assert scmoe.weight_bytes(scmoe.TOP3) / greedy == pytest.approx(1.44, abs=0.005)


def test_two_passes_in_one_batch_cost_less_than_two_steps() -> None:
    context = scmoe.MIDDLE
    one = scmoe.step_s(scmoe.GREEDY, context)
    weak = scmoe.step_s(Shares.of_passes((1,)), context)
    both = scmoe.step_s(scmoe.SELF_CONTRAST, context)
    assert max(one, weak) < both < one + weak


def test_deepseekmoes_flops_are_six_a_weight_and_token_and_scores() -> None:
    """6 N T + 12 layers d T^2, N without the input embedding and norms (to 0.1 %)."""
    t = 4096
    weights = 30 * (4 * 4096**2 + 3 * 4096 * 11008) + 102_400 * 4096
    by_hand = 6 * weights * t + 12 * 30 * 4096 * t * t
    assert training_flops("deepseek-llm-7b") == pytest.approx(by_hand, rel=1e-3)
    narrow = 4 * 2048**2 + 3 * 2048 * 1408 * 8 + 64 * 2048
    first = 4 * 2048**2 + 3 * 2048 * 10944
    weights = 27 * narrow + first + 102_400 * 2048
    by_hand = 6 * weights * t + 12 * 28 * 2048 * t * t
    assert training_flops("deepseek-moe-16b") == pytest.approx(by_hand, rel=1e-3)


def test_a_tenant_of_a_pool_takes_an_eighth_of_loras_bytes() -> None:
    """2,498,560 weights a unit of rank on Llama-2-7B, rank 64, 16 bit; 73.7 GB of 80 GiB less the model."""
    assert tenant_bytes(plain) == 64 * 2_498_560 * 2
    assert tenant_bytes(pooled) == tenant_bytes(plain) / 8
    assert room() < 80 * 2**30 - 6_738_415_616 * 2
    size, count = (row.value for row in mos().rows)
    assert count == room() // (size * 1e6)


def test_smoras_share_is_that_of_its_ranks() -> None:
    (row,) = smora().rows
    assert row.value == pytest.approx(8 / 64)


def test_unimoes_encoders_have_their_published_sizes() -> None:
    """CLIP ViT-L/14 304 M, Whisper small's encoder and BEATs 12 x 7.1 M, without their convolutions."""
    assert encoder("image").total_params == pytest.approx(304e6, rel=0.01)
    assert encoder("speech").total_params == pytest.approx(12 * 12 * 768**2, rel=0.01)
    assert language_model().total_params == pytest.approx(6.74e9 + 3 * 32 * 3 * 4096 * 11008, rel=0.01)
    assert encoder_s("image") < prompt_s(("image",))
