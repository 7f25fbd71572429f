"""Collectives by algorithm over topologies of several levels."""
