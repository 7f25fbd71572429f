"""Papers' printed numbers against simulated ones: one module per paper."""

from .base import EXPERIMENTS, Reproduction, Row, list_experiments, reproduce

__all__ = ["EXPERIMENTS", "Reproduction", "Row", "list_experiments", "reproduce"]
