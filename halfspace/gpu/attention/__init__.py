"""The KV cache: keys coded as they come, attention over those that reach a threshold."""
