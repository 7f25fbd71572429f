"""Engines on one clock: events, routers and whole runs."""
