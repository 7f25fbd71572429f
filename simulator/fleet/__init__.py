"""Engines on one common clock: events, routers, and the simulation of whole runs."""
