"""The index as the KV cache of language models of Hugging Face transformers, versions 4.57 and 5.

    register()
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="halfspace")
    model.generate(**inputs, cache=HalfspaceCache(model.config, eps=1e-3))  # past_key_values= before transformers 5.24

The first step, the prefill, is dense. Each token after it attends over exactly the keys that reach a threshold. The
attention function gets no cache, but the keys that the cache returned: they carry an attribute that leads to its layer.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import cache_utils
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer

from halfspace.arguments import checks
from halfspace.attention.hf.layer import HalfspaceLayer
from halfspace.attention.hf.steps import DENSE_ABOVE, Steps
from halfspace.attention.policy import Threshold
from halfspace.model.kv_cache import SCAN

__all__ = ["HalfspaceCache", "must_serve", "refused"]

_KEPT = {"DynamicSlidingWindowLayer", "LinearAttentionLayer", "DummyLayer"}
"""Layers of transformers' own caches, by class, that stay as they are."""
_ATTENDING = {"full_attention", "sliding_attention", "chunked_attention"}


class HalfspaceCache(Cache):
    """A transformers cache whose layers attend over exactly the keys that reach a threshold.

    Give it to ``generate`` or to the model as ``cache``, which is ``past_key_values`` in transformers before 5.24.
    Exactly one of `tau`, `eps` and `keep` is given; see `KVIndex.attend` for them and for `estimator`.

    Layers of full attention have a `KVIndex`. Those of a window, of chunks and of linear attention keep what
    transformers' own cache keeps, and attend as they do there.

    The first step is dense, and so are later ones of more than `dense_above` tokens, and all within `prefill`.
    In others each token attends by its threshold.
    Greedy and beam search, sampling, assisted decoding and batches with padding work as with a `DynamicCache`.
    Padding is not stored. A step that fails or is interrupted leaves the cache as it was.

    Parameters
    ----------
    config : PretrainedConfig
        The model's.
    tau : float or array, optional
        The threshold of <q, k>, without the scale.
    eps : float, optional
        The share of each head's softmax that may be dropped, proved at run time.
    keep : float, optional
        About the share of the keys to be kept.
    estimator : {"scan", "budget", "max", "gap"}
        How `keep` becomes a threshold.
    recent, sinks : int
        So many of the last, and of the first, tokens are attended whatever their scores.
    dense_above : int
        Later steps of more tokens than this go on with the prefill, and are dense like it.
    capacity : int, optional
        Tokens that each sequence has room for; by default room grows.
    offload : bool
        On a GPU: keep keys and values in the host's memory.
    threads : int, optional
        Threads of a call on the CPU.

    Raises
    ------
    NotImplementedError
        If the model has attention that is not served: ALiBi, layers that share keys or have a linear state beside
        them, an encoder. Of what only the call of attention shows, a custom mask, dropout, it is raised there, before
        anything is stored.
    """

    def __init__(
        self,
        config: Any,
        *,
        tau: Any = None,
        eps: float | None = None,
        keep: float | None = None,
        estimator: str = SCAN,
        recent: int = 0,
        sinks: int = 0,
        dense_above: int = DENSE_ABOVE,
        capacity: int | None = None,
        offload: bool = False,
        threads: int | None = None,
    ) -> None:
        text = config.get_text_config(decoder=True)
        must_serve(config)
        must_serve(text)
        how = Threshold.of(tau, eps, keep, estimator)
        options = {
            "recent": checks.as_count(recent, "recent", 0),
            "sinks": checks.as_count(sinks, "sinks", 0),
            "capacity": capacity if capacity is None else checks.as_count(capacity, "capacity", 1),
            "offload": offload,
            "threads": threads if threads is None else checks.as_count(threads, "threads", 1),
        }
        self._steps = Steps(checks.as_count(dense_above, "dense_above", 0))
        theirs = DynamicCache(config=text).layers or [DynamicLayer() for _ in range(text.num_hidden_layers)]
        for layer in theirs:
            if type(layer) is not DynamicLayer and type(layer).__name__ not in _KEPT:
                raise refused(text, f"layers of {type(layer).__name__}")
        own = (HalfspaceLayer(how, self._steps, **options) if type(one) is DynamicLayer else one for one in theirs)
        super().__init__(layers=list(own))
        self._steps.over(self.layers)

    @classmethod
    def from_cache(cls, cache: Any, config: Any, *, attention_mask: Any = None, **how: Any) -> "HalfspaceCache":
        """Take over what a cache of transformers holds, such as a `DynamicCache`, which stays as it is.

        Parameters
        ----------
        cache : Cache
            Of a model of this config, with as many positions in every layer.
        config : PretrainedConfig
            The model's.
        attention_mask : tensor, shape (batch, positions), optional
            1 where a position holds a token, 0 where it is padding; by default none is.
        **how
            As for the class.

        Raises
        ------
        ValueError
            If the cache has no layers as the config has them, or the mask does not fit.
        """
        new = cls(config, **how)
        if len(cache.layers) != len(new.layers):
            raise ValueError(f"cache must have the {len(new.layers)} layers of the config, got {len(cache.layers)}")
        valid = None if attention_mask is None else torch.as_tensor(attention_mask).bool()
        for number, (layer, given) in enumerate(zip(new.layers, cache.layers, strict=True)):
            keys = getattr(given, "keys", None)
            if type(given) is type(layer):
                new.layers[number] = copy.deepcopy(given)
            elif not isinstance(layer, CacheLayerMixin) or not isinstance(given, CacheLayerMixin):
                raise ValueError(
                    f"layer {number} of the cache must be a {type(layer).__name__}, got {type(given).__name__}"
                )
            elif keys is None or keys.numel() == 0:
                continue
            elif not isinstance(layer, HalfspaceLayer):
                layer.update(keys, given.values)
            else:
                shape = keys.shape[0], keys.shape[2]
                if valid is not None and tuple(valid.shape) != shape:
                    raise ValueError(f"attention_mask must have shape {shape}, got {tuple(valid.shape)}")
                layer.hold(keys, given.values, None if valid is None else valid.to(keys.device))
        return new

    @contextmanager
    def prefill(self) -> Iterator[None]:
        """Within this context every step is dense, whatever its size: that of a prompt in small pieces."""
        before, self._steps.prefilling = self._steps.prefilling, True
        try:
            yield
        finally:
            self._steps.prefilling = before

    # -- a step -------------------------------------------------------------------------------------------------------

    @torch.compiler.disable
    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take new keys and values of a layer, and return those that it attends over."""
        self._steps.touch(layer_idx, "attention")
        found: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return found

    @torch.compiler.disable
    def update_conv_state(
        self, conv_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> torch.Tensor:
        """Take a state of the convolution of linear attention."""
        self._steps.touch(layer_idx, f"convolution {state_idx}")
        found: torch.Tensor = super().update_conv_state(conv_states, layer_idx, state_idx, **kwargs)
        return found

    @torch.compiler.disable
    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> torch.Tensor:
        """Take a recurrent state of linear attention."""
        self._steps.touch(layer_idx, f"recurrent {state_idx}")
        found: torch.Tensor = super().update_recurrent_state(recurrent_states, layer_idx, state_idx, **kwargs)
        return found

    # -- what a cache is asked ----------------------------------------------------------------------------------------

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of positions, padding included, of all steps that came through."""
        attending = (k for k in range(layer_idx, len(self.layers)) if isinstance(self.layers[k], CacheLayerMixin))
        before = self._steps.positions(next(attending, layer_idx))
        return int(super().get_seq_length(layer_idx)) if before is None else before

    def get_mask_sizes(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Return the number and the offset of the keys that a mask is for, as a step begins."""
        self._steps.begin()
        found: tuple[int, int] = super().get_mask_sizes(*args, **kwargs)
        return found

    # -- changing it: first the last step is kept or undone ------------------------------------------------------------

    def reset(self) -> None:
        """Forget everything, also the number of sequences."""
        self._steps.settle()
        super().reset()

    def crop(self, *args: Any, **kwargs: Any) -> None:
        """Forget the last positions; see `HalfspaceLayer.crop`."""
        self._steps.settle()
        super().crop(*args, **kwargs)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Make these sequences (k,), by number, the batch."""
        self._steps.settle()
        super().reorder_cache(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence; copies follow one another."""
        self._steps.settle()
        super().batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: Any) -> None:
        """Keep some sequences, given by number or by a mask (batch,)."""
        self._steps.settle()
        super().batch_select_indices(indices)

    def __getstate__(self) -> dict[str, Any]:
        self._steps.settle()
        return self.__dict__


def must_serve(config: Any) -> None:
    """Raise if a config has attention that is not served."""
    kinds = [name for name in ("alibi", "is_encoder_decoder") if getattr(config, name, None)]
    kinds += [name for name in ("num_kv_shared_layers", "kv_sharing_modes") if getattr(config, name, None)]
    if not hasattr(cache_utils, "LinearAttentionLayer"):  # in transformers 4 such models have caches of their own
        kinds += sorted(set(getattr(config, "layer_types", None) or ()) - _ATTENDING)
    if kinds:
        raise refused(config, ", ".join(kinds))


def refused(config: Any, kinds: str) -> NotImplementedError:
    """Return the error that says which kinds of attention of a config are not served."""
    return NotImplementedError(f"halfspace attention does not serve {config.model_type} with {kinds}")
