"""Continuous batching of transformers with attention over the keys that reach a threshold.

    with batching(model, eps=1e-3) as manager:
        names = manager.add_requests(prompts, max_new_tokens=64)
        ...

Requests come and go, and share the pages of a common prefix. See `docs/serving.md`.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import transformers
from transformers import GenerationConfig

from halfspace.arguments import checks
from halfspace.attention.hf.cache import must_serve
from halfspace.attention.hf.function import NAME, register
from halfspace.attention.hf.paged import PagedCodes
from halfspace.attention.policy import Threshold
from halfspace.model.kv_cache import SCAN
from halfspace.model.layout import TILE

try:
    from transformers import ContinuousBatchingConfig
    from transformers.generation.continuous_batching import ContinuousBatchingManager
    from transformers.generation.continuous_batching.cache_allocators import FullAttentionCacheAllocator
except ImportError:  # before transformers 5.24 pages were kept in other ways
    ContinuousBatchingManager, FullAttentionCacheAllocator = object, None

__all__ = ["batching"]


class _Manager(ContinuousBatchingManager):
    """A manager whose cache has codes beside its pages."""

    def __init__(self, how: tuple[Any, ...], *args: Any) -> None:
        self._how = how
        super().__init__(*args)

    def switch_to_cb_friendly_attn(self, model: Any, auto_switch_to_flash: bool = True) -> None:
        """Have the model attend as this library does."""
        if model.config._attn_implementation != NAME:
            self._original_attn_impl = model.config._attn_implementation
            model.set_attn_implementation(NAME)

    def _create_batch_processor(self) -> Any:
        is_new = self.batch_processor is None
        processor = super()._create_batch_processor()
        if is_new:
            PagedCodes(processor.cache, *self._how)
        return processor


@contextmanager
def batching(
    model: Any,
    *,
    tau: Any = None,
    eps: float | None = None,
    keep: float | None = None,
    recent: int = 0,
    sinks: int = 0,
    threads: int | None = None,
    generation_config: Any = None,
    continuous_batching_config: Any = None,
) -> Iterator[Any]:
    """Run transformers' continuous batching, whose decode steps attend over exactly the keys that reach a threshold.

    Exactly one of `tau`, `eps` and `keep` is given, as for `KVIndex.attend`. A request's steps of several tokens, so
    its prompt, are dense. Layers of a sliding window attend as they do in transformers.

    Parameters
    ----------
    model : PreTrainedModel
        A model of transformers on the CPU, whatever attention it was loaded with; within this context it has this one.
    tau, eps, keep : optional
        The threshold of <q, k>; the share of each head's softmax that may be dropped; about the share of the keys kept.
    recent, sinks : int
        So many of the last, and of the first, tokens are attended whatever their scores.
    threads : int, optional
        Threads of a call; all by default.
    generation_config : GenerationConfig, optional
        The model's own by default.
    continuous_batching_config : ContinuousBatchingConfig, optional
        Of transformers. Pages must have a multiple of 64 tokens; 256 is the default.

    Yields
    ------
    ContinuousBatchingManager
        Of transformers, at work: see its `add_request`, `get_result`, `cancel_request`. When the context ends it stops,
        after the requests that it was given; at once where an exception ends it.

    Raises
    ------
    NotImplementedError
        Before transformers 5.24, with a model that is not on the CPU or not served, and with pages that are offloaded.
    TypeError, ValueError
        If an argument is not one of the above.

    Examples
    --------
    >>> import torch
    >>> from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM
    >>> from halfspace.attention.hf import batching
    >>> sizes = dict(vocab_size=32, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1)
    >>> config = LlamaConfig(**sizes, num_key_value_heads=1, head_dim=64, pad_token_id=0, eos_token_id=None)
    >>> model = LlamaForCausalLM(config).eval()
    >>> small = ContinuousBatchingConfig(page_size=64, num_blocks=8, max_batch_tokens=256)
    >>> greedy = GenerationConfig(max_new_tokens=5, do_sample=False, eos_token_id=-1)
    >>> with batching(model, eps=1e-3, generation_config=greedy, continuous_batching_config=small) as manager:
    ...     names = manager.add_requests([[1, 2, 3], [4, 5, 6, 7]])
    ...     results = {result.request_id: result for result in (manager.get_result(timeout=60) for _ in names)}
    >>> [len(results[name].generated_tokens) for name in names]
    [5, 5]
    """
    how = Threshold.of(tau, eps, keep, SCAN)
    forced = checks.as_count(recent, "recent", 0), checks.as_count(sinks, "sinks", 0)
    threads = threads if threads is None else checks.as_count(threads, "threads", 1)
    if FullAttentionCacheAllocator is None:
        raise NotImplementedError(
            f"continuous batching needs transformers 5.24 or later, this is {transformers.__version__}"
        )
    if model.device.type != "cpu":
        raise NotImplementedError(
            f"continuous batching with halfspace attention runs on the CPU, and the model is on {model.device}: use "
            "HalfspaceCache there, or model.to('cpu')"
        )
    must_serve(model.config)
    must_serve(model.config.get_text_config(decoder=True))
    settings = ContinuousBatchingConfig() if continuous_batching_config is None else continuous_batching_config
    if settings.page_size % TILE:
        raise ValueError(f"page_size must be a multiple of {TILE}, got {settings.page_size}")
    if settings.cpu_offload_space:
        raise NotImplementedError("halfspace attention does not serve cpu_offload_space: pages would come back uncoded")
    generation: GenerationConfig = copy.deepcopy(generation_config or model.generation_config)
    if generation.eos_token_id is None:
        generation.eos_token_id = -1
    register()
    manager = _Manager((how, forced, threads), model, generation, settings)
    manager.start()
    failed = True
    try:
        yield manager
        failed = False
    finally:
        manager.stop(block=True, hard_stop=failed)
        manager.destroy()
