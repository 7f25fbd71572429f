"""Hardware simulator and kernel co-design lab for LLM and MoE inference."""

__version__ = "0.1.0"
