"""Workloads: models, their ops, routing of tokens to experts, and request traces."""
