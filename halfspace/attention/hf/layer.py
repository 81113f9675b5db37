"""`HalfspaceLayer`: one layer of a transformers cache, which owns a `KVIndex`."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from halfspace.attention.hf.masks import Masks, Step
from halfspace.attention.interop import given_back
from halfspace.attention.kv import KVIndex
from halfspace.attention.policy import Threshold

__all__ = ["MOST_DECODED", "OWNER", "HalfspaceLayer"]

MOST_DECODED = 64
"""A later step of more tokens than this goes on with the prefill, and is dense like it."""
OWNER = "halfspace_layer"
"""The attribute of keys by which attention finds the layer of the cache that they belong to."""
_CROPS_TO = "max_length" in signature(DynamicLayer.crop).parameters  # transformers 4: the length that remains

Dense = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


class HalfspaceLayer(CacheLayerMixin):
    """Keys and values of one layer, in a `KVIndex`, and what is known of padding, which is not stored.

    A step has two halves: `update`, which the model calls, notes new keys and values and returns them as they are;
    `attend`, which the attention function calls with the mask, stores them and attends.
    """

    is_sliding = False
    is_compileable = False
    is_croppable = True

    def __init__(self, how: Threshold, masks: Masks, **options: Any) -> None:
        super().__init__()
        self.index: KVIndex | None = None
        self._how = how
        self._masks = masks
        self._options = options
        self._restart()

    def _restart(self) -> None:
        self.index = None
        self.is_initialized = False
        self._seen = 0  # positions, padding included
        self._valid: torch.Tensor | None = None  # which of them hold tokens, see `Step`
        self._waiting: tuple[torch.Tensor, torch.Tensor] | None = None

    # -- a step -------------------------------------------------------------------------------------------------------

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor | None = None) -> None:
        """Note dtype and device, as a cache layer does."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Note keys and values (batch, KV heads, tokens, head_dim) of new tokens, and return them.

        Raises
        ------
        RuntimeError
            If those of the step before never came to halfspace attention, or it failed there.
        """
        if self._waiting is not None:
            raise RuntimeError(
                "the last step of this HalfspaceCache did not come through halfspace attention: load the model with "
                "attn_implementation='halfspace' after halfspace.attention.hf.register(); after an error, reset() it"
            )
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        setattr(key_states, OWNER, self)
        self._waiting = key_states, value_states
        return key_states, value_states

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float | None,
        dense: Dense,
    ) -> torch.Tensor:
        """Store the keys and values of a step, and attend.

        Parameters
        ----------
        query : tensor, shape (batch, query heads, tokens, head_dim)
        key, value : tensor, shape (batch, KV heads, tokens, head_dim)
            What `update` returned.
        mask : tensor or None
            See `Masks`.
        scale : float or None
            Of logits, as for `KVIndex`.
        dense : callable
            Attends with `query` over all keys and values, given with a mask.

        Returns
        -------
        tensor, shape (batch, tokens, query heads, head_dim)
        """
        if self._waiting is None or key is not self._waiting[0] or value is not self._waiting[1]:
            raise NotImplementedError("halfspace attention serves layers that attend once to keys of their own")
        batch, _, rows, _ = query.shape
        if self.index is None:
            self.index = self._indexed(query, key, value, scale)
        step = self._masks.read(mask, self._valid, self._seen, rows, batch)
        if self._seen == 0:
            output = dense(key, value, mask)
            self._store(key, value, step)
        elif rows > MOST_DECODED:
            self._store(key, value, step)
            output = dense(*self._stored(query), self._reach(step, rows))
        else:
            output = query.new_empty(batch, rows, *query.shape[1::2])
            for row in range(rows):
                one = slice(row, row + 1)
                counts = None if step.fresh is None else step.fresh[:, row].long()
                self.index.append(key[:, :, one], value[:, :, one], lengths=counts)
                output[:, row] = self.index.attend(query[:, :, row], **self._how._asdict())
        self._seen += rows
        self._valid = step.valid
        self._waiting = None
        return output

    def _indexed(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> KVIndex:
        batch, heads, _, dim = key.shape
        if value.shape != key.shape:
            raise NotImplementedError(
                f"halfspace attention serves values shaped as keys, got {tuple(value.shape)} and {tuple(key.shape)}"
            )
        return KVIndex(
            heads,
            dim,
            num_query_heads=query.shape[1],
            batch_size=batch,
            device="cpu" if key.device.type == "cpu" else f"gpu:{key.device.index}",
            dtype=str(key.dtype).removeprefix("torch."),
            scale=scale,
            **self._options,
        )

    def _store(self, key: torch.Tensor, value: torch.Tensor, step: Step) -> None:
        """Append the tokens of a step, without its padding."""
        assert self.index is not None
        if step.fresh is not None:  # tokens first
            order = (~step.fresh).long().argsort(dim=-1, stable=True)[:, None, :, None]
            key, value = (rows.gather(2, order.expand_as(rows)) for rows in (key, value))
        self.index.append(key, value, lengths=step.counts)

    def _stored(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.index is not None
        keys, values = self.index.stored()
        return given_back(keys, like), given_back(values, like)

    def _reach(self, step: Step, rows: int) -> torch.Tensor:
        """Return which stored keys (batch, 1, rows, keys) each query of the last step may attend to."""
        assert self.index is not None
        lengths = torch.as_tensor(self.index.lengths, device=self.device)
        fresh = step.fresh if step.fresh is not None else torch.ones(len(lengths), rows, dtype=torch.bool)
        new = fresh.to(self.device).long()
        reach = lengths[:, None] - new.sum(-1, keepdim=True) + new.cumsum(-1)
        stored = torch.arange(int(self.index.lengths.max()), device=self.device)
        return (stored < reach[..., None])[:, None]

    # -- what a cache layer is asked ----------------------------------------------------------------------------------

    def get_seq_length(self) -> int:
        """Return the number of positions, padding included."""
        return self._seen

    def get_mask_sizes(self, queries: Any) -> tuple[int, int]:
        """Return the number and the offset of keys that a mask is for, after a step of so many new ones.

        transformers 5 gives their number, transformers 4 their positions.
        """
        return self._seen + (queries if isinstance(queries, int) else queries.shape[0]), 0

    def get_max_length(self) -> int:
        """Return the number of tokens that there is room for, or -1 where it grows."""
        capacity = self._options["capacity"]
        return -1 if capacity is None else int(capacity)

    get_max_cache_shape = get_max_length  # its name in transformers 4

    # -- changing it --------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget everything, also the number of sequences."""
        self._masks.forget()
        self._restart()

    def crop(self, length: int) -> None:
        """Forget the last `-length` positions; or all but the first `length` ones, if that is positive.

        0 is the length that remains in transformers 4, and the number to be forgotten in transformers 5.
        """
        kept = length if length > 0 or (length == 0 and _CROPS_TO) else max(0, self._seen + length)
        if self.index is None or kept >= self._seen:
            return
        self._masks.forget()
        valid = None if self._valid is None else self._valid[:, :kept]
        self.index.crop(kept if valid is None else valid.sum(-1))
        self._seen = kept
        self._valid = None if valid is None or bool(valid.all()) else valid

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Make these sequences (k,), by number, the batch."""
        if self.index is None:
            return
        self.index.reorder(beam_idx)
        if self._valid is not None:
            self._valid = self._valid[beam_idx.to(self._valid.device)]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence; copies follow one another."""
        if self.index is not None:
            self.reorder_cache(torch.arange(self.index.batch_size).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Any) -> None:
        """Keep some sequences, given by number or by a mask (batch,)."""
        if self.index is not None:
            chosen = indices.cpu() if isinstance(indices, torch.Tensor) else indices
            self.reorder_cache(torch.arange(self.index.batch_size)[chosen])

    def offload(self) -> None:
        """Raise: keys and values do not move."""
        raise NotImplementedError("HalfspaceCache(offload=True) keeps keys and values in the host's memory")

    prefetch = offload
