"""The cache of `transformers`: its models generate with a `halfspace.attention.KVIndex` for each layer."""

from halfspace.attention.hf.cache import *  # noqa: F403
