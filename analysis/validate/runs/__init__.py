"""Replays of measured serving runs and static batches (``opbyte validate runs``)."""

from .result import RunsValidation, validate_runs

__all__ = ["RunsValidation", "validate_runs"]
