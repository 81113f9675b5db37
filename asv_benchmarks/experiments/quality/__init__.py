"""What sparse attention does to a language model: parts of `attention_quality.py`."""
