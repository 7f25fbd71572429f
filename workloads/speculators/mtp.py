"""Drafts of the model's own multi-token-prediction heads (DeepSeek-V3, GLM-4.5, Qwen3-Next)."""

from __future__ import annotations

from dataclasses import replace

from ..errors import InputError
from ..model import ModelSpec
from .base import Drafter, speculator


@speculator("mtp")
def mtp(model: ModelSpec, argument: str) -> Drafter:
    """Heads that the checkpoint brings: one decoder layer each; embedding and head are the model's.

    A head reads the hidden state of a token and the embedding of the next one. With more drafts than
    heads they run again, each on what the one before it has drafted (vLLM's rule).
    """
    if argument:
        raise InputError("--speculative", f"mtp takes a number alone, mtp:K, not {argument!r} too")
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
