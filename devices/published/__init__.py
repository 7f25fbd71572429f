"""Mechanisms of published systems, as kinds of processors and parts that others reuse."""
