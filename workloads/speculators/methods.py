"""Who drafts: a smaller model, an EAGLE head, the model's own heads, or the sequence itself."""

from __future__ import annotations

from dataclasses import replace

from ..catalog import load_model
from ..errors import InputError
from ..layers import Attention, FeedForward, Fusion
from ..model import Layer, ModelSpec
from ..numerics import Numerics
from .base import Drafter, speculator


def _alone(name: str, argument: str) -> None:
    if argument:
        raise InputError("--speculative", f"{name} takes only a number, {name}:K, not {argument!r} too")


@speculator("draft")
def draft(model: ModelSpec, argument: str) -> Drafter:
    """A separate model, by catalog name or config.json, with the same vocabulary.

    It keeps its own formats of weights; its KV cache has the format of the model's.
    """
    if not argument:
        raise InputError("--speculative", "draft needs a model: draft:MODEL:K")
    small = load_model(argument)
    if small.vocab != model.vocab:
        raise InputError(
            f"--speculative draft:{argument}",
            f"has a vocabulary of {small.vocab:,} words, {model.name} of {model.vocab:,}; a draft model needs the same",
        )
    return Drafter(replace(small, numerics=replace(small.numerics, kv=model.numerics.kv)))


@speculator("eagle")
def eagle(model: ModelSpec, argument: str) -> Drafter:
    """EAGLE's head: one decoder layer like the model's, behind a projection of 2 h to h.

    It reads the hidden state of a token and the embedding of the next one; embedding and head are the model's (Li et
    al., EAGLE, ICML 2024, section 4.1). Heads are published in 16 bit for any format of the model. Drafts are a chain,
    not a tree.
    """
    _alone("eagle", argument)
    last = model.layers[-1]
    if not (isinstance(last.mixer, Attention) and isinstance(last.ffn, FeedForward)):
        raise InputError(
            "--speculative eagle",
            f"{model.name} is not a dense decoder, and an EAGLE head's shape for such a model is not in "
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


@speculator("mtp")
def mtp(model: ModelSpec, argument: str) -> Drafter:
    """Heads that the checkpoint brings: one decoder layer each; embedding and head are the model's.

    A head reads the hidden state of a token and the embedding of the next one. With more drafts than
    heads they run again, each on what the one before it has drafted (vLLM's rule).
    """
    _alone("mtp", argument)
    if not model.mtp_heads:
        raise InputError(
            "--speculative mtp",
            f"{model.name} has no multi-token-prediction heads (no num_nextn_predict_layers in its "
            "config.json); eagle, draft and ngram need none",
        )
    head = replace(
        model, name=f"{model.name} MTP head", layers=model.mtp, extra_weights=model.hidden,
        mtp=(), mtp_heads=0, borrows=True,
    )  # fmt: skip
    return Drafter(head, copies=model.mtp_heads)


@speculator("ngram")
def ngram(model: ModelSpec, argument: str) -> Drafter:
    """What followed the same n-gram earlier in the sequence; the host looks, the devices only verify.

    Every sequence is taken to find K tokens in every step: one that finds none counts as a first
    draft that is not accepted.
    """
    _alone("ngram", argument)
    return Drafter(None, on_host=True)
