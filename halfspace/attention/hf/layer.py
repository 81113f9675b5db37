"""`HalfspaceLayer`: one layer of a transformers cache, which owns a `KVIndex`."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from halfspace.attention.hf.dense import Logits
from halfspace.attention.hf.masks import Step
from halfspace.attention.hf.steps import Steps
from halfspace.attention.interop import given_back
from halfspace.attention.kv import KVIndex
from halfspace.attention.policy import Threshold

__all__ = ["OWNER", "HalfspaceLayer"]

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

    def __init__(self, how: Threshold, steps: Steps, **options: Any) -> None:
        self.index: KVIndex | None = None
        self._how = how
        self._steps = steps
        self._options = options
        self._restart()

    def _restart(self) -> None:
        self.index = None
        self.is_initialized = False
        self._seen = 0  # positions, padding included
        self._valid: torch.Tensor | None = None  # which of them hold tokens, see `Step`
        self._waiting: tuple[torch.Tensor, torch.Tensor] | None = None
        self._attending = False  # whether what waits has come to attention
        self._provisional = False  # whether the index was made before a query told how it is asked

    # -- a step -------------------------------------------------------------------------------------------------------

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor | None = None) -> None:
        """Note dtype and device, as a cache layer does."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Note keys and values (batch, KV heads, tokens, head_dim) of new tokens, and return them.

        What a step that failed left behind is no more, see `Steps`.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        setattr(key_states, OWNER, self)
        self._waiting, self._attending = (key_states, value_states), False
        return key_states, value_states

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        logits: Logits,
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
        logits : Logits
            Their scale and cap, and learnt sinks.
        dense : callable
            Attends with `query` over all keys and values, given with a mask.

        Returns
        -------
        tensor, shape (batch, tokens, query heads, head_dim)
        """
        if self._waiting is None or key is not self._waiting[0] or value is not self._waiting[1]:
            raise NotImplementedError("halfspace attention serves layers that attend once to keys of their own")
        self._attending = True
        batch, _, rows, _ = query.shape
        if self.index is None or self._provisional:
            index = self._indexed(key, value, query.shape[1], logits)
            if self.index is not None:
                index.append(*self._stored(), lengths=self.index.lengths)
            self.index, self._provisional = index, False
        step = self._steps.masks.read(mask, self._valid, self._seen, rows, batch)
        if self._seen == 0:
            output = dense(key, value, mask)
            self._store(key, value, step)
        elif rows > self._steps.dense_above or self._steps.prefilling:
            self._store(key, value, step)
            output = dense(*self._stored(), self._reach(step, rows))
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

    def hold(self, key: torch.Tensor, value: torch.Tensor, valid: torch.Tensor | None) -> None:
        """Take over keys and values (batch, KV heads, positions, head_dim), of which those in `valid` hold tokens."""
        self.lazy_initialization(key, value)
        fresh = valid if valid is not None and not bool(valid.all()) else None
        self.index, self._provisional = self._indexed(key, value, key.shape[1], Logits(None, None, None)), True
        self._store(key, value, Step(fresh, fresh, None if fresh is None else fresh.sum(-1).cpu().numpy()))
        self._seen, self._valid = key.shape[2], fresh

    def undo_step(self) -> None:
        """Put all layers of the cache back to how they were before this step."""
        self._steps.undo()

    def remembered(self) -> Callable[[], None]:
        """Return what puts the layer back to how it is now; see `Steps`."""
        index, seen, valid = self.index, self._seen, self._valid
        lengths = None if index is None else index.lengths
        provisional = self._provisional

        def put_back() -> None:
            if lengths is None:
                self._restart()
                return
            if provisional:
                self.index = index
            assert self.index is not None
            self.index.crop(lengths)
            self._seen, self._valid, self._provisional = seen, valid, provisional
            self._waiting = None

        return put_back

    @property
    def is_waiting(self) -> bool:
        """Whether keys and values wait for attention."""
        return self._waiting is not None

    @property
    def is_ignored(self) -> bool:
        """Whether keys and values wait that attention has not been called with."""
        return self.is_waiting and not self._attending

    def _indexed(self, key: torch.Tensor, value: torch.Tensor, query_heads: int, logits: Logits) -> KVIndex:
        batch, heads, _, dim = key.shape
        if value.shape != key.shape:
            raise NotImplementedError(
                f"halfspace attention serves values shaped as keys, got {tuple(value.shape)} and {tuple(key.shape)}"
            )
        return KVIndex(
            heads,
            dim,
            num_query_heads=query_heads,
            batch_size=batch,
            device="cpu" if key.device.type == "cpu" else f"gpu:{key.device.index}",
            dtype=str(key.dtype).removeprefix("torch."),
            scale=logits.scale,
            soft_cap=logits.cap,
            sink_logits=None if logits.sinks is None else logits.sinks.detach().float(),
            **self._options,
        )

    def _store(self, key: torch.Tensor, value: torch.Tensor, step: Step) -> None:
        """Append the tokens of a step, without its padding."""
        assert self.index is not None
        if step.fresh is not None:  # tokens first
            order = (~step.fresh).long().argsort(dim=-1, stable=True)[:, None, :, None]
            key, value = (rows.gather(2, order.expand_as(rows)) for rows in (key, value))
        self.index.append(key, value, lengths=step.counts)

    def _stored(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.index is not None
        keys, values = self.index.stored()
        like = torch.empty(0, device=self.device)
        return given_back(keys, like), given_back(values, like)

    def _laid_out(self, which: int) -> torch.Tensor | None:
        """View keys or values by position; where padding takes some up, a copy in which these are 0."""
        if self.index is None:
            return None
        rows: torch.Tensor = self._stored()[which]
        if self._valid is None:
            return rows
        valid = self._valid.to(rows.device)[:, None, :, None]
        places = (valid.long().cumsum(2) - 1).clamp(min=0).expand(-1, rows.shape[1], -1, rows.shape[3])
        return rows.gather(2, places).masked_fill(~valid, 0.0)

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

    @property
    def keys(self) -> torch.Tensor | None:
        """Keys (batch, KV heads, positions, head_dim) as they are stored; None before the first step.

        They are not to be changed, and mean nothing any more once the cache has been.
        """
        return self._laid_out(0)

    @property
    def values(self) -> torch.Tensor | None:
        """Values, as `keys`."""
        return self._laid_out(1)

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
        self._steps.masks.forget()
        self._restart()

    def crop(self, length: int) -> None:
        """Forget the last `-length` positions; or all but the first `length` ones, if that is positive.

        0 is the length that remains in transformers 4, and the number to be forgotten in transformers 5.
        """
        kept = length if length > 0 or (length == 0 and _CROPS_TO) else max(0, self._seen + length)
        if self.index is None or kept >= self._seen:
            return
        self._steps.masks.forget()
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
