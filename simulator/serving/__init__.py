"""Engines, fleets and runs on the SimPy clock."""
