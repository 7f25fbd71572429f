"""Drafts of an EAGLE head, trained for the model."""

from __future__ import annotations

from dataclasses import replace

from ..errors import InputError
from ..layers import Attention, FeedForward, Fusion
from ..model import Layer, ModelSpec
from ..numerics import Numerics
from .base import Drafter, speculator


@speculator("eagle")
def eagle(model: ModelSpec, argument: str) -> Drafter:
    """EAGLE's head: one decoder layer like the model's, behind a projection of 2 h to h.

    It reads the hidden state of a token and the embedding of the next one; embedding and head are the
    model's (Li et al., EAGLE, ICML 2024, section 4.1). Heads are published in 16 bit, whatever the
    model is in. A chain is drafted, no tree.
    """
    if argument:
        raise InputError("--speculative", f"eagle takes a number alone, eagle:K, not {argument!r} too")
    last = model.layers[-1]
    if not (isinstance(last.mixer, Attention) and isinstance(last.ffn, FeedForward)):
        raise InputError(
            "--speculative eagle",
            f"{model.name} is no dense decoder, and an EAGLE head's shape for such a model is not in "
            "its config.json; mtp, draft and ngram are counted",
        )
    layer = replace(last, mixer=replace(last.mixer, window=0))
    joined = Layer(Fusion(model.hidden, norms=0), None, 0, 0, replicated=True)
    head = ModelSpec(
        name=f"{model.name} EAGLE head", architecture=model.architecture, hidden=model.hidden,
        vocab=model.vocab, layers=(joined, layer),
        tied=model.tied, numerics=Numerics(model.numerics.default, kv=model.numerics.kv),
        max_position=model.max_position, source="Li et al., EAGLE, ICML 2024, section 4.1",
        borrows=True,
    )  # fmt: skip
    return Drafter(head)
