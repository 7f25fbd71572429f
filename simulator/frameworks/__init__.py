"""Serving frameworks: their settings as a deployment."""
