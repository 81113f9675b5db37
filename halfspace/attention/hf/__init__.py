"""The cache of `transformers`: its models generate with a `halfspace.attention.KVIndex` for each layer."""

from halfspace.attention.hf.cache import HalfspaceCache, attention, register

__all__ = ["HalfspaceCache", "attention", "register"]
