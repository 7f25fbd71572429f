"""Models from Hugging Face ``config.json`` files, one function per architecture family."""

from .read import known_architectures, model_from_keys, read_config

__all__ = ["known_architectures", "model_from_keys", "read_config"]
