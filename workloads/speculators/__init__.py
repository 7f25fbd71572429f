"""Speculative decoding: who drafts tokens, and what of it runs, by name in `SPECULATORS`."""

from .asked import SPECULATORS, Drafter, speculator

__all__ = ["SPECULATORS", "Drafter", "speculator"]
