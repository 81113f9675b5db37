"""The pages of transformers' continuous batching, with codes beside them, and attention of a step of many requests.

A step has queries of several requests, one after another. The model hands new keys and values to the cache, which
returns them with an attribute that leads to a `Batch`; the attention function takes it from there.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from halfspace.attention.arguments import Given, as_cap, as_scale, as_sink_logits
from halfspace.attention.hf.dense import Logits, attend_densely
from halfspace.attention.interop import given_back
from halfspace.attention.pages import Desk, Pages
from halfspace.attention.policy import Threshold, attended
from halfspace.attention.sinks import with_sinks
from halfspace.model.formats import FORMATS, as_numbers

__all__ = ["BATCH", "OF_BATCHES", "Batch", "PagedCodes"]

BATCH = "halfspace_batch"
"""The attribute of keys by which attention finds the step of continuous batching that they belong to."""
OF_BATCHES = frozenset(
    {
        "block_table",
        "cu_seq_lens_k",
        "cu_seq_lens_q",
        "logits_indices",
        "logits_processor_args",
        "max_length_k",
        "max_length_q",
        "read_index",
        "write_index",
    }
)
"""Arguments of continuous batching that attention functions are passed."""
FULL = "full_attention"


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer of full attention."""

    pages: Pages
    keys: torch.Tensor  # (pages, slots of a page, KV heads, head_dim), views of the cache's memory
    values: torch.Tensor
    stride: int  # the cache's rows from one page of the layer to the next


class PagedCodes:
    """Codes beside the pages of a `PagedAttentionCache`, whose layers of full attention attend by a threshold.

    The cache stays what it is, and owns keys and values; it is told what to do by its `update`, and by `copy_blocks` of
    its allocators, which are the two ways by which keys come to slots.

    Parameters
    ----------
    cache : PagedAttentionCache
        On the CPU, and empty.
    how : Threshold
        How keys are chosen.
    forced : tuple of int
        So many of the last, and of the first, keys of a request are attended whatever their scores.
    threads : int or None
        Threads of a call.
    """

    def __init__(self, cache: Any, how: Threshold, forced: tuple[int, int], threads: int | None) -> None:
        self._cache, self._update = cache, cache.update
        self.how, self.forced = how, forced
        format = str(cache.dtype).removeprefix("torch.")
        self._layers: dict[int, _Layer] = {}
        for allocator in cache.cache_allocators.values():
            if allocator.layer_type != FULL:
                continue
            heads, dim, size = allocator.num_key_value_heads, allocator.head_dim, allocator.tokens_per_page
            self.given = Given.of(heads, dim, None, "cpu", format, False, threads)
            self.desk = Desk(self.given, FORMATS[format][1])
            stride = allocator.block_physical_stride
            for layer in allocator.layer_indices:
                keys, values = (part[:: stride // size] for part in allocator.get_cache_for_block_table(layer))
                pages = Pages(self.given, _bits(keys, format), _bits(values, format))
                self._layers[layer] = _Layer(pages, keys, values, stride)
            allocator.copy_blocks = self._copying(allocator.copy_blocks, allocator.layer_indices)
        cache.update = self.update

    def _copying(self, copy_blocks: Any, layers: list[int]) -> Any:
        """Return what copies whole pages, and their codes with them."""

        def copy(source_block_ids: list[int], dest_block_ids: list[int]) -> None:
            copy_blocks(source_block_ids, dest_block_ids)
            for layer in layers:
                self._layers[layer].pages.copy(np.array(source_block_ids), np.array(dest_block_ids))

        return copy

    @torch.compiler.disable
    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, kwargs: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take new keys and values (1, KV heads, tokens, head_dim) of a layer, and return what leads to its `Batch`.

        kwargs : what the model passes to attention functions
        """
        allocator = self._cache.layer_to_allocator[layer_idx]
        layer, lengths = self._layers.get(layer_idx), kwargs["cu_seq_lens_k"][allocator.layer_type].numpy()
        read, written = (kwargs[name][allocator.index].numpy() for name in ("read_index", "write_index"))
        if layer is None:
            keys, values = self._update(key_states, value_states, layer_idx, kwargs)
        else:
            if value_states.shape != key_states.shape:
                raise NotImplementedError("halfspace attention serves values shaped as keys")
            if not (bool(torch.isfinite(key_states).all()) and bool(torch.isfinite(value_states).all())):
                raise ValueError(f"keys or values of layer {layer_idx} have a number that is NaN or infinite")
            none = [index[:0] for index in kwargs["read_index"]]  # nothing is read back: it is written only
            keys, values = self._update(key_states, value_states, layer_idx, {**kwargs, "read_index": none})
            layer.pages.write(written // layer.stride * layer.keys.shape[1] + written % layer.stride)
        setattr(keys, BATCH, Batch(self, layer, kwargs["cu_seq_lens_q"].numpy(), lengths, read))
        return keys, values


@dataclass(frozen=True, eq=False)
class Batch:
    """A step of one layer: which queries are whose, and which keys."""

    codes: PagedCodes
    layer: _Layer | None  # None where the cache has read all keys, one request after another
    queries: npt.NDArray[np.int32]  # (requests + 1,): where the queries of each begin
    lengths: npt.NDArray[np.int32]  # (requests + 1,): where the keys of each begin, among all that are read
    read: npt.NDArray[np.int64]  # where these lie in the cache; none where requests have no keys but the new ones

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        logits: Logits,
        window: int | None,
    ) -> torch.Tensor:
        """Attend for each request: by the threshold for one token, densely for more.

        query : (1, query heads, tokens, head_dim); key, value : what `PagedCodes.update` returned
        Returns (1, tokens, query heads, head_dim).
        """
        output = query.new_zeros(1, query.shape[2], *query.shape[1::2])
        for first, last, begin, end in zip(
            self.queries[:-1], self.queries[1:], self.lengths[:-1], self.lengths[1:], strict=True
        ):
            if first == last:
                continue
            own = query[:, :, first:last]
            layer, rows = self.layer, self.read[begin:end]
            if layer is not None and rows.size and last - first == 1:
                output[:, first] = self._by_threshold(layer, rows, own[:, :, 0], logits)
                continue
            keys, values = key[:, :, begin:end], value[:, :, begin:end]
            if layer is not None and rows.size:
                at = torch.from_numpy(rows // layer.stride), torch.from_numpy(rows % layer.stride)
                keys, values = (part[at].transpose(0, 1)[None] for part in (layer.keys, layer.values))
            mask = _mask(own.shape[2], keys.shape[2], window)
            output[:, first:last] = attend_densely(module, own, keys, values, mask, logits, 0.0, True)
        return output

    def _by_threshold(
        self, layer: _Layer, rows: npt.NDArray[np.int64], query: torch.Tensor, logits: Logits
    ) -> torch.Tensor:
        """Attend for the last token of a request whose keys lie in these rows of the cache; (1, query heads, d)."""
        codes = self.codes
        given = replace(codes.given, query_heads=query.shape[1])
        asked = given.backend.asarray(query.detach(), "q")
        cache = layer.pages.lay(codes.desk, rows[:: layer.keys.shape[1]] // layer.stride, rows.size)
        how = as_scale(logits.scale, given.dim), as_cap(logits.cap)
        found, _, _ = attended(codes.how, given, cache, given.queries(asked, 1), how, codes.forced)
        sinks = as_sink_logits(None if logits.sinks is None else logits.sinks.detach().float(), given.query_heads)
        bits, _ = with_sinks(found.output, found.log_sum_exp, sinks)
        answer: torch.Tensor = given_back(as_numbers(bits).reshape(asked.shape).astype(asked.dtype, copy=False), query)
        return answer


def _mask(tokens: int, keys: int, window: int | None) -> torch.Tensor | None:
    """Return which keys (1, 1, tokens, keys) the last tokens may attend to; None where these are all up to their own.

    Where a layer has a window, keys are those of the window before the first of the tokens, and their own.
    """
    if window is None and tokens == keys:
        return None
    mask = torch.ones(tokens, keys, dtype=torch.bool).tril(keys - tokens)
    return (mask if window is None else mask.triu(keys - tokens - window + 1))[None, None]


def _bits(tensor: torch.Tensor, format: str) -> np.ndarray:
    """View a tensor of the host as an array of the bits of its format."""
    numbers = tensor.view(torch.int16) if tensor.element_size() == 2 else tensor
    found: np.ndarray = numbers.numpy().view(FORMATS[format][1])
    return found
