"""Deployment of a model on a system: parallel layout, placement, the programs of its devices."""
