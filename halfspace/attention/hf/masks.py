"""Padding: what the masks of a model say of it, step by step.

A mask is (batch, 1, queries, keys), True where a query may attend to a key, as `transformers.masking_utils.sdpa_mask`
makes it, or None where every query may attend to all keys up to its own.
"""

import weakref
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["Masks", "Step"]


class Step(NamedTuple):
    """A step as its mask has it: new positions of each sequence, of which some may be padding."""

    valid: torch.Tensor | None  # bool (batch, positions): which hold tokens, all steps so far; None where all do
    fresh: torch.Tensor | None  # bool (batch, rows): which of the new ones do; None where all do
    counts: npt.NDArray[np.int64] | None  # (batch,): how many of the new ones do; None where all do


class _Read(NamedTuple):
    mask: "weakref.ref[torch.Tensor]"
    before: torch.Tensor | None
    past: int
    step: Step


class Masks:
    """Reads masks. Layers that are given the same one share what was read, so that a GPU is waited for once a step."""

    def __init__(self) -> None:
        self._last: _Read | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_last": None}  # masks are of a model at work, not of a copy or a file

    def forget(self) -> None:
        """Read the next mask, even if it is the last one."""
        self._last = None

    def read(self, mask: torch.Tensor | None, before: torch.Tensor | None, past: int, rows: int, batch: int) -> Step:
        """Return what a mask says of `rows` new positions, after `past` ones of which those in `before` hold tokens.

        Where nothing is past, a mask may say what it will, as it is obeyed as it is: what its last row allows holds
        tokens. Later ones must be causal and allow all that holds tokens.

        Raises
        ------
        NotImplementedError
            If the mask asks for anything else.
        """
        if mask is None:
            if before is not None:
                raise NotImplementedError("earlier steps were padded, so halfspace attention needs the attention mask")
            return Step(None, None, None)
        if mask.dtype != torch.bool or mask.ndim != 4 or mask.shape[1] != 1:
            raise NotImplementedError(
                "halfspace attention serves boolean masks (batch, 1, queries, keys), which are causal but for padding; "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
        if mask.shape[0] not in (1, batch) or mask.shape[2:] != (rows, past + rows):
            raise NotImplementedError(
                f"halfspace attention needs a mask ({batch}, 1, {rows}, {past + rows}), got {tuple(mask.shape)}"
            )
        last = self._last
        if last is not None and last.mask() is mask and last.before is before and last.past == past:
            return last.step
        step = _read(mask[:, 0].expand(batch, -1, -1), before, past)
        self._last = _Read(weakref.ref(mask), before, past, step)
        return step


def _read(allowed: torch.Tensor, before: torch.Tensor | None, past: int) -> Step:
    batch, rows, _ = allowed.shape
    fresh = allowed[:, -1, past:]
    old = fresh.new_ones(batch, past) if before is None else before
    valid = torch.cat([old, fresh], -1)
    agrees = valid.new_ones(())
    if past:
        agrees = (allowed == (valid[:, None] & torch.ones_like(allowed[0]).tril(past))).all()
    found: list[Any] = torch.cat([torch.stack([agrees, valid.all()]).long(), fresh.sum(-1)]).tolist()  # waits once
    if not found[0]:
        raise NotImplementedError(
            "halfspace attention serves masks that are causal but for padding, and this one is not, or contradicts "
            "those of earlier steps"
        )
    if found[1]:
        return Step(None, None, None)
    counts = np.array(found[2:], np.int64)
    return Step(valid, None, None) if counts.min() == rows else Step(valid, fresh, counts)
