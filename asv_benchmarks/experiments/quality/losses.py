"""What a method's attention costs: held-out loss, and the next token when one key is missed."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as functional

from asv_benchmarks.experiments.quality import methods
from asv_benchmarks.experiments.quality.decoding import Decoded, Lab, Method, Steps, by_group

EPS = (1e-1, 1e-2, 1e-3, 1e-4)
SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
ESTIMATORS = ("budget", "max", "gap")
RANKS = (1, 2, 4, 8, 32, 128)
DRAWN = 32
"""Keys of which the lightest is the one that does not matter."""


def contenders(lab: Lab, part: str) -> Iterator[tuple[dict[str, Any], Callable[[], Method]]]:
    """Yield rows (what is asked of a method) and how to make that method."""
    if part == "baselines":
        yield {"method": "dense"}, methods.dense
        for share in SHARES:
            yield {"method": "top-k", "share": share}, lambda f=share: methods.best(f)
            yield {"method": "StreamingLLM", "share": share}, lambda f=share: methods.streaming(f)
            yield {"method": "H2O", "share": share}, lambda f=share: methods.heavy(f)
            yield {"method": "Quest", "share": share}, lambda f=share: methods.pages(f)
    elif part == "graph":
        for share in SHARES:
            yield {"method": "HNSW", "share": share}, lambda f=share: methods.Graph(lab, f)
    elif part == "certified":
        for eps in EPS:
            yield {"method": "halfspace, eps", "eps": eps}, lambda e=eps: methods.ours(lab, eps=e)
    elif part == "oracle":
        for share in SHARES:
            yield {"method": "halfspace, tau", "share": share}, lambda f=share: methods.ours(lab, f)
    elif part == "estimates":
        for share in SHARES:
            for name in ESTIMATORS:
                yield (
                    {"method": f"halfspace, keep ({name})", "share": share},
                    lambda f=share, n=name: methods.ours(lab, keep=f, estimator=n),
                )


def losses(lab: Lab, decoded: Decoded) -> torch.Tensor:
    """Loss of each step in nats: float32 (steps,)."""
    return functional.cross_entropy(decoded.logits, lab.labels, reduction="none")


def divergence(plain: Decoded, other: Decoded) -> torch.Tensor:
    """Kullback-Leibler divergence of each step's next token from dense attention's, in nats: (steps,)."""
    a, b = plain.logits.double().log_softmax(-1), other.logits.double().log_softmax(-1)
    return (a.exp() * (a - b)).sum(-1)


def compare(lab: Lab, plain: Decoded, other: Decoded) -> dict[str, torch.Tensor]:
    """Figures of each step, (steps,): the loss, what it has more than dense attention's, and what else differs."""
    own = losses(lab, other)
    return {
        "loss": own,
        "more": own - losses(lab, plain),
        "divergence": divergence(plain, other),
        "top changed": (plain.logits.argmax(-1) != other.logits.argmax(-1)).float(),
    }


def missing(lab: Lab, rank: int | None, layers: list[int], one: bool, seed: int = 0) -> Method:
    """Hide one key from each head (of `one` drawn at random for each step) of some layers; steps do not meet.

    Earlier steps are as dense attention left them, so that each step is an experiment of its own.

    Parameters
    ----------
    rank : int or None
        1 hides the key of the largest weight; None the lightest of some that are drawn at random.
    """
    generator = torch.Generator().manual_seed(seed)

    def method(steps: Steps) -> tuple[torch.Tensor, torch.Tensor]:
        before, first = lab.shared["dense", steps.layer], steps.first
        frozen = Steps(steps.layer, steps.queries, before.keys, before.values, steps.scale, steps.mass)
        outputs, counts = [], []
        for begin, end in steps.blocks():
            scores = frozen.scores(begin, end)
            diagonal = (torch.arange(end - begin), torch.arange(first + begin, first + end))
            heads = len(scores)
            own_keys, own_values = (
                steps.keys[:, first + begin : first + end],
                steps.values[:, first + begin : first + end],
            )
            own = (steps.queries[:, begin:end].unflatten(0, (len(own_keys), -1)) * own_keys[:, None]).sum(-1)
            scores[:, *diagonal] = own.flatten(0, 1) * steps.scale
            if steps.layer in layers:
                if rank is None:
                    drawn = torch.randint(first + begin, (heads, end - begin, DRAWN), generator=generator)
                    hidden = drawn.gather(2, scores.gather(2, drawn).argmin(-1, keepdim=True))
                else:
                    hidden = scores.topk(rank).indices[..., rank - 1 :]
                loss = torch.full(hidden.shape, -torch.inf)
                if one:
                    chosen = torch.randint(heads, (end - begin,), generator=generator)
                    loss[torch.arange(heads)[:, None] != chosen] = 0
                scores.scatter_add_(2, hidden, loss)
            weights = scores.softmax(-1)
            output = by_group(weights, before.values[:, : scores.shape[2]])
            change = own_values - before.values[:, first + begin : first + end]
            output += weights[:, *diagonal][..., None] * change.repeat_interleave(heads // len(change), 0)
            outputs.append(output)
            counts.append((weights > 0).sum(-1))
        return torch.cat(outputs, 1), torch.cat(counts, 1)

    return method


def remembered(lab: Lab) -> Method:
    """Dense attention, whose queries, keys and values stay in the lab."""
    plain = methods.dense()

    def method(steps: Steps) -> tuple[torch.Tensor, torch.Tensor]:
        lab.shared["dense", steps.layer] = steps
        return plain(steps)

    return method


def questions(lab: Lab) -> Iterator[tuple[dict[str, Any], Method]]:
    """Yield rows of the missed-key experiment, and their methods."""
    everywhere = list(range(lab.layers))
    for rank in (*RANKS, None):
        name = rank or f"lightest of {DRAWN}"
        yield {"rank": name, "where": "all heads"}, missing(lab, rank, everywhere, False)
        for layer in everywhere:
            yield {"rank": name, "where": "one layer", "layer": layer}, missing(lab, rank, [layer], False)
            yield {"rank": name, "where": "one head", "layer": layer}, missing(lab, rank, [layer], True)
