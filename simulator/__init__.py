"""Simulation over time: engines, policies, layouts and placement on the clock of one run."""
