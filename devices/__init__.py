"""Devices: their descriptions, and the models of an op's time and energy on processors and links."""
