"""Attention over exactly the keys above a threshold: `HalfspaceIndex`'s stages as the KV cache of a language model."""

from halfspace.attention.interop import Attended
from halfspace.attention.kv import KVIndex

__all__ = ["Attended", "KVIndex"]
