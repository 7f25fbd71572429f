"""Drafts of a smaller model of the same vocabulary."""

from __future__ import annotations

from dataclasses import replace

from ..catalog import load_model
from ..errors import InputError
from ..model import ModelSpec
from .base import Drafter, speculator


@speculator("draft")
def draft(model: ModelSpec, argument: str) -> Drafter:
    """A model of its own, by catalog name or config.json, that shares the vocabulary.

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
