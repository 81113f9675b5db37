"""A language model whose attention at decode steps can be exchanged.

The tokens of a teacher-forced decode are known beforehand, so all steps go through the model in one call: every layer
gets the queries of all steps at once, each step sees the keys up to its own, and a method that chooses keys by what
has been attended before goes through the steps in order. Keys and values of later steps come from hidden states that
the method has shaped, as in a decode token by token.
"""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from transformers import AttentionInterface, DynamicCache, LlamaForCausalLM
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

CACHE = "cache" if "cache" in signature(LlamaForCausalLM.forward).parameters else "past_key_values"
"""What models call the argument: `cache` since transformers 5.24."""
BLOCK = 64
"""Steps whose scores are in memory at once."""


@dataclass
class Steps:
    """What one layer is asked in a decode; arrays are float32 tensors."""

    layer: int
    queries: torch.Tensor  # (query_heads, steps, d)
    keys: torch.Tensor  # (kv_heads, first + steps, d)
    values: torch.Tensor  # as the keys
    scale: float
    mass: torch.Tensor  # (query_heads, first): attention that the keys of the prefill have had so far

    @property
    def first(self) -> int:
        """Number of keys before the first step's own."""
        return self.keys.shape[1] - self.queries.shape[1]

    def scores(self, begin: int, end: int) -> torch.Tensor:
        """Logits (query_heads, end - begin, keys up to the last step's own); -inf for keys of later steps."""
        seen = self.first + end
        scores = by_group(self.queries[:, begin:end], self.keys[:, :seen].transpose(1, 2)) * self.scale
        future = torch.arange(seen) > torch.arange(self.first + begin, seen)[:, None]
        return scores.masked_fill_(future, -torch.inf)

    def blocks(self) -> list[tuple[int, int]]:
        """Ranges of steps, as many in each as memory is spent on."""
        steps = self.queries.shape[1]
        return [(k, min(k + BLOCK, steps)) for k in range(0, steps, BLOCK)]


Method = Callable[[Steps], tuple[torch.Tensor, torch.Tensor]]
"""Returns the output (query_heads, steps, d) and how many keys were kept, int64 (query_heads, steps)."""


@dataclass
class Decoded:
    """What came out of a decode."""

    logits: torch.Tensor  # float32 (steps, vocabulary)
    kept: torch.Tensor | None  # float64 (layers, query_heads, steps): share of the keys that could be seen, if counted


class Lab:
    """A model at the end of a prefill, from which decodes start.

    Parameters
    ----------
    model
        A `transformers` model for causal language modelling.
    tokens : torch.Tensor
        int64 (n,)
    context, steps : int
        Tokens of a prefill, and those decoded after it.
    """

    def __init__(self, model: Any, tokens: torch.Tensor, context: int, steps: int) -> None:
        self.model, self.tokens, self.context, self.steps = model, tokens, context, steps
        self.layers = model.config.num_hidden_layers
        self._method: Method | None = None
        AttentionInterface.register("quality", self._attention)
        AttentionMaskInterface.register("quality", sdpa_mask)
        model.set_attn_implementation("quality")

    @torch.inference_mode()
    def prefill(self, start: int) -> None:
        """Read `context` tokens from `start` on, densely, and forget what was read before."""
        text = self.tokens[start : start + self.context + self.steps + 1]
        if len(text) <= self.context + self.steps:
            raise ValueError(f"{len(self.tokens)} tokens are too few for a window that begins at {start}")
        self.prompt, self.text, self.labels = text[: self.context], text[self.context : -1], text[self.context + 1 :]
        self.cache: Any = DynamicCache(config=self.model.config)
        self.mass: list[torch.Tensor] = []
        self.kept: list[torch.Tensor] = []
        self.shared: dict[Any, Any] = {}  # what methods have made of this prefill's keys
        self._method = None
        self.model(self.prompt[None], **{CACHE: self.cache}, use_cache=True, logits_to_keep=1)

    def write(self, tokens: list[int]) -> None:
        """Decode these tokens from now on, after what was read."""
        self.text, self.steps = torch.tensor(tokens), len(tokens)

    @torch.inference_mode()
    def decode(self, method: Method) -> Decoded:
        """Decode with a method's attention, and set the cache back to the end of the prefill."""
        self._method, self.kept = method, []
        logits = self.model(self.text[None], **{CACHE: self.cache}, use_cache=True).logits[0].float()
        self.cache.crop(-self.steps)
        seen = torch.arange(self.context + 1, self.context + self.steps + 1)
        return Decoded(logits, torch.stack(self.kept).double() / seen)

    def _attention(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any
    ) -> tuple[torch.Tensor, None]:
        q, k, v = query[0].float(), key[0].float(), value[0].float()
        scale = options.get("scaling") or q.shape[-1] ** -0.5
        if self._method is None:
            none = torch.zeros(len(q), 0)
            output, mass = accumulate(Steps(module.layer_idx, q, k, v, scale, none))
            self.mass.append(mass)
        else:
            steps = Steps(module.layer_idx, q, k, v, scale, self.mass[module.layer_idx])
            output, kept = self._method(steps)
            self.kept.append(kept)
        return output.transpose(0, 1)[None].to(query.dtype).contiguous(), None


def by_group(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Multiply matrices x (query_heads, n, k) by y (kv_heads, k, m), whose heads serve groups of those of x."""
    heads, rows, _ = x.shape
    return (x.reshape(len(y), -1, x.shape[2]) @ y).view(heads, rows, y.shape[2])


def accumulate(steps: Steps) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend to all keys; output, and the sum over steps of each key's weight (query_heads, keys)."""
    mass = torch.zeros(len(steps.queries), steps.keys.shape[1])
    outputs = []
    for begin, end in steps.blocks():
        weights = steps.scores(begin, end).softmax(-1)
        mass[:, : weights.shape[2]] += weights.sum(1)
        outputs.append(by_group(weights, steps.values[:, : weights.shape[2]]))
    return torch.cat(outputs, 1), mass
