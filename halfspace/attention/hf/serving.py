"""Continuous batching of transformers with attention over the keys that reach a threshold.

    with batching(model, eps=1e-3) as manager:
        names = manager.add_requests(prompts, max_new_tokens=64)
        ...

Requests come and go, and share the pages of a common prefix. See `docs/serving.md`.
"""

import copy
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import transformers
from transformers import GenerationConfig, PreTrainedModel

from halfspace.arguments import checks
from halfspace.attention.hf.cache import must_serve, refused
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

_SERVED = {"full_attention", "sliding_attention"}
_DTYPES = {"torch.float32", "torch.float16", "torch.bfloat16"}

_at_work: "weakref.WeakSet[Any]" = weakref.WeakSet()
"""Models whose attention a manager has set."""
_joining = threading.Lock()


class _Manager(ContinuousBatchingManager):
    """A manager whose cache has codes beside its pages."""

    def __init__(self, how: tuple[Any, ...], *args: Any) -> None:
        self._how = how
        super().__init__(*args)

    def switch_to_cb_friendly_attn(self, model: Any, auto_switch_to_flash: bool = True) -> None:
        """Leave the model as it is: `_attending` has set its attention, and sets it back."""

    def _create_batch_processor(self) -> Any:
        is_new = self.batch_processor is None
        processor = super()._create_batch_processor()
        if is_new:
            PagedCodes(processor.cache, *self._how)
        return processor


@contextmanager
def _attending(model: Any) -> Iterator[None]:
    """Have a model attend as this library does, for one manager at a time; it is then as it was."""
    with _joining:
        if model in _at_work:
            raise RuntimeError("another manager is at work with this model: leave its context first, or load a copy")
        _at_work.add(model)
    before, training = model.config._attn_implementation, model.training
    try:
        register()
        model.set_attn_implementation(NAME)
        yield
    finally:
        model.set_attn_implementation(before)
        model.train(training)
        _at_work.discard(model)


def _of_kind(value: Any, name: str, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__} of transformers, got {value!r:.80}")


def _must_batch(model: Any, settings: Any) -> Any:
    """Raise if a model is not served in pages, or pages are not as they must be; returns the model's text config."""
    if not model.can_generate():
        raise TypeError(f"model must generate text, and a {type(model).__name__} has no head for that")
    if model.device.type != "cpu":
        raise NotImplementedError(
            f"continuous batching with halfspace attention runs on the CPU, and the model is on {model.device}: use "
            "HalfspaceCache there, or model.to('cpu')"
        )
    if str(model.dtype) not in _DTYPES:
        raise NotImplementedError(f"halfspace attention does not serve {model.dtype}: use model.float()")
    config = model.config.get_text_config(decoder=True)
    for own in (model.config, config):
        must_serve(own)
        kinds = sorted(set(getattr(own, "layer_types", None) or ()) - _SERVED)
        kinds += ["kv_lora_rank"] if getattr(own, "kv_lora_rank", None) else []
        if kinds:
            raise refused(own, f"{', '.join(kinds)} by continuous batching")
    if settings.page_size < 1 or settings.page_size % TILE:
        raise ValueError(f"page_size must be a multiple of {TILE}, got {settings.page_size}")
    if settings.cpu_offload_space:
        raise NotImplementedError("halfspace attention does not serve cpu_offload_space: pages would come back uncoded")
    return config


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
        The threshold of <q, k>, one or one for each query head; the share of each head's softmax that may be dropped;
        about the share of the keys kept.
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
        after the requests that it was given; at once where an exception ends it. It is not to be stopped or started
        within.

    Raises
    ------
    NotImplementedError
        Before transformers 5.24, with a model that is not on the CPU or not served, and with pages that are offloaded.
    RuntimeError
        If another manager is at work with the model.
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
    _of_kind(model, "model", PreTrainedModel)
    settings = ContinuousBatchingConfig() if continuous_batching_config is None else continuous_batching_config
    _of_kind(settings, "continuous_batching_config", ContinuousBatchingConfig)
    config = _must_batch(model, settings)
    generation: Any = copy.deepcopy(model.generation_config if generation_config is None else generation_config)
    _of_kind(generation, "generation_config", GenerationConfig)
    if tau is not None:
        checks.as_tau(tau, config.num_attention_heads, False)
    if generation.eos_token_id is None:
        generation.eos_token_id = -1
    with _attending(model):
        manager = _Manager((how, forced, threads), model, generation, settings)
        manager.start()
        failed = True
        try:
            yield manager
            failed = False
        finally:
            manager.stop(block=True, hard_stop=failed)
            manager.destroy()
