"""Drafts looked up in the sequence itself: what followed the same tokens before."""

from __future__ import annotations

from ..errors import InputError
from ..model import ModelSpec
from .base import Drafter, speculator


@speculator("ngram")
def ngram(model: ModelSpec, argument: str) -> Drafter:
    """What followed the same n-gram earlier in the sequence; the host looks, the devices only verify.

    Every sequence is taken to find K tokens in every step: one that finds none counts as a first
    draft that is not accepted.
    """
    if argument:
        raise InputError("--speculative", f"ngram takes a number alone, ngram:K, not {argument!r} too")
    return Drafter(None, on_host=True)
