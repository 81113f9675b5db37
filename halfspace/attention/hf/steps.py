"""Steps of a model over its layers: one that does not reach the last layer leaves the cache as it was.

A model hands keys and values to its cache layer by layer. Whatever stops it between the first layer and the last, a
refusal, an error of its own, an interrupt, shows when the next step begins: then every layer that was touched is put
back.
"""

from collections.abc import Callable
from typing import Any

import torch

from halfspace.attention.hf.masks import Masks

__all__ = ["DENSE_ABOVE", "Steps"]

DENSE_ABOVE = 64
"""A later step of more tokens than this goes on with the prefill, and is dense like it, unless a caller says else."""


class Steps:
    """What the layers of a cache share: the step that is under way, how it is to be taken, and its masks.

    Parameters
    ----------
    dense_above : int
        Steps of more tokens are dense.

    Attributes
    ----------
    prefilling : bool
        Whether all steps are dense, whatever their size.
    """

    def __init__(self, dense_above: int) -> None:
        self.dense_above = dense_above
        self.prefilling = False
        self.masks = Masks()
        self._layers: list[Any] = []
        self._last = 0  # the last layer that keeps anything
        self._touched: set[tuple[int, str]] = set()
        self._before: dict[int, tuple[int, Callable[[], None]]] = {}  # positions of a layer, and how it is put back

    def over(self, layers: list[Any]) -> None:
        """Look after these layers."""
        self._layers = layers
        self._last = max(k for k, layer in enumerate(layers) if type(layer).__name__ != "DummyLayer")

    def touch(self, number: int, part: str) -> None:
        """Note that a layer is about to change; `part` names which of its states, each of which does once a step.

        Raises
        ------
        RuntimeError
            If keys of a layer before it never came to halfspace attention.
        """
        if self._touched and (number < self._reached() or (number, part) in self._touched):
            self.begin()
        for other in self._before:
            if other < number and getattr(self._layers[other], "is_ignored", False):
                self.undo()
                raise _ignored()
        self._remember_states()
        self._remember(number)
        self._touched.add((number, part))

    def begin(self) -> None:
        """End the last step, as a new one begins; raises as `touch` does."""
        ignored = any(getattr(self._layers[number], "is_ignored", False) for number in self._before)
        self.settle()
        if ignored:
            raise _ignored()
        self._remember_states()

    def _remember_states(self) -> None:
        """Remember all states of linear attention as a step begins: kernels write into them unseen."""
        if not self._before:
            for number, layer in enumerate(self._layers):
                if hasattr(layer, "conv_states"):
                    self._remember(number)

    def _remember(self, number: int) -> None:
        if number not in self._before:
            layer = self._layers[number]
            positions = layer.get_seq_length() if hasattr(layer, "get_seq_length") else 0
            self._before[number] = positions, _remembered(layer)

    def _reached(self) -> int:
        """Return the last layer that was touched, -1 where none was."""
        return max((number for number, _ in self._touched), default=-1)

    def settle(self) -> None:
        """Keep what the last step did if it came through, else undo it."""
        if self._is_whole():
            self._touched.clear()
            self._before.clear()
        else:
            self.undo()

    def undo(self) -> None:
        """Put back every layer that this step has touched."""
        for _, put_back in self._before.values():
            put_back()
        self.masks.forget()
        self._touched.clear()
        self._before.clear()

    def positions(self, number: int) -> int | None:
        """Return how many positions a layer had before a step that has not come through; None where there is none."""
        return None if number not in self._before or self._is_whole() else self._before[number][0]

    def _is_whole(self) -> bool:
        last = self._layers[self._last]
        if self._reached() != self._last or getattr(last, "is_waiting", False):
            return not self._before
        states = getattr(last, "is_recurrent_states_initialized", {})
        return all((self._last, f"recurrent {k}") in self._touched for k, made in states.items() if made)


def _ignored() -> RuntimeError:
    return RuntimeError(
        "the last step of this HalfspaceCache did not come through halfspace attention, and was undone: load the model "
        "with attn_implementation='halfspace' after halfspace.attention.hf.register()"
    )


def _remembered(layer: Any) -> Callable[[], None]:
    """Return what puts a layer back to how it is now."""
    if hasattr(layer, "remembered"):
        put_back: Callable[[], None] = layer.remembered()
        return put_back
    # Layers of transformers replace keys and values, but write into states of linear attention, which dicts hold.
    state = {
        name: {key: _copied(part) for key, part in value.items()} if isinstance(value, dict) else value
        for name, value in vars(layer).items()
    }

    def restore() -> None:
        vars(layer).clear()
        vars(layer).update(state)

    return restore


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value
