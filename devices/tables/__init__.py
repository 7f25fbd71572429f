"""Costs read from measured kernel tables."""
