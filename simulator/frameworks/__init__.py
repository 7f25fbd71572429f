"""Serving frameworks: their defaults, engine files and start commands as settings of a deployment."""
